/**
 * A row of logits, the parameters and the sequence's own random numbers -> one token. Order of the steps: logit bias and
 * penalties, temperature, top-k, top-p over what top-k left, min-p relative to the most likely token.
 * One draw per token, so the n-th token of a sequence always meets the n-th random number.
 */
import type { SamplingParams } from './engine.ts';
import { argmax } from './logprobs.ts';
import { NUM_STEPS, STEPS_PER_UNIT, samplingWeight } from './negative-exp.ts';
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

/** A bucket of the mass histogram is a quarter of a (scaled) logit below the maximum. */
const STEPS_PER_BUCKET_LOG2 = 4;
const NUM_BUCKETS = NUM_STEPS >> STEPS_PER_BUCKET_LOG2;

/**
 * Scratch for one vocabulary, reused for every row: a step allocates nothing here. Depth = how far a logit lies below the largest,
 * after temperature, in steps of the weight table.
 */
export class Sampler {
  readonly #logits: Float32Array;
  readonly #indices: Int32Array;
  readonly #weights: Float64Array;
  readonly #buckets = new Float64Array(NUM_BUCKETS);

  constructor(vocabSize: number) {
    this.#logits = new Float32Array(vocabSize);
    this.#indices = new Int32Array(vocabSize);
    this.#weights = new Float64Array(vocabSize);
  }

  /**
   * `undefined` if the row holds a NaN or has no finite maximum: the model failed for this sequence.
   * @param raw `[vocabSize]`, left as it is
   */
  sample(raw: Float32Array, params: SamplingParams, history: TokenHistory | undefined, rng: Rng): number | undefined {
    const row = this.#adjusted(raw, params, history);
    const best = argmax(row);
    if (best === undefined) return undefined;
    if (params.temperature === 0) return best;
    const draw = rng.nextFloat();
    const { topK, topP, minP } = params;
    if (topK === 1 || topP === 0) return best;
    const max = row[best] as number;
    const scale = STEPS_PER_UNIT / params.temperature;
    if (topK > 0 && topK < row.length) {
      const size = this.#collectTopK(row, topK, max, scale);
      return this.#pick(
        draw,
        topP < 1 ? this.#nucleus(topP * this.#massOf(size), minP, size) : this.#dropBelow(minP, size),
      );
    }
    if (topP < 1) {
      const wanted = topP * this.#measure(row, max, scale);
      return this.#pick(draw, this.#nucleus(wanted, minP, this.#collect(row, max, scale, this.#depthOf(wanted))));
    }
    if (minP > 0) {
      // one step of slack: the exact cut is made on the weights
      const depth = Math.min(NUM_STEPS, 1 - Math.log(minP) * STEPS_PER_UNIT);
      return this.#pick(draw, this.#dropBelow(minP, this.#collect(row, max, scale, depth)));
    }
    return this.#pickFromAll(row, max, scale, draw * this.#measure(row, max, scale));
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

  /** Fills the histogram of mass over depth and returns the whole mass. The largest weight is 1. */
  #measure(row: Float32Array, max: number, scale: number): number {
    const buckets = this.#buckets;
    buckets.fill(0);
    for (let i = 0; i < row.length; i++) {
      const depth = (max - (row[i] as number)) * scale; // i < row.length
      if (!(depth < NUM_STEPS)) continue;
      const bucket = depth >> STEPS_PER_BUCKET_LOG2;
      buckets[bucket] = (buckets[bucket] as number) + samplingWeight(depth);
    }
    let total = 0;
    for (let i = 0; i < NUM_BUCKETS; i++) total += buckets[i] as number;
    return total;
  }

  /** Depth down to which the histogram holds the wanted mass. One bucket of slack, because another order of sums rounds otherwise. */
  #depthOf(wanted: number): number {
    let mass = 0;
    let bucket = 0;
    while (bucket < NUM_BUCKETS && mass < wanted) mass += this.#buckets[bucket++] as number;
    return Math.min(NUM_BUCKETS, bucket + 1) << STEPS_PER_BUCKET_LOG2;
  }

  /** Draws from the whole vocabulary: the histogram names the bucket, a second look at the row the token in it. */
  #pickFromAll(row: Float32Array, max: number, scale: number, drawn: number): number {
    let rest = drawn;
    let bucket = 0;
    let last = 0; // non-empty bucket, should rounding lead past the end
    for (; bucket < NUM_BUCKETS; bucket++) {
      const mass = this.#buckets[bucket] as number;
      if (mass > 0) last = bucket;
      if (rest < mass) break;
      rest -= mass;
    }
    const from = Math.min(bucket, last) << STEPS_PER_BUCKET_LOG2;
    const to = from + (1 << STEPS_PER_BUCKET_LOG2);
    let token = 0;
    for (let i = 0; i < row.length; i++) {
      const depth = (max - (row[i] as number)) * scale; // i < row.length
      if (!(depth >= from && depth < to)) continue;
      token = i;
      rest -= samplingWeight(depth);
      if (rest < 0) break;
    }
    return token;
  }

  /** Every token less than `limit` steps below the maximum, in index order. Returns how many. */
  #collect(row: Float32Array, max: number, scale: number, limit: number): number {
    const indices = this.#indices;
    const weights = this.#weights;
    let size = 0;
    for (let i = 0; i < row.length; i++) {
      const depth = (max - (row[i] as number)) * scale; // i < row.length
      if (!(depth < limit)) continue;
      indices[size] = i;
      weights[size++] = samplingWeight(depth);
    }
    return size;
  }

  /** The k largest logits (lower index first on ties) through a heap whose root is the worst of them. Returns how many count. */
  #collectTopK(row: Float32Array, k: number, max: number, scale: number): number {
    const indices = this.#indices;
    const weights = this.#weights; // logits at first, weights at the end
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
      const depth = (max - (weights[i] as number)) * scale;
      if (!(depth < NUM_STEPS)) continue;
      indices[size] = indices[i] as number;
      weights[size++] = samplingWeight(depth);
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

  /** The smallest set of most likely collected tokens that holds the wanted mass, cut at `minP`: taken off a heap, never sorted. */
  #nucleus(wanted: number, minP: number, size: number): number {
    const indices = this.#indices;
    const weights = this.#weights;
    for (let i = (size >> 1) - 1; i >= 0; i--) this.#sink(i, size, true);
    // popping swaps the best to the end of the shrinking heap; the kept ones lie at [size - kept, size)
    let kept = 0;
    let mass = 0;
    while (kept < size && mass < wanted && (weights[0] as number) >= minP) {
      mass += weights[0] as number;
      kept++;
      this.#swap(0, size - kept);
      this.#sink(0, size - kept, true);
    }
    indices.copyWithin(0, size - kept, size);
    weights.copyWithin(0, size - kept, size);
    return kept;
  }

  #massOf(size: number): number {
    let total = 0;
    for (let i = 0; i < size; i++) total += this.#weights[i] as number;
    return total;
  }

  #pick(draw: number, size: number): number {
    let rest = draw * this.#massOf(size);
    for (let i = 0; i < size; i++) {
      rest -= this.#weights[i] as number;
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
