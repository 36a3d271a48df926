/** From raw P(accept) to a probability that an accept is right, with the parameters that a pack ships. Monotone in each kind. */
import type { Calibration } from './loop-pack.ts';

const EDGE = 1e-9;

function logit(probability: number): number {
  const inside = Math.min(1 - EDGE, Math.max(EDGE, probability));
  return Math.log(inside / (1 - inside));
}

function sigmoid(value: number): number {
  return 1 / (1 + Math.exp(-value));
}

/** `score` and the result are within 0..1. */
export function calibrate(calibration: Calibration, score: number): number {
  switch (calibration.kind) {
    case 'none':
      return score;
    case 'temperature':
      return sigmoid(logit(score) / calibration.temperature);
    case 'platt':
      return sigmoid(calibration.slope * logit(score) + calibration.intercept);
    case 'isotonic':
      return interpolate(calibration.points, score);
  }
}

/** Piecewise linear through the points, constant outside of them. */
function interpolate(points: readonly (readonly [number, number])[], x: number): number {
  const above = points.findIndex(([pointX]) => pointX >= x);
  const right = points[above === -1 ? points.length - 1 : above];
  if (right === undefined) return x;
  const left = above > 0 ? points[above - 1] : undefined;
  if (left === undefined || above === -1) return right[1];
  const width = right[0] - left[0];
  return width === 0 ? right[1] : left[1] + ((x - left[0]) / width) * (right[1] - left[1]);
}
