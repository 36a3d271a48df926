/**
 * A pack: two models by role, and everything the loop has to know to talk to them. Read and checked as a whole; afterwards a
 * plain readonly value. The weights are only named here.
 */
import { createHash } from 'node:crypto';
import { readFile, realpath } from 'node:fs/promises';
import { basename, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { RE2JS } from 're2js';
import { StvError } from '../errors.ts';
import { BoundedTemplate } from '../template.ts';
import {
  type CalibrationFields,
  complaintsAbout,
  type PackFile,
  type PromptFields,
  type RoleFields,
  type SamplingFields,
} from './pack-format.ts';
import { parseSource, type Source } from './source.ts';

type WeightsFormat = 'int8' | 'int4' | 'fp32';

export interface PackRole {
  readonly source: Source;
  /** What `pull`, or of a local path `digestCheckpoint`, must find: `sha256:…` of the file, or over the names and hashes of a folder's files. */
  readonly hash?: string | undefined;
  /** Of the pack that the role came from, where it is not this one. */
  readonly packName?: string;
  /** Absent: the server's default. */
  readonly weights?: WeightsFormat;
  /** How keys and values are cached; absent: the server's default. */
  readonly kv?: 'auto' | 'fp32' | 'int8';
  /** Most tokens of a sequence, as far as the checkpoint holds them; absent: the server's default. */
  readonly context?: number;
  /** Given to the checkpoint's chat template, e.g. `enable_thinking`. */
  readonly templateVariables: Readonly<Record<string, unknown>>;
  /** How to speak to a remote source; undefined fields are left to the server's defaults. */
  readonly remote?: PackRemote;
}

/** Times in milliseconds. */
export interface PackRemote {
  readonly apiKeyEnv: string | undefined;
  readonly dialect: 'auto' | 'vllm' | 'llama.cpp' | 'openai' | undefined;
  readonly maxConcurrent: number | undefined;
  readonly maxQueued: number | undefined;
  readonly maxRetries: number | undefined;
  readonly connectMs: number | undefined;
  readonly firstEventMs: number | undefined;
  readonly stallMs: number | undefined;
}

interface PackMessage {
  readonly role: 'system' | 'user' | 'assistant';
  /** Jinja source. */
  readonly template: string;
}

interface PackPrompt {
  readonly messages: readonly PackMessage[];
  /** Written at the head of the model's answer. */
  readonly assistantPrefix?: string;
}

interface PackPrompts {
  /** Variables: `problem`. */
  readonly attempt: PackPrompt;
  /** Variables: `problem`, `attempt`, `feedback`, `verdict`. */
  readonly refine: PackPrompt;
  /** Variables: `problem`, `solution`. */
  readonly verify: PackPrompt;
  /** Variables: `problem`, `solution`, `reference`. */
  readonly verifyWithReference?: PackPrompt;
}

interface PackFeedback {
  readonly open: string;
  readonly close: string;
  readonly stop: readonly string[];
}

interface PackVerdict {
  readonly open: string;
  readonly close: string;
  readonly words: { readonly accept: string; readonly reject: string; readonly undetermined?: string };
  /** Probability that the words must hold together, 0..1. */
  readonly minMass: number;
}

type PackAnswer =
  | { readonly kind: 'boxed' }
  | { readonly kind: 'last_line' }
  /** RE2 syntax. */
  | { readonly kind: 'pattern'; readonly pattern: string };

/** From P(accept) as read to P(accept) as reported; `platt`: sigmoid(slope * logit(p) + intercept). */
type PackCalibration =
  | { readonly kind: 'none' }
  | { readonly kind: 'temperature'; readonly temperature: number }
  | { readonly kind: 'platt'; readonly slope: number; readonly intercept: number }
  | { readonly kind: 'isotonic'; readonly points: readonly (readonly [number, number])[] };

interface PackDefaults {
  readonly sampling: {
    readonly temperature: number;
    readonly topK: number;
    readonly topP: number;
    readonly minP: number;
    readonly presencePenalty: number;
    readonly frequencyPenalty: number;
    readonly repetitionPenalty: number;
  };
  readonly maxTokens: number;
}

export interface Pack {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  readonly description?: string;
  /** Folder it was read from. */
  readonly path: string;
  /** `sha256:…` over pack.json and its prompts: what the pack says, not the weights it names. */
  readonly digest: string;
  readonly roles: { readonly generator: PackRole; readonly verifier: PackRole };
  readonly prompts: PackPrompts;
  readonly feedback: PackFeedback;
  readonly verdict: PackVerdict;
  readonly answer: PackAnswer;
  readonly calibration: PackCalibration;
  readonly defaults: { readonly generator: PackDefaults; readonly verifier: PackDefaults };
  readonly reasoning?: { readonly open: string; readonly close: string; readonly isOpened: boolean };
}

const PACK_JSON = 'pack.json';
const DEFAULT_MIN_MASS = 0.5;
const MAX_FILE_BYTES = 1024 * 1024;

/** The folder of the packs that come with the server; the same from `src` and from `dist`. */
export const BUNDLED_PACKS: string = fileURLToPath(new URL('../../packs/', import.meta.url));
const DEFAULT_PROMPTS = join(BUNDLED_PACKS, 'default-prompts');

/** Reads and checks a pack folder. Throws StvError `pack_invalid` with everything that is wrong, file and field named. */
export async function loadPack(folder: string): Promise<Pack> {
  return readPack(folder, undefined);
}

/**
 * A pack around a bare checkpoint: its path (folder or GGUF file) or source takes both roles, with the default prompts.
 * Throws StvError `config_invalid` when the source cannot be read as one.
 */
export async function packFromCheckpoint(source: string, base: string = process.cwd()): Promise<Pack> {
  const parsed = parseSource(source, base);
  const name =
    parsed.kind === 'hf'
      ? parsed.repo
      : parsed.kind === 'pypi'
        ? parsed.package
        : parsed.kind === 'openai'
          ? (parsed.model?.split('/').at(-1) ?? new URL(parsed.url).host)
          : basename(parsed.path).replace(/\.gguf$/iu, '');
  const role: PackRole = { source: parsed, templateVariables: {} };
  const pack = await readPack(DEFAULT_PROMPTS, { source, roles: { generator: role, verifier: role } });
  return { ...pack, name: name.toLowerCase().replace(/[^a-z0-9._-]+/gu, '-') };
}

interface Replacement {
  readonly source: string;
  readonly roles: Pack['roles'];
}

/** With a `replacement`, the roles of pack.json are set aside (a folder of prompts needs none that exist). */
async function readPack(folder: string, replacement: Replacement | undefined): Promise<Pack> {
  const path = join(folder, PACK_JSON);
  const root = await rootOf(folder);
  const text = await readInside(root, PACK_JSON);
  if (text === undefined) throw invalid(`${path} cannot be read: a pack is a folder with a ${PACK_JSON}.`);
  const value = parseJson(text, path);
  const complaints = complaintsAbout(value);
  if (complaints.length > 0) throw invalid(`${path}: ${complaints.join('; ')}.`);
  const file = value as PackFile;

  const problems: string[] = [];
  const hash = createHash('sha256');
  const addToDigest = (name: string, content: string): void => {
    hash.update(`${name.length}:${name}${Buffer.byteLength(content)}:`).update(content);
  };
  addToDigest(PACK_JSON, text);

  const reading: PromptReading = { root, problems, addToDigest };
  const attempt = await readPrompt(file.prompts.generate, 'generate', reading);
  const refine = await readPrompt(file.prompts.refine, 'refine', reading);
  const verify = await readPrompt(file.prompts.verify, 'verify', reading);
  const informed = file.prompts.verify_reference;
  const verifyWithReference = informed && (await readPrompt(informed, 'verify_reference', reading));
  const roles = replacement?.roles ?? (await readRoles(file, reading));
  checkWords(file, problems);
  checkPattern(file, problems);
  checkCalibration(file.calibration, problems);
  if (problems.length > 0 || roles === undefined) throw invalid(`${path}: ${problems.join('; ')}.`);
  if (replacement !== undefined) addToDigest('source', replacement.source);

  return {
    name: file.name,
    version: file.version,
    license: file.license,
    ...(file.description === undefined ? {} : { description: file.description }),
    path: root,
    digest: `sha256:${hash.digest('hex')}`,
    roles,
    prompts: { attempt, refine, verify, ...(verifyWithReference === undefined ? {} : { verifyWithReference }) },
    feedback: file.feedback,
    verdict: {
      open: file.verdict.open,
      close: file.verdict.close,
      words: file.verdict.words,
      minMass: file.verdict.min_mass ?? DEFAULT_MIN_MASS,
    },
    answer: typeof file.answer === 'string' ? { kind: file.answer } : { kind: 'pattern', pattern: file.answer.pattern },
    calibration: calibrationOf(file.calibration),
    defaults: { generator: defaultsOf(file.sampling.generator), verifier: defaultsOf(file.sampling.verifier) },
    ...(file.reasoning === undefined
      ? {}
      : {
          reasoning: {
            open: file.reasoning.open,
            close: file.reasoning.close,
            isOpened: file.reasoning.opened ?? false,
          },
        }),
  };
}

function invalid(message: string, cause?: unknown): StvError {
  return new StvError('pack_invalid', message, cause === undefined ? {} : { cause });
}

async function rootOf(folder: string): Promise<string> {
  try {
    return await realpath(folder);
  } catch (error) {
    throw invalid(`${folder} is not a folder that can be read.`, error);
  }
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw invalid(`${path} is not valid JSON: ${error instanceof Error ? error.message : ''}`, error);
  }
}

