/**
 * Plain text to token ids, with a tokenizer that has no special tokens: they are taken out of its vocabulary and its merges,
 * so no text whatsoever can become one. Which stretches of a prompt are plain is decided elsewhere.
 */
import { Tokenizer } from '@huggingface/tokenizers';
import { StvError } from '../errors.ts';
import { createBpeMerger, type MergeWord } from './bpe-merge.ts';
import { type AddedTokenEntry, isJsonObject, type JsonObject, type TokenizerFiles } from './tokenizer-files.ts';

/** Encodes stretches of text that hold no special token; `isFirst`: nothing stands before it in the prompt. */
type PlainEncoder = (text: string, isFirst: boolean, ids: number[]) => void;

export interface PlainTokenizer {
  readonly encode: PlainEncoder;
  /** Token -> id, special and added tokens left out. */
  readonly vocabulary: ReadonlyMap<string, number>;
}

function mergedToken(merge: unknown): string {
  if (Array.isArray(merge)) return merge.join('');
  return typeof merge === 'string' ? merge.replace(' ', '') : '';
}

function modelOf(files: TokenizerFiles): { readonly model: JsonObject; readonly vocabulary: JsonObject } {
  const model = files.tokenizer['model'];
  if (!isJsonObject(model)) throw new StvError('checkpoint_invalid', `${files.path}: tokenizer.json has no model.`);
  const type = model['type'] ?? 'BPE';
  if (type !== 'BPE') {
    throw new StvError(
      'architecture_unsupported',
      `${files.path}: tokenizer.json holds a ${String(type)} model; only BPE is supported.`,
    );
  }
  const vocabulary = model['vocab'];
  if (!isJsonObject(vocabulary) || !Array.isArray(model['merges'])) {
    throw new StvError('checkpoint_invalid', `${files.path}: the BPE model of tokenizer.json needs vocab and merges.`);
  }
  for (const [token, id] of Object.entries(vocabulary)) {
    if (!Number.isInteger(id) || Number(id) < 0) {
      throw new StvError('checkpoint_invalid', `${files.path}: token ${JSON.stringify(token)} has no valid id.`);
    }
  }
  return { model, vocabulary };
}

/** Builds the encoder. Throws StvError `checkpoint_invalid` / `architecture_unsupported` that names the file. */
export function createPlainTokenizer(files: TokenizerFiles, inert: readonly AddedTokenEntry[]): PlainTokenizer {
  const { model, vocabulary } = modelOf(files);
  const removed = new Set(inert.map((token) => token.content));
  const kept = Object.fromEntries(Object.entries(vocabulary).filter(([token]) => !removed.has(token)));
  const merges = (model['merges'] as readonly unknown[]).filter((merge) => !removed.has(mergedToken(merge)));
  const { tokenizer, unknownId } = buildTokenizer(files, { ...model, vocab: kept, merges }, vocabulary);
  const tokenModel = tokenizer.model;
  if (tokenModel === null) throw new StvError('checkpoint_invalid', `${files.path}: tokenizer.json has no model.`);
  mergeLongWordsFast(tokenModel as unknown as BpeModel, model, merges);
  const { normalizer, pre_tokenizer: preTokenizer } = tokenizer;

  const encode: PlainEncoder = (text, isFirst, ids) => {
    const normalized = normalizer === null ? text : normalizer(text);
    if (normalized === '') return;
    // the library asks for the place among the sections: only "the first or not" matters
    const words = preTokenizer === null ? [normalized] : preTokenizer(normalized, { section_index: isFirst ? 0 : 1 });
    for (const token of tokenModel(words)) {
      const id = tokenModel.tokens_to_ids.get(token) ?? unknownId;
      if (id !== undefined) ids.push(id);
    }
  };
  return { encode, vocabulary: new Map(Object.entries(kept).map(([token, id]) => [token, Number(id)])) };
}

/** The part of the library's model that is replaced; its type files leave it out. */
interface BpeModel {
  bpe(word: string): string[];
}

/** The library remembers shorter words. */
const LONG_WORD = 256;

/** Its own merging takes some 15 microseconds a character, which a text of one word turns into a second. */
function mergeLongWordsFast(target: BpeModel, model: JsonObject, merges: readonly unknown[]): void {
  // these change the texts of a word's characters; an empty one is none
  const changes = [model['end_of_word_suffix'], model['continuing_subword_suffix']];
  if (changes.some((text) => typeof text === 'string' && text !== '')) return;
  const merge = target.bpe.bind(target);
  let fast: MergeWord | undefined;
  target.bpe = (word) => {
    if (word.length < LONG_WORD) return merge(word);
    fast ??= createBpeMerger(merges.map(pairOf));
    return fast(word);
  };
}

function pairOf(merge: unknown): [string, string] {
  const [left = '', right = ''] = Array.isArray(merge) ? merge.map(String) : String(merge).split(' ', 2);
  return [left, right];
}

/** What `ByteLevel` splits by, with Unicode's white space: JavaScript's `\s` leaves out U+0085 and takes in U+FEFF. */
const BYTE_LEVEL_WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+`;

function splitBy(Regex: string): JsonObject {
  return { type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false };
}

/**
 * The library's `Digits` knows ASCII digits only, where the original takes every character that Unicode calls a number, and its
 * `ByteLevel` takes JavaScript's word for what a space is. Said as a `Split`, both mean the same as in the original.
 */
function withUnicodeClasses(part: unknown): unknown {
  if (!isJsonObject(part)) return part;
  if (part['type'] === 'Digits') {
    return splitBy(part['individual_digits'] === true ? String.raw`\p{N}` : String.raw`\p{N}+`);
  }
  // a space that is put before the text would be put before every word of a `Split`
  if (part['type'] === 'ByteLevel' && part['use_regex'] !== false && part['add_prefix_space'] !== true) {
    return { type: 'Sequence', pretokenizers: [splitBy(BYTE_LEVEL_WORDS), { ...part, use_regex: false }] };
  }
  const parts = part['pretokenizers'];
  return Array.isArray(parts) ? { ...part, pretokenizers: parts.map(withUnicodeClasses) } : part;
}

function buildTokenizer(
  files: TokenizerFiles,
  model: JsonObject,
  vocabulary: JsonObject,
): { readonly tokenizer: Tokenizer; readonly unknownId: number | undefined } {
  const part = (name: string): unknown => files.tokenizer[name] ?? null;
  try {
    const tokenizer = new Tokenizer(
      {
        model,
        added_tokens: [],
        normalizer: part('normalizer'),
        pre_tokenizer: withUnicodeClasses(part('pre_tokenizer')),
        post_processor: null,
        decoder: null,
      },
      {},
    );
    const unknown = model['unk_token'];
    const unknownId = typeof unknown === 'string' ? vocabulary[unknown] : undefined;
    return { tokenizer, unknownId: typeof unknownId === 'number' ? unknownId : undefined };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StvError('checkpoint_invalid', `${files.path}: tokenizer.json cannot be used: ${reason}`, {
      cause: error,
    });
  }
}
