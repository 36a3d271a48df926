/**
 * A checkpoint's text side: text and messages to token ids, token ids to bytes. No tensors, no requests, no state beyond caches:
 * synchronous after `load`, so that it can live in a worker thread.
 */
import { StvError } from '../errors.ts';
import { ChatTemplate, type ChatTemplateOptions, type ChatTurn } from './chat-template.ts';
import { createSpecialTokenText, type SpecialTokenText } from './special-tokens.ts';
import { bytesOfToken, type TokenSpelling } from './tokenizer-bytes.ts';
import {
  type AddedTokenEntry,
  addedTokensOf,
  isJsonObject,
  type JsonObject,
  readTokenizerFiles,
  type TokenizerFiles,
} from './tokenizer-files.ts';
import { createPlainTokenizer, type PlainTokenizer } from './tokenizer-words.ts';

export interface EncodeTextOptions {
  /** Put the beginning-of-sequence token first, if the model has one. Default false; `addsBos` says what it expects. */
  readonly addBos?: boolean;
}

export interface EncodeChatOptions {
  /** Text that the answer is made to begin with; inert like a content. */
  readonly assistantPrefix?: string;
  /** End with the opening of an assistant's turn. Default true. */
  readonly addGenerationPrompt?: boolean;
}

const NO_BYTES = new Uint8Array(0);
const ANSWER_MARK = 'ANSWER';

export class TextModel {
  /** One more than the highest id the tokenizer knows. A model's logits may be wider. */
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  /** Tokens that end an answer: end of sequence, and the template's end of an assistant's turn. */
  readonly stopTokenIds: readonly number[];
  /** Whether the checkpoint expects plain text to begin with the beginning-of-sequence token. */
  readonly addsBos: boolean;
  readonly hasChatTemplate: boolean;
  readonly #path: string;
  readonly #plain: PlainTokenizer;
  readonly #specials: SpecialTokenText;
  readonly #chatTemplate: ChatTemplate | undefined;
  readonly #bytes: readonly (Uint8Array | undefined)[];
  readonly #special: ReadonlySet<number>;
  readonly #stripsLeadingSpace: boolean;

  /**
   * Reads `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json` and `config.json` of a
   * folder; only the first must be there. Throws StvError `checkpoint_invalid`, `architecture_unsupported` or
   * `pack_invalid` (the chat template) that names the file.
   */
  static async load(folder: string, options: ChatTemplateOptions = {}): Promise<TextModel> {
    return new TextModel(await readTokenizerFiles(folder), options);
  }

