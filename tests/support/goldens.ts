/** The committed goldens of `scripts/make-goldens.py`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const GOLDENS = fileURLToPath(new URL('../goldens/', import.meta.url));

export const TINY_MODELS = ['tiny-llama', 'tiny-llama-biased', 'tiny-qwen2', 'tiny-qwen3'] as const;

export type TinyModel = (typeof TINY_MODELS)[number];

export function goldenPath(...parts: readonly string[]): string {
  return join(GOLDENS, ...parts);
}

/** The same tensors as the folder's safetensors. */
export function goldenGgufPath(model: TinyModel): string {
  return goldenPath(model, `${model}.gguf`);
}

export interface GoldenPrompt {
  readonly text: string;
  readonly inputIds: readonly number[];
  /** What `transformers` generates after it, always taking the largest logit. */
  readonly greedyIds: readonly number[];
  /** Float32 logits of `transformers` at each position, `[inputIds.length][vocabSize]`. */
  readonly logits: readonly Float32Array[];
}

export function readGoldenPrompts(model: TinyModel): readonly GoldenPrompt[] {
  const golden = readGoldenJson<{
    readonly prompts: readonly Omit<GoldenPrompt, 'logits'>[];
    readonly logits: { readonly file: string; readonly shape: readonly [number, number] };
  }>(model, 'golden.json');
  const values = floats(readFileSync(goldenPath(model, golden.logits.file)));
  const [, vocabSize] = golden.logits.shape;
  let row = 0;
  return golden.prompts.map((prompt) => ({
    ...prompt,
    logits: prompt.inputIds.map(() => values.subarray(row * vocabSize, ++row * vocabSize)),
  }));
}

export function readGoldenJson<T>(...parts: readonly string[]): T {
  return JSON.parse(readFileSync(goldenPath(...parts), 'utf8')) as T;
}

/** Little-endian float32 of a base64 string or of bytes. */
export function floats(source: string | Uint8Array): Float32Array {
  const bytes = typeof source === 'string' ? Buffer.from(source, 'base64') : source;
  return new Float32Array(new Uint8Array(bytes).buffer);
}
