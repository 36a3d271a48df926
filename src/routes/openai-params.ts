/** From OpenAI bodies to engine requests: what is refused, what is ignored, which defaults hold. snake_case ends here. */
import type { ChatMessage, Engine, ModelInfo, Prompt, SamplingParams } from '../engine/engine.ts';
import { DEFAULT_SAMPLING } from '../engine/sampling-params.ts';
import { StvError } from '../errors.ts';
import type { LoopPack } from '../stv/loop-pack.ts';
import type { ChatBody, CompletionBody } from './schemas-openai.ts';

/** Clients spell "not given" as null; after this it is simply absent. */
export function dropNulls(body: unknown): void {
  if (typeof body !== 'object' || body === null) return;
  const fields = body as Record<string, unknown>;
  for (const [name, value] of Object.entries(fields)) if (value === null) delete fields[name];
}

export type Harmless = (value: unknown) => boolean;
export const isEmptyList: Harmless = (value) => Array.isArray(value) && value.length === 0;

/** Fields that would change the output, with the values at which they do not. */
const unsupported: Readonly<Record<string, Harmless>> = {
  tools: isEmptyList,
  functions: isEmptyList,
  tool_choice: (value) => value === 'none' || value === 'auto',
  function_call: (value) => value === 'none' || value === 'auto',
  response_format: (value) => (value as { readonly type?: unknown }).type === 'text',
  best_of: (value) => value === 1,
  suffix: (value) => value === '',
  audio: () => false,
  modalities: (value) => Array.isArray(value) && value.every((kind) => kind === 'text'),
  web_search_options: () => false,
  guided_json: () => false,
  guided_regex: () => false,
  guided_grammar: () => false,
  guided_choice: () => false,
};

/** Throws `unsupported_parameter` for the first field that this server cannot honour. */
export function refuseUnsupported(body: object, table: Readonly<Record<string, Harmless>> = unsupported): void {
  const fields = body as Readonly<Record<string, unknown>>;
  for (const [name, isHarmless] of Object.entries(table)) {
    const value = fields[name];
    if (value === undefined || isHarmless(value)) continue;
    throw unsupportedParameter(name, `The parameter \`${name}\` is not supported by this server with this value.`);
  }
}

export function unsupportedParameter(param: string, message: string): StvError {
  return new StvError('unsupported_parameter', message, { param });
}

/** The loaded model that a name or alias means; throws `model_not_found` with what else could be named: `others` beside the loaded. */
export function findModel(engine: Engine, name: string, others: readonly string[] = ['solve']): ModelInfo {
  const found = engine.models().find((model) => model.name === name || model.aliases.includes(name));
  if (found !== undefined) return found;
  const known = [...others, ...engine.models().flatMap((model) => [...model.aliases, model.name])];
  throw new StvError('model_not_found', `There is no model of the given name; there are ${known.join(', ')}.`, {
    param: 'model',
  });
}

interface WireGeneration {
  readonly temperature?: number | undefined;
  readonly top_p?: number | undefined;
  readonly top_k?: number | undefined;
  readonly min_p?: number | undefined;
  readonly presence_penalty?: number | undefined;
  readonly frequency_penalty?: number | undefined;
  readonly repetition_penalty?: number | undefined;
  readonly logit_bias?: Readonly<Record<string, number>> | undefined;
}

/** Of the role that the request's name of the model says; where that is a full name, of the model's first role. */
function roleDefaults(name: string, { aliases }: ModelInfo, pack: LoopPack) {
  const isRole = (role: string): boolean => aliases.includes(role);
  const named = aliases.includes(name) ? name.split('/').at(-1) : undefined;
  if (isRole('verifier') && (named === 'verifier' || !isRole('generator'))) return pack.defaults.verifier;
  return isRole('generator') ? pack.defaults.generator : undefined;
}