  constructor(files: TokenizerFiles, options: ChatTemplateOptions = {}) {
    const added = addedTokensOf(files);
    // Runs of spaces that some vocabularies list as added tokens are ordinary text.
    const ordinary = added.filter((token) => !token.special && token.content.trim() === '');
    const inert = added.filter((token) => !ordinary.includes(token));
    this.#path = files.path;
    this.#plain = createPlainTokenizer(files, inert);
    this.#specials = createSpecialTokenText(inert);
    this.#special = new Set(inert.filter((token) => token.special).map((token) => token.id));

    const spelling = spellingOf(files);
    this.#stripsLeadingSpace = decoderParts(files.tokenizer['decoder']).some((part) => part['type'] === 'Strip');
    this.#bytes = byteTable(this.#plain.vocabulary, added, spelling);
    this.vocabSize = this.#bytes.length;

    const idOf = (token: string): number | undefined =>
      added.find(({ content }) => content === token)?.id ?? this.#plain.vocabulary.get(token);
    const named = namedTokens(files.tokenizerConfig);
    this.bosTokenId = firstId([named['bos_token'] === undefined ? undefined : idOf(named['bos_token'])], files);
    this.eosTokenIds = eosIds(files, named['eos_token'] === undefined ? undefined : idOf(named['eos_token']));
    this.addsBos = this.bosTokenId !== undefined && expectsBos(files, this.bosTokenId);

    const template = files.chatTemplate;
    this.hasChatTemplate = template !== undefined;
    this.#chatTemplate =
      template === undefined
        ? undefined
        : new ChatTemplate(
            template,
            { where: `${files.path}: chat template`, specials: this.#specials, tokens: named },
            options,
          );
    const endOfTurn = this.#findEndOfTurn();
    this.stopTokenIds = [...new Set([...this.eosTokenIds, ...(endOfTurn === undefined ? [] : [endOfTurn])])];
  }

  /** Special tokens in `text` are inert: they are encoded as the characters they are written with. */
  encodeText(text: string, options: EncodeTextOptions = {}): number[] {
    const ids = this.#begin(options);
    this.#plain.encode(text, true, ids);
    return ids;
  }

  /** Text that a template of ours wrote: special tokens in it become their ids. Never for text of a user or a model. */
  encodeTextWithSpecials(text: string, options: EncodeTextOptions = {}): number[] {
    return this.#encodeRendered(text, this.#begin(options));
  }

  /** Throws StvError `unsupported_parameter` without a chat template, `invalid_value` when the template refuses the messages. */
  encodeChat(messages: readonly ChatTurn[], options: EncodeChatOptions = {}): number[] {
    const { assistantPrefix = '', addGenerationPrompt = true } = options;
    if (this.#chatTemplate === undefined) {
      throw new StvError('unsupported_parameter', 'The model has no chat template; give it a plain text instead.', {
        param: 'messages',
      });
    }
    const rendered = this.#chatTemplate.render(messages, addGenerationPrompt);
    return this.#encodeRendered(rendered + this.#specials.shield(assistantPrefix), []);
  }

  /** Empty for an id that no token has. Do not write to the array. */
  tokenBytes(id: number): Uint8Array {
    return this.#bytes[id] ?? NO_BYTES;
  }

  /** Ill-formed UTF-8 becomes U+FFFD. Special tokens are written out unless `skipSpecial`. */
  decode(ids: readonly number[], options: { readonly skipSpecial?: boolean } = {}): string {
    const parts = ids
      .filter((id) => options.skipSpecial !== true || !this.#special.has(id))
      .map((id) => this.tokenBytes(id));
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let offset = 0;
    for (const part of parts) {
      bytes.set(part, offset);
      offset += part.length;
    }
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
    return this.#stripsLeadingSpace && text.startsWith(' ') ? text.slice(1) : text;
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  #begin(options: EncodeTextOptions): number[] {
    return options.addBos === true && this.bosTokenId !== undefined ? [this.bosTokenId] : [];
  }

  #encodeRendered(rendered: string, ids: number[]): number[] {
    for (const stretch of this.#specials.split(rendered)) {
      if (stretch.kind === 'special') ids.push(stretch.id);
      else this.#plain.encode(stretch.text, stretch.isFirst, ids);
    }
    return ids;
  }

  /** The first special token after an assistant's content, found by rendering one. */
  #findEndOfTurn(): number | undefined {
    if (this.#chatTemplate === undefined) return undefined;
    let rendered: string;
    try {
      rendered = this.#chatTemplate.render(
        [
          { role: 'user', content: 'QUESTION' },
          { role: 'assistant', content: ANSWER_MARK },
        ],
        false,
      );
    } catch (error) {
      if (error instanceof StvError && error.code === 'invalid_value') return undefined;
      throw error;
    }
    const stretches = this.#specials.split(rendered);
    const answer = stretches.findLastIndex(({ kind, ...rest }) => 'text' in rest && rest.text.includes(ANSWER_MARK));
    const stretch = stretches[answer];
    const next = stretches[answer + 1];
    const ends = stretch?.kind === 'plain' && stretch.text.trimEnd().endsWith(ANSWER_MARK);
    return ends && next?.kind === 'special' ? next.id : undefined;
  }

  toString(): string {
    return `TextModel(${this.#path})`;
  }
}