/** Where `name` leads from `root`, links followed; undefined when that is outside or not there. */
async function resolveInside(root: string, name: string): Promise<string | undefined> {
  if (name.includes('\0')) return undefined;
  try {
    const target = await realpath(join(root, name));
    const way = relative(root, target);
    return way === '..' || way.startsWith(`..${sep}`) || way.startsWith(sep) ? undefined : target;
  } catch {
    return undefined;
  }
}

async function readInside(root: string, name: string): Promise<string | undefined> {
  const target = await resolveInside(root, name);
  if (target === undefined) return undefined;
  try {
    const content = await readFile(target);
    return content.length > MAX_FILE_BYTES ? undefined : content.toString('utf8');
  } catch {
    return undefined;
  }
}

interface PromptReading {
  readonly root: string;
  readonly problems: string[];
  readonly addToDigest: (name: string, content: string) => void;
}

async function readPrompt(fields: PromptFields, name: string, reading: PromptReading): Promise<PackPrompt> {
  const messages: PackMessage[] = [];
  for (const [index, { role, template }] of fields.messages.entries()) {
    const field = `prompts.${name}.messages[${index}].template`;
    const source = await readInside(reading.root, template);
    if (source === undefined) {
      reading.problems.push(
        `${field} names ${template}, which is not a readable file of at most 1 MiB inside the pack`,
      );
      continue;
    }
    reading.addToDigest(template, source);
    try {
      new BoundedTemplate(source, template);
    } catch (error) {
      reading.problems.push(
        `${field}: ${error instanceof Error ? error.message.replace(/\.$/u, '') : 'not a template'}`,
      );
    }
    messages.push({ role, template: source });
  }
  const prefix = fields.assistant_prefix;
  return { messages, ...(prefix === undefined ? {} : { assistantPrefix: prefix }) };
}

