/** The committed goldens of `scripts/make-tokenizer-goldens.py`, and the vocabularies they were made with. */
import { readFileSync } from 'node:fs';
import type { ChatTurn } from '../../src/models/chat-template.ts';
import type { GgufValue } from '../../src/models/gguf-cursor.ts';
import { goldenPath } from './goldens.ts';

export const TOKENIZER_KINDS = ['gpt-2', 'smollm', 'qwen2', 'llama-bpe', 'llama-spm'] as const;

export type TokenizerKind = (typeof TOKENIZER_KINDS)[number];

export interface TokenizerGoldens {
  readonly texts: readonly { readonly text: string; readonly ids: readonly number[] }[];
  readonly chats: readonly {
    readonly messages: readonly ChatTurn[];
    readonly addGenerationPrompt: boolean;
    readonly ids: readonly number[];
  }[];
}

export function readTokenizerGoldens(name: TokenizerKind | 'smollm2'): TokenizerGoldens {
  return JSON.parse(readFileSync(goldenPath('tokenizers', `${name}.json`), 'utf8')) as TokenizerGoldens;
}

/** As the reader of GGUF files gives it: lists of numbers are typed arrays. */
export function goldenMetadata(kind: TokenizerKind): Map<string, GgufValue> {
  const { metadata } = JSON.parse(readFileSync(goldenPath('tokenizers', `${kind}.json`), 'utf8')) as {
    readonly metadata: Readonly<Record<string, string | number | boolean | string[] | number[]>>;
  };
  return new Map(
    Object.entries(metadata).map(([key, value]): [string, GgufValue] => {
      if (key === 'tokenizer.ggml.scores') return [key, Float32Array.from(value as number[])];
      if (key === 'tokenizer.ggml.token_type') return [key, Int32Array.from(value as number[])];
      return [key, value as GgufValue];
    }),
  );
}