/** Sampling of a chat: the pack's defaults of the role. Completions are raw text, so they begin from neutral values. */
export function samplingParams(
  wire: WireGeneration,
  seed: number,
  base: Omit<SamplingParams, 'seed' | 'logitBias'> = DEFAULT_SAMPLING,
): SamplingParams {
  return {
    temperature: wire.temperature ?? base.temperature,
    topP: wire.top_p ?? base.topP,
    topK: wire.top_k ?? base.topK,
    minP: wire.min_p ?? base.minP,
    presencePenalty: wire.presence_penalty ?? base.presencePenalty,
    frequencyPenalty: wire.frequency_penalty ?? base.frequencyPenalty,
    repetitionPenalty: wire.repetition_penalty ?? base.repetitionPenalty,
    seed,
    ...(wire.logit_bias === undefined
      ? {}
      : { logitBias: new Map(Object.entries(wire.logit_bias).map(([token, bias]) => [Number(token), bias])) }),
  };
}

/** A body that names its model. */
interface Named {
  readonly model: string;
}

export function chatSampling(
  body: WireGeneration & Named,
  seed: number,
  model: ModelInfo,
  pack: LoopPack,
): SamplingParams {
  return samplingParams(body, seed, roleDefaults(body.model, model, pack)?.sampling);
}

/** `max_completion_tokens` is the newer name and wins. */
export function chatMaxTokens(
  body: Named & { readonly max_tokens?: number | undefined; readonly max_completion_tokens?: number | undefined },
  model: ModelInfo,
  pack: LoopPack,
): number {
  return body.max_completion_tokens ?? body.max_tokens ?? roleDefaults(body.model, model, pack)?.maxTokens ?? 1024;
}

export function stopStrings(stop: string | readonly string[] | undefined): readonly string[] {
  if (stop === undefined) return [];
  return typeof stop === 'string' ? [stop] : stop;
}

/** Seeds of choices follow one another, so that `n` choices of one seed differ and can be repeated. */
export function seedOf(given: number | undefined, choice: number, draw: () => number): number {
  const base = given === undefined ? draw() : ((given % 2 ** 32) + 2 ** 32) % 2 ** 32;
  return (base + choice) % 2 ** 32;
}

export function chatMessages(body: ChatBody): ChatMessage[] {
  return body.messages.map((message, index) => {
    if (message.role === 'tool' || message.role === 'function') {
      throw unsupportedParameter(`messages.${index}.role`, 'Messages of tools and functions are not supported.');
    }
    // `developer` is the newer name of the system role
    const role = message.role === 'developer' ? 'system' : message.role;
    return { role, content: partsText(message.content, `messages.${index}.content`) };
  });
}

type Content = string | null | undefined | readonly { readonly type: string; readonly text?: string | undefined }[];

/** Text of a content field; throws `unsupported_parameter` for images, audio and files. */
export function partsText(content: Content, path: string): string {
  if (content === null || content === undefined) return '';
  if (typeof content === 'string') return content;
  return content
    .map((part, index) => {
      if (
        (part.type === 'text' || part.type === 'input_text' || part.type === 'output_text') &&
        part.text !== undefined
      ) {
        return part.text;
      }
      throw unsupportedParameter(`${path}.${index}`, 'Only text parts are supported in messages.');
    })
    .join('');
}

/** The prompts of a completion, in order. */
export function completionPrompts(prompt: CompletionBody['prompt']): Prompt[] {
  if (typeof prompt === 'string') return [{ kind: 'text', text: prompt }];
  if (prompt.every((item) => typeof item === 'number')) return [{ kind: 'tokens', tokens: prompt }];
  return (prompt as readonly (string | readonly number[])[]).map((item) =>
    typeof item === 'string' ? { kind: 'text', text: item } : { kind: 'tokens', tokens: item },
  );
}

/** Throws `invalid_value` when choices multiply past the limit. */
export function checkProduct(numPrompts: number, n: number, limit: number): void {
  if (numPrompts * n <= limit) return;
  throw new StvError(
    'invalid_value',
    `Prompts times \`n\` must be at most ${limit}, got ${numPrompts} x ${n} = ${numPrompts * n}.`,
    { param: 'n' },
  );
}