async function readRoles(file: PackFile, reading: PromptReading): Promise<Pack['roles'] | undefined> {
  if (file.roles === undefined) {
    reading.problems.push('roles is missing');
    return undefined;
  }
  const generator = await readRole(file.roles.generator, 'generator', reading);
  const verifier = await readRole(file.roles.verifier, 'verifier', reading);
  return generator === undefined || verifier === undefined ? undefined : { generator, verifier };
}

async function readRole(fields: RoleFields, name: string, reading: PromptReading): Promise<PackRole | undefined> {
  const field = `roles.${name}.source`;
  let source: Source;
  try {
    source = parseSource(fields.source, reading.root);
  } catch (error) {
    reading.problems.push(`${field}: ${error instanceof Error ? error.message.replace(/\.$/u, '') : 'not a source'}`);
    return undefined;
  }
  if (source.kind === 'local') {
    const path = fields.source.startsWith('./') ? await resolveInside(reading.root, fields.source) : undefined;
    if (path === undefined) {
      reading.problems.push(
        `${field} is ${fields.source}; a path must begin with ./ and lead to something inside the pack`,
      );
      return undefined;
    }
    source = { kind: 'local', path };
  }
  const wrong =
    source.kind === 'openai'
      ? (['hash', 'weights', 'kv'] as const).filter((each) => fields[each] !== undefined)
      : (['remote'] as const).filter((each) => fields[each] !== undefined);
  for (const each of wrong) {
    const why = source.kind === 'openai' ? 'is for weights on this machine' : 'needs a source that begins with openai:';
    reading.problems.push(`roles.${name}.${each} ${why}`);
  }
  return {
    source,
    ...(fields.hash === undefined ? {} : { hash: fields.hash }),
    ...(fields.weights === undefined ? {} : { weights: fields.weights }),
    ...(fields.kv === undefined ? {} : { kv: fields.kv }),
    ...(fields.context === undefined ? {} : { context: fields.context }),
    templateVariables: fields.template_variables ?? {},
    ...(fields.remote === undefined ? {} : { remote: remoteOf(fields.remote) }),
  };
}

