/**
 * The tokenizer inside a GGUF file, written as Hugging Face's tokenizer files: one way to read tokenizers remains.
 * Facts about the pre-tokenizers: the tokenizer.json files of the families, and llama.cpp's `llama-vocab.cpp`.
 */
import { StvError } from '../errors.ts';
import type { GgufValue } from './gguf-cursor.ts';
import type { JsonObject, TokenizerFiles } from './tokenizer-files.ts';

/** GGUF's `tokenizer.ggml.token_type`. */
const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

interface GgufVocabulary {
  readonly path: string;
  readonly tokens: readonly string[];
  readonly types: ArrayLike<number>;
  readonly metadata: ReadonlyMap<string, GgufValue>;
}

interface Segmentation {
  readonly normalizer: JsonObject | null;
  readonly preTokenizer: JsonObject | null;
  readonly ignoreMerges: boolean;
  /** What llama.cpp assumes when `add_bos_token` is not written. */
  readonly addsBos: boolean;
}

const BYTE_LEVEL = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true } as const;

/** Words by a regular expression, then bytes. `digits`: how many digits make one word. */
function splitByRegex(digits: string): JsonObject {
  const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
  const letters = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`;
  const rest = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
  const regex = [contractions, letters, digits, rest].join('|');
  return {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false },
      { ...BYTE_LEVEL, use_regex: false },
    ],
  };
}

const GPT2: Segmentation = { normalizer: null, preTokenizer: BYTE_LEVEL, ignoreMerges: false, addsBos: false };
const LLAMA3: Segmentation = {
  normalizer: null,
  preTokenizer: splitByRegex(String.raw`\p{N}{1,3}`),
  ignoreMerges: true,
  addsBos: true,
};
const SEGMENTATIONS: ReadonlyMap<string, Segmentation> = new Map([
  ['default', GPT2],
  ['gpt-2', GPT2],
  [
    'smollm',
    {
      ...GPT2,
      preTokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, BYTE_LEVEL] },
    },
  ],
  [
    'qwen2',
    {
      normalizer: { type: 'NFC' },
      preTokenizer: splitByRegex(String.raw`\p{N}`),
      ignoreMerges: false,
      addsBos: false,
    },
  ],
  ['llama-bpe', LLAMA3],
  ['llama3', LLAMA3],
  ['llama-v3', LLAMA3],
]);

/**
 * Makes the tokenizer files from a GGUF file's metadata. `path` names the file in errors: `checkpoint_invalid` when
 * metadata is missing or contradicts itself, `architecture_unsupported` for a kind of tokenizer that is not known.
 */
export function tokenizerFilesFromGguf(metadata: ReadonlyMap<string, GgufValue>, path: string): TokenizerFiles {
  const kind = metadata.get('tokenizer.ggml.model');
  const tokens = strings(metadata, 'tokenizer.ggml.tokens', path);
  const types = numbers(metadata, 'tokenizer.ggml.token_type') ?? new Int32Array(tokens.length).fill(TOKEN_TYPE.normal);
  if (tokens.length === 0 || types.length !== tokens.length) {
    throw invalid(path, `it holds ${tokens.length} tokens and ${types.length} token types`);
  }
  const vocabulary: GgufVocabulary = { path, tokens, types, metadata };
  if (kind === 'gpt2') return fromByteLevelBpe(vocabulary);
  if (kind === 'llama') return fromSentencePieceBpe(vocabulary);
  throw new StvError(
    'architecture_unsupported',
    `${path}: its tokenizer is of the kind ${typeof kind === 'string' ? `"${kind}"` : 'undefined'}; "gpt2" and "llama" can be read.`,
  );
}

function fromByteLevelBpe(vocabulary: GgufVocabulary): TokenizerFiles {
  const { metadata, path } = vocabulary;
  const pre = metadata.get('tokenizer.ggml.pre') ?? 'default';
  const segmentation = typeof pre === 'string' ? SEGMENTATIONS.get(pre) : undefined;
  if (segmentation === undefined) {
    throw new StvError(
      'architecture_unsupported',
      `${path}: its pre-tokenizer is "${String(pre)}"; known are ${[...SEGMENTATIONS.keys()].join(', ')}.`,
    );
  }
  return files(vocabulary, {
    addsBos: segmentation.addsBos,
    normalizer: segmentation.normalizer,
    preTokenizer: segmentation.preTokenizer,
    decoder: { ...BYTE_LEVEL },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: segmentation.ignoreMerges,
      vocab: idsByToken(vocabulary.tokens),
      merges: strings(metadata, 'tokenizer.ggml.merges', path).map((merge) => splitMerge(merge, path)),
    },
  });
}

/** One line of merges: two tokens with a space between (a space inside a token is written as another character). */
function splitMerge(merge: string, path: string): readonly [string, string] {
  const space = merge.indexOf(' ', 1);
  if (space < 1 || space === merge.length - 1)
    throw invalid(path, `"${merge.slice(0, 60)}" is not a merge of two tokens`);
  return [merge.slice(0, space), merge.slice(space + 1)];
}

function fromSentencePieceBpe(vocabulary: GgufVocabulary): TokenizerFiles {
  const { metadata, path, tokens, types } = vocabulary;
  const scores = numbers(metadata, 'tokenizer.ggml.scores');
  if (scores?.length !== tokens.length) {
    throw invalid(path, `it holds ${tokens.length} tokens and ${scores?.length ?? 0} scores`);
  }
  const prefixed = metadata.get('tokenizer.ggml.add_space_prefix') !== false;
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  const unknown = Array.from(types).indexOf(TOKEN_TYPE.unknown);
  return files(vocabulary, {
    addsBos: true,
    normalizer: prefixed ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, spaces] } : spaces,
    preTokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(prefixed ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: tokens[unknown] ?? null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: idsByToken(tokens),
      merges: mergesFromScores(vocabulary, scores),
    },
  });
}

/** Trained pieces have some dozen; every split of a token is looked at. */
const MAX_TOKEN_CHARACTERS = 1024;

/**
 * SentencePiece joins the neighbours whose union has the best score; as ranked merges: every split of a token into two
 * tokens, the best token first.
 */
function mergesFromScores(
  { tokens, types, path }: GgufVocabulary,
  scores: ArrayLike<number>,
): readonly (readonly [string, string])[] {
  const isText = (id: number): boolean => types[id] === TOKEN_TYPE.normal || types[id] === TOKEN_TYPE.userDefined;
  const known = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (isText(id)) known.set(token, id);
  });
  const merges: { readonly pair: readonly [string, string]; readonly score: number; readonly order: number }[] = [];
  for (const [token, id] of known) {
    if (types[id] !== TOKEN_TYPE.normal) continue;
    const characters = [...token];
    if (characters.length > MAX_TOKEN_CHARACTERS) {
      throw invalid(path, `token ${id} has ${characters.length} characters; the limit is ${MAX_TOKEN_CHARACTERS}`);
    }
    for (let split = 1; split < characters.length; split++) {
      const left = characters.slice(0, split).join('');
      const right = characters.slice(split).join('');
      if (known.has(left) && known.has(right)) {
        merges.push({ pair: [left, right], score: scores[id] ?? 0, order: merges.length });
      }
    }
  }
  merges.sort((a, b) => b.score - a.score || a.order - b.order);
  return merges.map(({ pair }) => pair);
}

interface TokenizerParts {
  readonly normalizer: JsonObject | null;
  readonly preTokenizer: JsonObject | null;
  readonly decoder: JsonObject;
  readonly model: JsonObject;
  readonly addsBos: boolean;
}

function files(vocabulary: GgufVocabulary, parts: TokenizerParts): TokenizerFiles {
  const { metadata, path, tokens, types } = vocabulary;
  const idAt = (key: string): number | undefined => {
    const id = metadata.get(`tokenizer.ggml.${key}_token_id`);
    return typeof id === 'number' && Number.isInteger(id) && tokens[id] !== undefined ? id : undefined;
  };
  const bos = idAt('bos');
  const eos = idAt('eos');
  const ends = [eos, idAt('eot'), idAt('eom')].filter((id) => id !== undefined);
  const special = new Set(ends);
  const addedTokens = tokens.flatMap((content, id) => {
    const isControl = types[id] === TOKEN_TYPE.control || types[id] === TOKEN_TYPE.unknown || special.has(id);
    if ((!isControl && types[id] !== TOKEN_TYPE.userDefined) || content === '') return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: isControl }];
  });

  const said = metadata.get('tokenizer.ggml.add_bos_token');
  const addsBos = bos !== undefined && (typeof said === 'boolean' ? said : parts.addsBos);
  const named = (name: string, id: number | undefined): JsonObject => (id === undefined ? {} : { [name]: tokens[id] });
  const template = chatTemplateOf(metadata);
  return {
    path,
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens,
      normalizer: parts.normalizer,
      pre_tokenizer: parts.preTokenizer,
      post_processor: addsBos ? bosFirst(bos, tokens[bos] ?? '') : null,
      decoder: parts.decoder,
      model: parts.model,
    },
    tokenizerConfig: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      clean_up_tokenization_spaces: false,
      add_bos_token: addsBos,
      ...named('bos_token', bos),
      ...named('eos_token', eos),
      ...named('unk_token', idAt('unknown')),
      ...named('pad_token', idAt('padding')),
    },
    generationConfig: {
      ...(bos === undefined ? {} : { bos_token_id: bos }),
      ...(ends.length === 0 ? {} : { eos_token_id: [...new Set(ends)] }),
    },
    ...(template === undefined ? {} : { chatTemplate: template }),
  };
}

function bosFirst(id: number, token: string): JsonObject {
  const first = { SpecialToken: { id: token, type_id: 0 } };
  const sequence = (name: string): JsonObject => ({ Sequence: { id: name, type_id: name === 'A' ? 0 : 1 } });
  return {
    type: 'TemplateProcessing',
    single: [first, sequence('A')],
    pair: [first, sequence('A'), { SpecialToken: { id: token, type_id: 1 } }, sequence('B')],
    special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
  };
}

function chatTemplateOf(metadata: ReadonlyMap<string, GgufValue>): string | undefined {
  const template = metadata.get('tokenizer.chat_template') ?? metadata.get('tokenizer.chat_template.default');
  return typeof template === 'string' && template !== '' ? template : undefined;
}

/** A token that occurs twice keeps its first id. */
function idsByToken(tokens: readonly string[]): JsonObject {
  const ids = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (!ids.has(token)) ids.set(token, id);
  });
  return Object.fromEntries(ids);
}

function strings(metadata: ReadonlyMap<string, GgufValue>, key: string, path: string): readonly string[] {
  const value = metadata.get(key);
  if (!Array.isArray(value) || !value.every((entry) => typeof entry === 'string')) {
    throw invalid(path, `its metadata has no list of strings ${key}`);
  }
  return value;
}

function numbers(metadata: ReadonlyMap<string, GgufValue>, key: string): ArrayLike<number> | undefined {
  const value = metadata.get(key);
  if (!ArrayBuffer.isView(value) || value instanceof DataView) return undefined;
  return typeof value[0] === 'bigint' ? undefined : (value as ArrayLike<number>);
}

function invalid(path: string, what: string): StvError {
  return new StvError('checkpoint_invalid', `${path}: ${what}.`);
}
