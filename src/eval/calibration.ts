/** How far P(accept) can be believed: calibration error, Brier score, and the temperature that fits best. Pure. */

/** What the verifier said, and whether the attempt was right. */
export interface Forecast {
  /** P(accept), 0..1. */
  readonly score: number;
  readonly isRight: boolean;
}

export interface ReliabilityBin {
  readonly low: number;
  readonly high: number;
  readonly count: number;
  readonly mean_score: number;
  readonly share_right: number;
}

export const numBins = 10;

/** Bin of equal width; 1 belongs to the last. */
export function binOf(score: number): number {
  return Math.min(numBins - 1, Math.floor(score * numBins));
}

/** Bins that hold something. */
export function reliability(forecasts: readonly Forecast[]): ReliabilityBin[] {
  return Array.from({ length: numBins }, (_, bin) => {
    const inside = forecasts.filter(({ score }) => binOf(score) === bin);
    const sum = (pick: (forecast: Forecast) => number): number => inside.reduce((total, one) => total + pick(one), 0);
    return {
      low: bin / numBins,
      high: (bin + 1) / numBins,
      count: inside.length,
      mean_score: sum(({ score }) => score) / inside.length,
      share_right: sum(({ isRight }) => Number(isRight)) / inside.length,
    };
  }).filter(({ count }) => count > 0);
}

/** Sums over the forecasts of one problem by bin; adding problems up gives the error of them all. */
export interface BinSums {
  readonly counts: Float64Array;
  readonly scores: Float64Array;
  readonly rights: Float64Array;
}

export function binSums(forecasts: readonly Forecast[]): BinSums {
  const sums = emptySums();
  for (const { score, isRight } of forecasts) {
    const bin = binOf(score);
    // within the bounds by `binOf`
    (sums.counts[bin] as number) += 1;
    (sums.scores[bin] as number) += score;
    (sums.rights[bin] as number) += Number(isRight);
  }
  return sums;
}

function emptySums(): BinSums {
  return {
    counts: new Float64Array(numBins),
    scores: new Float64Array(numBins),
    rights: new Float64Array(numBins),
  };
}

/** Expected calibration error: mean gap between score and share right, weighted by bin. NaN of nothing. */
export function calibrationError(parts: Iterable<BinSums>): number {
  const all = emptySums();
  for (const { counts, scores, rights } of parts) {
    for (let bin = 0; bin < numBins; bin++) {
      (all.counts[bin] as number) += counts[bin] as number;
      (all.scores[bin] as number) += scores[bin] as number;
      (all.rights[bin] as number) += rights[bin] as number;
    }
  }
  const total = all.counts.reduce((sum, count) => sum + count, 0);
  return all.scores.reduce((sum, score, bin) => sum + Math.abs(score - (all.rights[bin] as number)), 0) / total;
}

/** As the server's own calibration and the trainer clip: a temperature that is fitted here is applied there. */
const edge = 1e-9;

function logit(score: number): number {
  const inside = Math.min(1 - edge, Math.max(edge, score));
  return Math.log(inside / (1 - inside));
}

export function withTemperature(score: number, temperature: number): number {
  return 1 / (1 + Math.exp(-logit(score) / temperature));
}

/** Mean negative log-likelihood, nats. */
export function logLoss(forecasts: readonly Forecast[], temperature: number): number {
  let loss = 0;
  for (const { score, isRight } of forecasts) {
    const z = (isRight ? 1 : -1) * (logit(score) / temperature);
    // log(1 + exp(-z)) without overflow
    loss += z > 0 ? Math.log1p(Math.exp(-z)) : -z + Math.log1p(Math.exp(z));
  }
  return loss / forecasts.length;
}

/** The temperature within 0.05..20 of the least log-loss (golden-section search; the loss has one valley in 1/T). */
export function fitTemperature(forecasts: readonly Forecast[]): number {
  if (forecasts.length === 0) return 1;
  const golden = (Math.sqrt(5) - 1) / 2;
  let low = 1 / 20;
  let high = 20;
  const loss = (inverse: number): number => logLoss(forecasts, 1 / inverse);
  let left = high - golden * (high - low);
  let right = low + golden * (high - low);
  let [atLeft, atRight] = [loss(left), loss(right)];
  for (let step = 0; step < 60; step++) {
    if (atLeft < atRight) {
      [high, right, atRight] = [right, left, atLeft];
      left = high - golden * (high - low);
      atLeft = loss(left);
    } else {
      [low, left, atLeft] = [left, right, atRight];
      right = low + golden * (high - low);
      atRight = loss(right);
    }
  }
  return 2 / (low + high);
}
