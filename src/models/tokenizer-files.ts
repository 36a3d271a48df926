/** What lies beside a checkpoint's weights about its text: read once, checked for shape, not yet understood. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StvError } from '../errors.ts';

export type JsonObject = { readonly [key: string]: unknown };

/** An entry of `added_tokens` in tokenizer.json. */
export interface AddedTokenEntry {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  /** Whitespace before / after the token belongs to it. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

export interface TokenizerFiles {
  /** For messages: the folder, or the GGUF file they were made from. */
  readonly path: string;
  readonly tokenizer: JsonObject;
  readonly tokenizerConfig: JsonObject;
  readonly chatTemplate?: string;
  readonly generationConfig?: JsonObject;
  /** `config.json`: only its token ids are looked at here. */
  readonly modelConfig?: JsonObject;
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw new StvError('checkpoint_invalid', `${path} cannot be read.`, { cause: error });
  }
}

async function readJson(path: string): Promise<JsonObject | undefined> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new StvError('checkpoint_invalid', `${path} is not valid JSON.`, { cause: error });
  }
  if (!isJsonObject(value)) throw new StvError('checkpoint_invalid', `${path} does not hold a JSON object.`);
  return value;
}

/** `chat_template` is a string, or a list of named ones of which `default` is meant. */
function templateOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const named = value.find((entry) => isJsonObject(entry) && entry['name'] === 'default');
  return isJsonObject(named) && typeof named['template'] === 'string' ? named['template'] : undefined;
}

/** Reads the tokenizer files of a folder. Throws StvError `checkpoint_invalid` that names the file. */
export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const [tokenizer, tokenizerConfig, jinja, generationConfig, modelConfig] = await Promise.all([
    readJson(join(folder, 'tokenizer.json')),
    readJson(join(folder, 'tokenizer_config.json')),
    readText(join(folder, 'chat_template.jinja')),
    readJson(join(folder, 'generation_config.json')),
    readJson(join(folder, 'config.json')),
  ]);
  if (tokenizer === undefined) {
    throw new StvError(
      'checkpoint_invalid',
      `${folder} holds no tokenizer.json, without which no text can be encoded.`,
    );
  }
  const chatTemplate = jinja ?? templateOf(tokenizerConfig?.['chat_template']);
  return {
    path: folder,
    tokenizer,
    tokenizerConfig: tokenizerConfig ?? {},
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    ...(generationConfig === undefined ? {} : { generationConfig }),
    ...(modelConfig === undefined ? {} : { modelConfig }),
  };
}

/** The added tokens of a tokenizer.json, checked. */
export function addedTokensOf(files: TokenizerFiles): readonly AddedTokenEntry[] {
  const list = files.tokenizer['added_tokens'] ?? [];
  if (!Array.isArray(list)) {
    throw new StvError('checkpoint_invalid', `${files.path}: added_tokens of tokenizer.json is not a list.`);
  }
  return list.map((entry: unknown, index): AddedTokenEntry => {
    const id = isJsonObject(entry) ? entry['id'] : undefined;
    const content = isJsonObject(entry) ? entry['content'] : undefined;
    if (!isJsonObject(entry) || !Number.isInteger(id) || typeof content !== 'string' || content === '') {
      throw new StvError(
        'checkpoint_invalid',
        `${files.path}: added_tokens[${index}] of tokenizer.json needs an integer id and a non-empty content.`,
      );
    }
    return {
      id: Number(id),
      content,
      special: entry['special'] === true,
      lstrip: entry['lstrip'] === true,
      rstrip: entry['rstrip'] === true,
    };
  });
}
