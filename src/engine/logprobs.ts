/** Exact natural log-probabilities from a row of raw logits: before temperature, penalties and filters. Knows no request. */
import { NEGLIGIBLE_EXPONENT, negativeExp } from './negative-exp.ts';

/** How likely the asked-for tokens are, and the most likely tokens, best first. */
export interface RowLogprobs {
  readonly logprobs: readonly number[];
  readonly topTokens: readonly number[];
  readonly topLogprobs: readonly number[];
}

/** Index of the largest logit, the lowest such index on ties; `undefined` if any logit is NaN or the largest is infinite. */
export function argmax(row: Float32Array): number | undefined {
  let best = Number.NEGATIVE_INFINITY;
  let index = -1;
  for (let i = 0; i < row.length; i++) {
    const value = row[i] as number; // i < row.length
    if (value <= best) continue; // the one comparison that nearly every value takes
    if (!(value > best)) return undefined; // neither: a NaN
    best = value;
    index = i;
  }
  return index < 0 || best === Number.POSITIVE_INFINITY ? undefined : index;
}

/** ln(sum(e^logit)). @param max the largest logit of the row, finite. */
export function logSumExp(row: Float32Array, max: number): number {
  let sum = 0;
  for (let i = 0; i < row.length; i++) {
    const below = max - (row[i] as number); // i < row.length
    if (below < NEGLIGIBLE_EXPONENT) sum += negativeExp(below);
  }
  return max + Math.log(sum);
}

/**
 * The `count` largest logits, best first, lower index first on ties. One pass with a sorted window of `count`, which is small
 * (the API allows at most 20 alternatives).
 */
export function topIndices(row: Float32Array, count: number): number[] {
  const size = Math.min(count, row.length);
  const best: number[] = [];
  if (size === 0) return best;
  let threshold = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < row.length; i++) {
    const value = row[i] as number; // i < row.length
    if (best.length === size && !(value > threshold)) continue;
    let place = best.length === size ? size - 1 : best.length;
    while (place > 0 && (row[best[place - 1] as number] as number) < value) {
      best[place] = best[place - 1] as number; // place - 1 is inside the window
      place--;
    }
    best[place] = i;
    threshold = row[best[best.length - 1] as number] as number;
  }
  return best;
}

/**
 * Log-probabilities of `targets`, in their order, and of the `top` most likely tokens. `undefined` if the row holds a NaN or has
 * no finite maximum.
 * @param row `[vocabSize]`
 */
export function rowLogprobs(row: Float32Array, targets: readonly number[], top: number): RowLogprobs | undefined {
  const best = argmax(row);
  if (best === undefined) return undefined;
  const norm = logSumExp(row, row[best] as number);
  const topTokens = topIndices(row, top);
  return {
    logprobs: targets.map((token) => (row[token] ?? Number.NEGATIVE_INFINITY) - norm),
    topTokens,
    topLogprobs: topTokens.map((index) => (row[index] as number) - norm),
  };
}
