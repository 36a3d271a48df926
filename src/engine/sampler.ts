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

interface NucleusOptions {
  readonly topP: number;
  /** Of the collected tokens, or of all where `tail` is 0. */
  readonly mass: number;
  /** Most that the tokens weigh that were not collected. */
  readonly tail: number;
  readonly minP: number;
  readonly size: number;
}

/** A bucket of the mass histogram is a quarter of a (scaled) logit below the maximum. */
const STEPS_PER_BUCKET_LOG2 = 4;
const NUM_BUCKETS = NUM_STEPS >> STEPS_PER_BUCKET_LOG2;

/**
 * The head of a row is what lies less than so many units below the maximum; the rest, its tail, weighs next to nothing. What the
 * tail weighs is summed only where the answer could depend on it.
 */
const HEAD_UNITS = 16;
const HEAD_STEPS = HEAD_UNITS * STEPS_PER_UNIT;
/** More than any weight of the tail. */
const TAIL_WEIGHT = 1.000001 * Math.exp(-HEAD_UNITS);
const NUM_TAIL_LEVELS = 3;
/** Of the depth's step, 0 in the head and behind the last step. */
const tailWeights = Float64Array.from({ length: NUM_STEPS + 1 }, (_, step) =>
  step < HEAD_STEPS || step === NUM_STEPS ? 0 : samplingWeight(step),
);
/** Two float32 that differ do so by more than 44 times this: from here on down nothing but the maximum has a weight. */
const MIN_TEMPERATURE = 1e-47;
/** What a step of depth more makes of a weight, and a little less. */
const STEP_WEIGHT = 0.99999 * Math.exp(-1 / STEPS_PER_UNIT);

/**
 * Scratch for one vocabulary, reused for every row: a step allocates nothing here. Depth = how far a logit lies below the largest,
 * after temperature, in steps of the weight table.
 */
