/** What a request must be to reach the engine host: the last check before it, on token counts that only now are known. */
import { StvError } from '../errors.ts';
import type { GenerateRequest, Prompt } from './engine.ts';

/** Of the model that is asked. */
export interface ModelLimits {
  /** Tokens of prompt and output together. */
  readonly contextLength: number;
  /** Width of the model's logits; undefined while no host has told. */
  readonly vocabSize: number | undefined;
}

/**
 * Throws StvError `context_length_exceeded`, or `invalid_value` for an empty prompt or a token the model does not have.
 * @param numOutputTokens that must have room beside the prompt
 */
export function checkPrompt(
  prompt: Prompt,
  tokens: Int32Array,
  { limits, numOutputTokens }: { readonly limits: ModelLimits; readonly numOutputTokens: number },
): void {
  const param = prompt.kind === 'chat' ? 'messages' : 'prompt';
  if (tokens.length === 0) {
    throw new StvError('invalid_value', 'The prompt is empty: it has no token to continue from.', { param });
  }
  const { contextLength, vocabSize } = limits;
  if (tokens.length + numOutputTokens > contextLength) {
    throw new StvError(
      'context_length_exceeded',
      `The prompt is too long: it has ${tokens.length} tokens and needs room for ${numOutputTokens} more; the model's context holds ${contextLength}.`,
      { param },
    );
  }
  if (vocabSize === undefined) return;
  const unknown = tokens.find((token) => token < 0 || token >= vocabSize);
  if (unknown !== undefined) {
    throw new StvError(
      'invalid_value',
      `The prompt has the token ${unknown}; the model knows tokens below ${vocabSize}.`,
      {
        param,
      },
    );
  }
}

/** Checks the prompt; the output ends where the context ends. @returns how many tokens may be generated */
export function fitMaxTokens(request: GenerateRequest, tokens: Int32Array, limits: ModelLimits): number {
  checkPrompt(request.prompt, tokens, { limits, numOutputTokens: request.maxTokens > 0 ? 1 : 0 });
  return Math.min(request.maxTokens, limits.contextLength - tokens.length);
}

/** Throws StvError `invalid_value` unless there are candidates, all distinct and none empty. */
export function checkCandidates(candidates: readonly string[]): void {
  if (candidates.length > 0 && new Set(candidates).size === candidates.length && !candidates.includes('')) return;
  throw new StvError('invalid_value', 'candidates must be one or more distinct texts that are not empty.', {
    param: 'candidates',
  });
}
