/** What the engine asks of a model's text side, and how each kind of prompt is encoded. Runs in the text worker or in place. */
import { StvError } from '../errors.ts';
import type { TextModel } from '../models/text-model.ts';
import type { Prompt } from './engine.ts';

/** `TextModel` satisfies it; tests give a smaller one. */
export type TextSide = Pick<
  TextModel,
  'vocabSize' | 'stopTokenIds' | 'addsBos' | 'encodeText' | 'encodeChat' | 'tokenBytes' | 'isSpecial' | 'decode'
>;

/** Token ids of a prompt, continued by `continuation` (inert text) in the same encoding. */
export function encodePrompt(text: TextSide, prompt: Prompt, continuation = ''): number[] {
  switch (prompt.kind) {
    case 'chat':
      return text.encodeChat(prompt.messages, { assistantPrefix: (prompt.assistantPrefix ?? '') + continuation });
    case 'text':
      return text.encodeText(prompt.text + continuation, { addBos: text.addsBos });
    case 'tokens': {
      checkTokenIds(prompt.tokens, text.vocabSize, 'prompt');
      return continuation === '' ? [...prompt.tokens] : [...prompt.tokens, ...text.encodeText(continuation)];
    }
  }
}

/** Throws StvError `invalid_value` about `param` for an id that no token has. */
export function checkTokenIds(ids: Iterable<number>, vocabSize: number, param?: string): void {
  for (const id of ids) {
    if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
    const where = param === undefined ? '' : ` in \`${param}\``;
    throw new StvError(
      'invalid_value',
      `Token ids are whole numbers from 0 to ${vocabSize - 1}, got ${id}${where}.`,
      param === undefined ? {} : { param },
    );
  }
}

/** Everything about single tokens that the API process needs without owning a tokenizer. Can be sent between threads. */
export interface TokenTableData {
  /** Bytes of all tokens back to back; token `id` is `[offsets[id], offsets[id + 1])`. */
  readonly bytes: Uint8Array;
  readonly offsets: Uint32Array;
  /** 1 for special tokens. */
  readonly special: Uint8Array;
  readonly stopTokenIds: readonly number[];
}

export function tokenTableOf(text: TextSide): TokenTableData {
  const offsets = new Uint32Array(text.vocabSize + 1);
  const special = new Uint8Array(text.vocabSize);
  for (let id = 0; id < text.vocabSize; id++) {
    offsets[id + 1] = (offsets[id] as number) + text.tokenBytes(id).length;
    special[id] = text.isSpecial(id) ? 1 : 0;
  }
  const bytes = new Uint8Array(offsets[text.vocabSize] as number);
  for (let id = 0; id < text.vocabSize; id++) bytes.set(text.tokenBytes(id), offsets[id] as number);
  return { bytes, offsets, special, stopTokenIds: text.stopTokenIds };
}

const NO_BYTES = new Uint8Array(0);

export class TokenTable {
  readonly stopTokenIds: readonly number[];
  readonly vocabSize: number;
  readonly #data: TokenTableData;

  constructor(data: TokenTableData) {
    this.#data = data;
    this.stopTokenIds = data.stopTokenIds;
    this.vocabSize = data.special.length;
  }

  /** A view; empty for an id that no token has. */
  bytes(id: number): Uint8Array {
    const { bytes, offsets } = this.#data;
    const from = offsets[id];
    const to = offsets[id + 1];
    return from === undefined || to === undefined ? NO_BYTES : bytes.subarray(from, to);
  }

  isSpecial(id: number): boolean {
    return this.#data.special[id] === 1;
  }

  /** Bytes as they appear in generated text: special tokens leave no trace there. */
  visibleBytes(id: number): Uint8Array {
    return this.isSpecial(id) ? NO_BYTES : this.bytes(id);
  }
}
