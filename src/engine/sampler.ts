/**
 * A row of logits, the parameters and the sequence's own random numbers -> one token. Order of the steps: logit bias and
 * penalties, temperature, top-k, top-p over what top-k left, min-p relative to the most likely token.
 * One draw per token, so the n-th token of a sequence always meets the n-th random number.
 */
import type { SamplingParams } from './engine.ts';
import { argmax } from './logprobs.ts';
import { NEGLIGIBLE_EXPONENT, negativeExp } from './negative-exp.ts';
import type { Rng } from './rng.ts';

/** What penalties need to know of a sequence. Kept only for sequences that have penalties. */
export interface TokenHistory {
  /** How often each token was generated. */
  readonly outputCounts: ReadonlyMap<number, number>;
  /** Tokens of prompt and output. */
  readonly seen: ReadonlySet<number>;
}

/** Whether `history` is needed at all. */
export function hasPenalties(params: SamplingParams): boolean {
  return params.presencePenalty !== 0 || params.frequencyPenalty !== 0 || params.repetitionPenalty !== 1;
}

/** Buckets of top-p's mass histogram: four per unit of (scaled) logit below the maximum. */
const BUCKETS_PER_UNIT = 4;
const NUM_BUCKETS = NEGLIGIBLE_EXPONENT * BUCKETS_PER_UNIT;

/** Scratch for one vocabulary, reused for every row: a step allocates nothing here. */
export class Sampler {
  readonly #logits: Float32Array;
  readonly #indices: Int32Array;
  readonly #weights: Float64Array;
  /** How far below the maximum each collected entry lies, in scaled logits; valid until entries are moved. */
  readonly #depths: Float64Array;
  readonly #buckets = new Float64Array(NUM_BUCKETS);

  constructor(vocabSize: number) {
    this.#logits = new Float32Array(vocabSize);
    this.#indices = new Int32Array(vocabSize);
    this.#weights = new Float64Array(vocabSize);
    this.#depths = new Float64Array(vocabSize);
  }

  /**
   * `undefined` if the row holds a NaN or has no finite maximum: the model failed for this sequence.
   * @param raw `[vocabSize]`, left as it is
   */
  sample(raw: Float32Array, params: SamplingParams, history: TokenHistory | undefined, rng: Rng): number | undefined {
    const row = this.#adjusted(raw, params, history);
    const best = argmax(row);
    if (best === undefined) return undefined;
    const draw = params.temperature === 0 ? 0 : rng.nextFloat();
    if (params.temperature === 0 || params.topK === 1 || params.topP === 0) return best;
    const max = row[best] as number;
    const inverseTemperature = 1 / params.temperature;
    const size =
      params.topK > 0 && params.topK < row.length
        ? this.#collectTopK(row, params.topK, max, inverseTemperature)
        : this.#collectAll(row, max, inverseTemperature);
    if (params.topP >= 1) return this.#pick(draw, this.#dropBelow(params.minP, size));
    return this.#pick(draw, this.#nucleus(params.topP, params.minP, size));
  }

