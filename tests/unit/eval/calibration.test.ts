import { describe, expect, it } from 'vitest';
import {
  binSums,
  calibrationError,
  type Forecast,
  fitTemperature,
  logLoss,
  reliability,
  withTemperature,
} from '../../../src/eval/calibration.ts';
import { createRandom } from '../../../src/eval/statistics.ts';

const forecast = (score: number, isRight: boolean): Forecast => ({ score, isRight });

describe('calibration error', () => {
  it('by hand: two bins, weighted by what they hold', () => {
    // bin 0.9: three forecasts, mean 0.95, two right; bin 0.2: one forecast of 0.2, wrong
    const all = [forecast(0.9, true), forecast(0.95, true), forecast(1, false), forecast(0.2, false)];
    expect(calibrationError([binSums(all)])).toBeCloseTo((3 / 4) * Math.abs(0.95 - 2 / 3) + (1 / 4) * 0.2, 12);
    expect(reliability(all).map(({ low, count }) => [low, count])).toEqual([
      [0.2, 1],
      [0.9, 3],
    ]);
  });

  it('of problems together is that of their forecasts together', () => {
    const random = createRandom(1);
    const all = Array.from({ length: 90 }, () => forecast(random(), random() < 0.4));
    const parts = [all.slice(0, 10), all.slice(10, 55), all.slice(55)];
    expect(calibrationError(parts.map(binSums))).toBeCloseTo(calibrationError([binSums(all)]), 12);
  });
});

describe('temperature', () => {
  it('is found where the forecasts were sharpened by a known one', () => {
    const random = createRandom(2);
    // true probabilities p, shown with their logit times 3: the temperature that undoes it is 3
    const all = Array.from({ length: 20_000 }, () => {
      const p = random();
      return forecast(withTemperature(p, 1 / 3), random() < p);
    });
    expect(fitTemperature(all)).toBeGreaterThan(2.8);
    expect(fitTemperature(all)).toBeLessThan(3.2);
  });

  it('is the least of a grid', () => {
    const random = createRandom(3);
    const all = Array.from({ length: 60 }, () => forecast(random(), random() < 0.5));
    const best = logLoss(all, fitTemperature(all));
    for (let t = 0.05; t <= 20; t *= 1.1) expect(best).toBeLessThanOrEqual(logLoss(all, t) + 1e-9);
  });

  it('does not lose itself in certain forecasts', () => {
    expect(fitTemperature([forecast(1, false), forecast(0, true)])).toBeCloseTo(20, 1);
    expect(fitTemperature([])).toBe(1);
    expect(Number.isFinite(logLoss([forecast(1, false)], 0.05))).toBe(true);
  });
});
