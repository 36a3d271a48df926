/** Pieces of OpenAI answers: usage, log-probabilities, fingerprints. */
import type { TokenLogprob, Usage } from '../engine/engine.ts';
import type { WireUsage } from './schemas.ts';

export function wireUsage(usages: readonly Usage[], reasoningTokens = 0): WireUsage {
  const sum = (read: (usage: Usage) => number): number => usages.reduce((total, usage) => total + read(usage), 0);
  const prompt = sum((usage) => usage.promptTokens);
  const completion = sum((usage) => usage.completionTokens);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: sum((usage) => usage.cachedTokens) },
    completion_tokens_details: {
      accepted_prediction_tokens: sum((usage) => usage.acceptedPredictionTokens),
      rejected_prediction_tokens: sum((usage) => usage.rejectedPredictionTokens),
      reasoning_tokens: reasoningTokens,
    },
  };
}

/** -Infinity has no JSON; OpenAI's own floor for "did not appear" stands for it. */
const leastLogprob = -9999;

function finite(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : leastLogprob;
}

export function chatLogprobs(tokens: readonly TokenLogprob[]) {
  const wire = ({ text, bytes, logprob }: { text: string; bytes: readonly number[]; logprob: number }) => ({
    token: text,
    logprob: finite(logprob),
    bytes: [...bytes],
  });
  return {
    content: tokens.map((token) => ({ ...wire(token), top_logprobs: token.top.map(wire) })),
    refusal: null,
  };
}

export interface CompletionLogprobs {
  readonly tokens: string[];
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Record<string, number> | null)[];
  readonly text_offset: number[];
}

/** `offset`: UTF-16 units of the choice's text before the first token. A null entry is the prompt's first token. */
export function completionLogprobs(
  tokens: readonly { readonly text: string; readonly logprob: TokenLogprob | null }[],
  offset: number,
): CompletionLogprobs {
  const result: CompletionLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
  let position = offset;
  for (const { text, logprob } of tokens) {
    result.tokens.push(text);
    result.text_offset.push(position);
    position += text.length;
    result.token_logprobs.push(logprob === null ? null : finite(logprob.logprob));
    result.top_logprobs.push(logprob === null ? null : topOf(logprob));
  }
  return result;
}

/** The token itself belongs to its alternatives: readers compare it with the best of them. */
function topOf(token: TokenLogprob): Record<string, number> {
  const top: Record<string, number> = {};
  for (const { text, logprob } of token.top) top[text] ??= finite(logprob);
  top[token.text] ??= finite(token.logprob);
  return top;
}

/** Changes when the weights do. */
export function fingerprint(digest: string): string {
  return `fp_${digest.replace(/^sha256:/, '').slice(0, 12)}`;
}