function remoteOf(fields: NonNullable<RoleFields['remote']>): PackRemote {
  return {
    apiKeyEnv: fields.api_key_env,
    dialect: fields.dialect,
    maxConcurrent: fields.max_concurrent,
    maxQueued: fields.max_queued,
    maxRetries: fields.max_retries,
    connectMs: fields.connect_ms,
    firstEventMs: fields.first_event_ms,
    stallMs: fields.stall_ms,
  };
}

function checkWords(file: PackFile, problems: string[]): void {
  const words = Object.values(file.verdict.words);
  if (new Set(words).size !== words.length) problems.push('verdict.words holds the same word twice');
  for (const word of words) {
    if (words.some((other) => other !== word && other.startsWith(word))) {
      problems.push(`verdict.words: ${JSON.stringify(word)} is the beginning of another word`);
    }
  }
}

function checkPattern(file: PackFile, problems: string[]): void {
  if (typeof file.answer === 'string') return;
  try {
    RE2JS.compile(file.answer.pattern);
  } catch (error) {
    problems.push(
      `answer.pattern is not a regular expression in RE2 syntax: ${error instanceof Error ? error.message : ''}`,
    );
  }
}

function checkCalibration(fields: CalibrationFields, problems: string[]): void {
  if (fields === null || !('points' in fields)) return;
  const rises = fields.points.every(([x, y], index) => {
    const before = fields.points[index - 1];
    return before === undefined || (x > before[0] && y >= before[1]);
  });
  if (!rises) problems.push('calibration.points must ascend in x and not descend in y');
}

function calibrationOf(fields: CalibrationFields): PackCalibration {
  if (fields === null) return { kind: 'none' };
  if ('points' in fields) return { kind: 'isotonic', points: fields.points };
  if (fields.bias === undefined || fields.bias === 0) return { kind: 'temperature', temperature: fields.temperature };
  return { kind: 'platt', slope: 1 / fields.temperature, intercept: fields.bias };
}

function defaultsOf(fields: SamplingFields): PackDefaults {
  return {
    sampling: {
      temperature: fields.temperature ?? 1,
      topK: fields.top_k ?? 0,
      topP: fields.top_p ?? 1,
      minP: fields.min_p ?? 0,
      presencePenalty: fields.presence_penalty ?? 0,
      frequencyPenalty: fields.frequency_penalty ?? 0,
      repetitionPenalty: fields.repetition_penalty ?? 1,
    },
    maxTokens: fields.max_tokens ?? 1_024,
  };
}