/** `bos_token` and its kind, as strings: they may be written as objects with a content. */
function namedTokens(config: JsonObject): Readonly<Record<string, string>> {
  const named: Record<string, string> = {};
  for (const name of ['bos_token', 'eos_token', 'pad_token', 'unk_token', 'sep_token', 'cls_token', 'mask_token']) {
    const value = config[name];
    const content = isJsonObject(value) ? value['content'] : value;
    if (typeof content === 'string') named[name] = content;
  }
  return named;
}

function idsIn(object: JsonObject | undefined, key: string): readonly number[] {
  const value = object?.[key];
  return (Array.isArray(value) ? value : [value]).filter((id) => Number.isInteger(id) && id >= 0).map(Number);
}

function firstId(candidates: readonly (number | undefined)[], files: TokenizerFiles): number | undefined {
  return (
    candidates.find((id) => id !== undefined) ??
    idsIn(files.generationConfig, 'bos_token_id')[0] ??
    idsIn(files.modelConfig, 'bos_token_id')[0]
  );
}

function eosIds(files: TokenizerFiles, named: number | undefined): readonly number[] {
  const generation = idsIn(files.generationConfig, 'eos_token_id');
  const ids = generation.length > 0 ? generation : idsIn(files.modelConfig, 'eos_token_id');
  return [...new Set([...ids, ...(named === undefined ? [] : [named])])];
}

/** `add_bos_token` where it is said, else whether the post-processor puts the token first. */
function expectsBos(files: TokenizerFiles, bos: number): boolean {
  const said = files.tokenizerConfig['add_bos_token'];
  if (typeof said === 'boolean') return said;
  const processor = files.tokenizer['post_processor'];
  const parts =
    isJsonObject(processor) && Array.isArray(processor['processors']) ? processor['processors'] : [processor];
  return parts.some((part: unknown) => {
    if (!isJsonObject(part) || part['type'] !== 'TemplateProcessing' || !Array.isArray(part['single'])) return false;
    const first: unknown = part['single'][0];
    const special = isJsonObject(first) ? first['SpecialToken'] : undefined;
    const id = isJsonObject(special) ? special['id'] : undefined;
    const listed =
      isJsonObject(part['special_tokens']) && typeof id === 'string' ? part['special_tokens'][id] : undefined;
    return isJsonObject(listed) && Array.isArray(listed['ids']) && listed['ids'][0] === bos;
  });
}

function decoderParts(decoder: unknown): readonly JsonObject[] {
  if (!isJsonObject(decoder)) return [];
  const nested = decoder['decoders'];
  return decoder['type'] === 'Sequence' && Array.isArray(nested) ? nested.filter(isJsonObject) : [decoder];
}

function spellingOf(files: TokenizerFiles): TokenSpelling {
  const types = decoderParts(files.tokenizer['decoder']).map((part) => part['type']);
  if (types.includes('ByteLevel')) return 'byte-level';
  if (types.includes('ByteFallback') || types.includes('Metaspace')) return 'byte-fallback';
  throw new StvError(
    'architecture_unsupported',
    `${files.path}: the decoder of tokenizer.json is ${types.join(', ') || 'missing'}; ByteLevel or ByteFallback is needed.`,
  );
}

const MAX_TOKEN_ID = 4 * 1024 * 1024;

function byteTable(
  vocabulary: ReadonlyMap<string, number>,
  added: readonly AddedTokenEntry[],
  spelling: TokenSpelling,
): readonly (Uint8Array | undefined)[] {
  let size = 0;
  for (const id of vocabulary.values()) size = Math.max(size, id + 1);
  for (const { id } of added) size = Math.max(size, id + 1);
  if (size > MAX_TOKEN_ID) {
    throw new StvError('checkpoint_invalid', `The tokenizer has a token id of ${size - 1}; at most ${MAX_TOKEN_ID}.`);
  }
  const table = new Array<Uint8Array | undefined>(size).fill(undefined);
  for (const [token, id] of vocabulary) table[id] = bytesOfToken(token, spelling);
  const encoder = new TextEncoder();
  for (const { id, content } of added) table[id] = encoder.encode(content);
  return table;
}