export class Sampler {
  readonly #logits: Float32Array;
  readonly #indices: Int32Array;
  readonly #weights: Float64Array;
  readonly #buckets = new Float64Array(NUM_BUCKETS);
  /** Largest logit of the row at hand, and steps per logit at its temperature. */
  #max = 0;
  #scale = 1;

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
    if (params.temperature === 0) return argmax(row);
    const best = this.#find(row, params.temperature);
    if (best === undefined) return undefined;
    const draw = rng.nextFloat();
    const { temperature, topK, topP, minP } = params;
    if (temperature < MIN_TEMPERATURE || topK === 1 || topP === 0) return best.token;
    const size = this.#weigh(row, best.numNear);
    const tail = (row.length - size) * TAIL_WEIGHT;
    if (topK > 0 && topK < row.length) {
      const kept = this.#topK(row, topK, topK <= size ? size : this.#takeAll(row));
      const mass = this.#massOf(kept);
      return this.#pick(
        draw,
        topP < 1 ? this.#nucleus(row, { topP, mass, tail: 0, minP, size: kept }) : this.#dropBelow(minP, kept),
      );
    }
    if (topP < 1) {
      const mass = this.#massOf(size);
      const spare = mass - topP * (mass + tail);
      if (spare >= 0) {
        // together they are not missed, so none of them is among the most likely ones that hold the share
        const kept = this.#dropBelow(spare / size, size);
        return this.#pick(draw, this.#nucleus(row, { topP, mass, tail, minP, size: kept }));
      }
      const all = this.#measure(row);
      const collected = this.#collect(row, this.#depthOf(topP * all));
      return this.#pick(draw, this.#nucleus(row, { topP, mass: all, tail: 0, minP, size: collected }));
    }
    if (minP > TAIL_WEIGHT) return this.#pick(draw, this.#dropBelow(minP, size));
    if (minP > 0) {
      // one step of slack: the exact cut is made on the weights
      const depth = Math.min(NUM_STEPS, 1 - Math.log(minP) * STEPS_PER_UNIT);
      return this.#pick(draw, this.#dropBelow(minP, this.#collect(row, depth)));
    }
    return this.#pickFromAll(row, draw, size, tail);
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

  /** The most likely token, and how many were taken to `indices` that hold the whole head, in index order. As `argmax` fails. */
  #find(row: Float32Array, temperature: number): { readonly token: number; readonly numNear: number } | undefined {
    const indices = this.#indices;
    const reach = (HEAD_UNITS + 1) * temperature; // a unit of slack for rounding: the exact cut is made on the depth
    let max = Number.NEGATIVE_INFINITY;
    let threshold = Number.NEGATIVE_INFINITY;
    let token = -1;
    let numNear = 0;
    for (let i = 0; i < row.length; i++) {
      const value = row[i] as number; // i < row.length
      if (value <= threshold) continue; // the one comparison that nearly every value takes
      if (!(value > threshold)) return undefined; // neither: a NaN
      if (value > max) {
        max = value;
        token = i;
        threshold = max - reach;
      }
      indices[numNear++] = i;
    }
    this.#max = max;
    this.#scale = STEPS_PER_UNIT / temperature;
    return token < 0 || max === Number.POSITIVE_INFINITY ? undefined : { token, numNear };
  }

  /** Cuts what `find` took to the head, with weights; the largest is 1. Returns how many are left. */
  #weigh(row: Float32Array, numNear: number): number {
    const indices = this.#indices;
    const weights = this.#weights;
    const max = this.#max;
    const scale = this.#scale;
    let size = 0;
    for (let i = 0; i < numNear; i++) {
      const token = indices[i] as number;
      const depth = (max - (row[token] as number)) * scale;
      if (!(depth < HEAD_STEPS)) continue;
      indices[size] = token;
      weights[size++] = samplingWeight(depth);
    }
    return size;
  }

  /**
   * Between what and what the tail's mass lies, closer with each level: at 0 for nothing, at 1 by one look at the row (1.6 % apart),
   * at 2 exactly.
   * @param most what it cannot exceed
   */
  #tailMass(row: Float32Array, most: number, level: number): readonly [number, number] {
    if (level === 0) return [0, most];
    if (level === 1) {
      const high = this.#roundedTailMass(row);
      return [high * STEP_WEIGHT, high];
    }
    let mass = 0;
    for (let i = 0; i < row.length; i++) {
      const depth = (this.#max - (row[i] as number)) * this.#scale; // i < row.length
      if (depth >= HEAD_STEPS && depth < NUM_STEPS) mass += samplingWeight(depth);
    }
    return [mass, mass];
  }

  /** With depths rounded up the row; no branch and four sums, because this loop is what a wide nucleus costs. */
  #roundedTailMass(row: Float32Array): number {
    const max = this.#max;
    const scale = this.#scale;
    const end = row.length & ~3;
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let i = 0; i < end; i += 4) {
      a += tailWeights[Math.min((max - (row[i] as number)) * scale, NUM_STEPS) | 0] as number;
      b += tailWeights[Math.min((max - (row[i + 1] as number)) * scale, NUM_STEPS) | 0] as number;
      c += tailWeights[Math.min((max - (row[i + 2] as number)) * scale, NUM_STEPS) | 0] as number;
      d += tailWeights[Math.min((max - (row[i + 3] as number)) * scale, NUM_STEPS) | 0] as number;
    }
    for (let i = end; i < row.length; i++) {
      a += tailWeights[Math.min((max - (row[i] as number)) * scale, NUM_STEPS) | 0] as number;
    }
    return 1.000001 * (a + b + c + d);
  }

  /** Fills the histogram of mass over depth and returns the whole mass. */
  #measure(row: Float32Array): number {
    const max = this.#max;
    const scale = this.#scale;
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

  /**
   * Draws from the whole vocabulary, laid out as the head in index order and then the tail. Where the draw falls between what it
   * would be without a tail and what it would be with the heaviest possible one decides whether the tail has to be summed.
   */
  #pickFromAll(row: Float32Array, draw: number, size: number, tail: number): number {
    const mass = this.#massOf(size);
    let drawn = draw * mass;
    for (let level = 0; level < NUM_TAIL_LEVELS; level++) {
      const [low, high] = tail === 0 ? [0, 0] : this.#tailMass(row, tail, level);
      drawn = draw * (mass + low);
      if (drawn >= mass && low < high) continue;
      const [place, end] = this.#placeOf(drawn, size);
      if (draw * (mass + high) < end || (low === high && drawn < mass)) return this.#indices[place] as number;
    }
    let rest = drawn - mass;
    let token = this.#indices[size - 1] as number; // should rounding lead past the end
    for (let i = 0; i < row.length; i++) {
      const depth = (this.#max - (row[i] as number)) * this.#scale; // i < row.length
      if (!(depth >= HEAD_STEPS && depth < NUM_STEPS)) continue;
      token = i;
      rest -= samplingWeight(depth);
      if (rest < 0) break;
    }
    return token;
  }

  /** The collected token at this place of the summed weights, and where it ends. */
  #placeOf(drawn: number, size: number): readonly [number, number] {
    let end = 0;
    for (let i = 0; i < size; i++) {
      end += this.#weights[i] as number;
      if (drawn < end) return [i, end];
    }
    return [size - 1, end]; // rounding left a crumb: the last one takes it
  }

  /** Every token less than `limit` steps below the maximum, in index order. Returns how many. */
  #collect(row: Float32Array, limit: number): number {
    const max = this.#max;
    const scale = this.#scale;
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

  #takeAll(row: Float32Array): number {
    for (let i = 0; i < row.length; i++) this.#indices[i] = i;
    return row.length;
  }

  /**
   * The k largest logits of the first `size` collected tokens (lower index first on ties) through a heap whose root is the worst of
   * them. Returns how many count.
   */
  #topK(row: Float32Array, k: number, size: number): number {
    const indices = this.#indices;
    const weights = this.#weights; // logits at first, weights at the end
    for (let i = 0; i < k; i++) weights[i] = row[indices[i] as number] as number; // k <= size
    for (let i = (k >> 1) - 1; i >= 0; i--) this.#sink(i, k, false);
    let worst = weights[0] as number;
    for (let i = k; i < size; i++) {
      const token = indices[i] as number;
      const value = row[token] as number;
      if (!(value > worst)) continue; // an equal one has the higher index
      indices[0] = token;
      weights[0] = value;
      this.#sink(0, k, false);
      worst = weights[0] as number;
    }
    let kept = 0;
    for (let i = 0; i < k; i++) {
      const depth = (this.#max - (weights[i] as number)) * this.#scale;
      if (!(depth < NUM_STEPS)) continue;
      indices[kept] = indices[i] as number;
      weights[kept++] = samplingWeight(depth);
    }
    return kept;
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
   * The smallest set of most likely collected tokens that holds the share `topP` of all mass, cut at `minP`: taken off a heap, never
   * sorted. All mass is that of the collected tokens and what `tail` stands for, which is summed only if the set depends on it.
   */
  #nucleus(row: Float32Array, { topP, mass, tail, minP, size }: NucleusOptions): number {
    const indices = this.#indices;
    const weights = this.#weights;
    for (let i = (size >> 1) - 1; i >= 0; i--) this.#sink(i, size, true);
    // popping swaps the best to the end of the shrinking heap; the kept ones lie at [size - kept, size)
    let kept = 0;
    let held = 0;
    const take = (wanted: number): void => {
      while (kept < size && held < wanted && (weights[0] as number) >= minP) {
        held += weights[0] as number;
        kept++;
        this.#swap(0, size - kept);
        this.#sink(0, size - kept, true);
      }
    };
    for (let level = 0; level < NUM_TAIL_LEVELS; level++) {
      const [low, high] = tail === 0 ? [0, 0] : this.#tailMass(row, tail, level);
      take(topP * (mass + low));
      if (held >= topP * (mass + high) || tail === 0 || kept === size || (weights[0] as number) < minP) break;
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
    return this.#indices[this.#placeOf(draw * this.#massOf(size), size)[0]] as number;
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
