/** Estimates from a finite sample: exact expectations over subsets, and intervals by drawing problems again. Pure. */

export interface Estimate {
  /** Null where the denominator is empty. */
  readonly value: number | null;
  /** Bootstrap over problems, 95 %: the percentiles of the draws, or (`reflect`) their reflection about the value. */
  readonly low: number | null;
  readonly high: number | null;
}

/** Numerator and denominator that one problem adds to a ratio. */
export type Share = readonly [numerator: number, denominator: number];

/** Indices of the problems of each bootstrap draw. */
export type Draws = readonly Uint32Array[];

/** A seeded generator of numbers in [0, 1): SFC32 over four words made of the seed. */
export function createRandom(seed: number): () => number {
  let a = 0x9e3779b9;
  let b = seed >>> 0;
  let c = 0x243f6a88;
  let counter = 1;
  const next = (): number => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    c |= 0;
    return (sum >>> 0) / 2 ** 32;
  };
  for (let warmUp = 0; warmUp < 12; warmUp++) next();
  return next;
}

/** `count` draws of `numProblems` problems with replacement. */
export function drawProblems(numProblems: number, count: number, seed: number): Draws {
  const random = createRandom(seed);
  return Array.from({ length: count }, () =>
    Uint32Array.from({ length: numProblems }, () => Math.floor(random() * numProblems)),
  );
}

/** A statistic with its interval; draws in which it does not exist (NaN) are left out. */
export function estimate(
  statistic: (problems: ArrayLike<number>) => number,
  all: readonly unknown[],
  draws: Draws,
): Estimate {
  const value = statistic(all.map((_, index) => index));
  if (Number.isNaN(value)) return { value: null, low: null, high: null };
  const drawn = draws.map(statistic).filter((found) => !Number.isNaN(found));
  drawn.sort((x, y) => x - y);
  return { value, low: quantile(drawn, 0.025), high: quantile(drawn, 0.975) };
}

/**
 * The basic bootstrap interval in place of the percentiles, for a share of 1 that is larger in draws than in what they are drawn
 * from, as sums of errors are: the draws lie above the value about as far as the value lies above the truth.
 */
export function reflect({ value, low, high }: Estimate): Estimate {
  if (value === null || low === null || high === null) return { value, low, high };
  const [below, above] = [2 * value - high, 2 * value - low];
  return { value, low: Math.min(value, Math.max(0, below)), high: Math.max(value, Math.min(1, above)) };
}

/** Sum of the numerators over sum of the denominators. */
export function estimateRatio(shares: readonly Share[], draws: Draws): Estimate {
  return estimate(
    (problems) => {
      let numerator = 0;
      let denominator = 0;
      for (let index = 0; index < problems.length; index++) {
        const share = shares[problems[index] as number];
        numerator += share?.[0] ?? 0;
        denominator += share?.[1] ?? 0;
      }
      return numerator / denominator;
    },
    shares,
    draws,
  );
}

/** Linear between the neighbours; null of nothing. */
export function quantile(sorted: readonly number[], probability: number): number | null {
  const at = probability * (sorted.length - 1);
  const below = sorted[Math.floor(at)];
  const above = sorted[Math.ceil(at)];
  if (below === undefined || above === undefined) return null;
  return below + (above - below) * (at - Math.floor(at));
}

/** P(none of `marked` of `total` is among `drawn` without replacement). */
function probabilityOfNone(total: number, marked: number, drawn: number): number {
  let probability = 1;
  for (let index = 0; index < drawn; index++) {
    if (total - marked - index <= 0) return 0;
    probability *= (total - marked - index) / (total - index);
  }
  return probability;
}

/** P(at least one of k samples is right), without bias from `numRight` of `total` samples. k <= total. */
export function passAtK(total: number, numRight: number, k: number): number {
  return 1 - probabilityOfNone(total, numRight, k);
}

export interface ScoredSample {
  readonly score: number;
  readonly isRight: boolean;
}

/** P(the sample with the highest score of n, drawn without replacement, is right); equal scores are chosen from evenly. */
export function bestOfN(samples: readonly ScoredSample[], n: number): number {
  const byScore = new Map<number, { count: number; numRight: number }>();
  for (const { score, isRight } of samples) {
    const group = byScore.get(score) ?? { count: 0, numRight: 0 };
    byScore.set(score, { count: group.count + 1, numRight: group.numRight + (isRight ? 1 : 0) });
  }
  let expected = 0;
  let numAbove = 0;
  for (const [, { count, numRight }] of [...byScore].sort(([a], [b]) => b - a)) {
    const isBest =
      probabilityOfNone(samples.length, numAbove, n) - probabilityOfNone(samples.length, numAbove + count, n);
    expected += (isBest * numRight) / count;
    numAbove += count;
  }
  return expected;
}

export interface JudgedSample {
  readonly isAccepted: boolean;
  readonly isRight: boolean;
}

/**
 * Independent samples until one is accepted, at most n, drawn without replacement; the last one where none is: the probability
 * that the answer is right, and the expected number of samples.
 */
export function resampleUntilAccepted(
  samples: readonly JudgedSample[],
  n: number,
): { readonly isRight: number; readonly draws: number } {
  const total = samples.length;
  const rightShare = (of: readonly JudgedSample[]): number =>
    of.length === 0 ? 0 : of.filter(({ isRight }) => isRight).length / of.length;
  const accepted = samples.filter(({ isAccepted }) => isAccepted);
  const others = samples.filter(({ isAccepted }) => !isAccepted);
  const none = probabilityOfNone(total, accepted.length, n);
  let draws = 0;
  for (let index = 0; index < n; index++) draws += probabilityOfNone(total, accepted.length, index);
  return { isRight: (1 - none) * rightShare(accepted) + none * rightShare(others), draws };
}