  #adjusted(raw: Float32Array, params: SamplingParams, history: TokenHistory | undefined): Float32Array {
    const bias = params.logitBias;
    const penalised = history !== undefined && hasPenalties(params);
    if (!penalised && (bias === undefined || bias.size === 0)) return raw;
    const row = this.#logits;
    row.set(raw);
    if (bias !== undefined) {
      for (const [token, value] of bias) if (token < row.length) row[token] = (row[token] as number) + value;
    }
    if (!penalised) return row;
    if (params.repetitionPenalty !== 1) {
      for (const token of history.seen) {
        const logit = row[token];
        if (logit === undefined) continue;
        row[token] = logit > 0 ? logit / params.repetitionPenalty : logit * params.repetitionPenalty;
      }
    }
    if (params.presencePenalty !== 0 || params.frequencyPenalty !== 0) {
      for (const [token, count] of history.outputCounts) {
        const logit = row[token];
        if (logit !== undefined) row[token] = logit - params.presencePenalty - params.frequencyPenalty * count;
      }
    }
    return row;
  }

  /** Every token with a weight that counts, in index order. Returns how many. */
  #collectAll(row: Float32Array, max: number, inverseTemperature: number): number {
    const indices = this.#indices;
    const weights = this.#weights;
    const depths = this.#depths;
    let size = 0;
    for (let i = 0; i < row.length; i++) {
      const below = (max - (row[i] as number)) * inverseTemperature; // i < row.length
      if (!(below < NEGLIGIBLE_EXPONENT)) continue;
      indices[size] = i;
      depths[size] = below;
      weights[size++] = negativeExp(below);
    }
    return size;
  }

  /** The k largest logits (lower index first on ties) through a heap whose root is the worst of them. Returns how many. */
  #collectTopK(row: Float32Array, k: number, max: number, inverseTemperature: number): number {
    const indices = this.#indices;
    const weights = this.#weights; // logits at first, weights at the end
    const depths = this.#depths;
    for (let i = 0; i < k; i++) {
      indices[i] = i;
      weights[i] = row[i] as number; // k < row.length
    }
    for (let i = (k >> 1) - 1; i >= 0; i--) this.#sink(i, k, false);
    let worst = weights[0] as number;
    for (let i = k; i < row.length; i++) {
      const value = row[i] as number; // i < row.length
      if (!(value > worst)) continue; // an equal one has the higher index
      indices[0] = i;
      weights[0] = value;
      this.#sink(0, k, false);
      worst = weights[0] as number;
    }
    let size = 0;
    for (let i = 0; i < k; i++) {
      const below = (max - (weights[i] as number)) * inverseTemperature;
      if (!(below < NEGLIGIBLE_EXPONENT)) continue;
      indices[size] = indices[i] as number;
      depths[size] = below;
      weights[size++] = negativeExp(below);
    }
    return size;
  }

  /** Keeps weights of at least `minP` of the largest, which is 1. Returns how many are left. */
  #dropBelow(minP: number, size: number): number {
    if (minP <= 0) return size;
    const indices = this.#indices;
    const weights = this.#weights;
    let kept = 0;
    for (let i = 0; i < size; i++) {
      const weight = weights[i] as number;
      if (weight < minP) continue;
      indices[kept] = indices[i] as number;
      weights[kept++] = weight;
    }
    return kept;
  }

  /**
   * The smallest set of most likely tokens that holds `topP` of the mass, cut at `minP`. A histogram of the mass finds how deep
   * the set can reach, and only that part goes through a heap: nothing is sorted. Returns how many are kept.
   */
  #nucleus(topP: number, minP: number, size: number): number {
    const indices = this.#indices;
    const weights = this.#weights;
    const depths = this.#depths;
    const buckets = this.#buckets;
    buckets.fill(0);
    let total = 0;
    for (let i = 0; i < size; i++) {
      const weight = weights[i] as number;
      total += weight;
      const bucket = ((depths[i] as number) * BUCKETS_PER_UNIT) | 0; // collected depths are below NEGLIGIBLE_EXPONENT
      buckets[bucket] = (buckets[bucket] as number) + weight;
    }
    const wanted = topP * total;
    let mass = 0;
    let depth = 0;
    while (depth < NUM_BUCKETS - 1) {
      mass += buckets[depth] as number;
      depth++;
      if (mass >= wanted) break;
    }
    // one bucket of slack: the two sums round differently
    const floor = Math.max(minP, Math.exp(-(depth + 1) / BUCKETS_PER_UNIT));
    let heapSize = 0;
    for (let i = 0; i < size; i++) {
      const weight = weights[i] as number;
      if (weight < floor) continue;
      indices[heapSize] = indices[i] as number;
      weights[heapSize++] = weight;
    }
    for (let i = (heapSize >> 1) - 1; i >= 0; i--) this.#sink(i, heapSize, true);
    // popping swaps the best to the end of the shrinking heap; the kept ones lie at [heapSize - kept, heapSize)
    let kept = 0;
    let keptMass = 0;
    while (kept < heapSize && keptMass < wanted) {
      keptMass += weights[0] as number;
      kept++;
      this.#swap(0, heapSize - kept);
      this.#sink(0, heapSize - kept, true);
    }
    indices.copyWithin(0, heapSize - kept, heapSize);
    weights.copyWithin(0, heapSize - kept, heapSize);
    return kept;
  }

  #pick(draw: number, size: number): number {
    const weights = this.#weights;
    let total = 0;
    for (let i = 0; i < size; i++) total += weights[i] as number;
    let rest = draw * total;
    for (let i = 0; i < size; i++) {
      rest -= weights[i] as number;
      if (rest < 0) return this.#indices[i] as number;
    }
    return this.#indices[size - 1] as number; // rounding left a crumb: the last one takes it
  }

  #swap(i: number, j: number): void {
    const index = this.#indices[i] as number;
    const weight = this.#weights[i] as number;
    this.#indices[i] = this.#indices[j] as number;
    this.#weights[i] = this.#weights[j] as number;
    this.#indices[j] = index;
    this.#weights[j] = weight;
  }

  /** Restores the heap below `start`: the root is the best entry (`bestFirst`) or the worst. */
  #sink(start: number, size: number, bestFirst: boolean): void {
    let parent = start;
    for (;;) {
      let top = parent;
      const left = 2 * parent + 1;
      if (left < size && this.#isBetter(left, top) === bestFirst) top = left;
      if (left + 1 < size && this.#isBetter(left + 1, top) === bestFirst) top = left + 1;
      if (top === parent) return;
      this.#swap(parent, top);
      parent = top;
    }
  }

  /** Total order: larger weight first, then the lower index. */
  #isBetter(i: number, j: number): boolean {
    const a = this.#weights[i] as number;
    const b = this.#weights[j] as number;
    return a > b || (a === b && (this.#indices[i] as number) < (this.#indices[j] as number));
  }
}
