/** The trainer has the same statistics in Python; `training/tests/test_golden_statistics.py` holds them against the same file. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { binSums, calibrationError, fitTemperature } from '../../../src/eval/calibration.ts';
import { drawProblems, estimateRatio } from '../../../src/eval/statistics.ts';

interface Golden {
  readonly forecasts: readonly { readonly score: number; readonly right: boolean }[];
  readonly calibration_error: number;
  readonly temperature: number;
  readonly bootstrap: {
    readonly values: readonly number[];
    readonly resamples: number;
    readonly seed: number;
    readonly low: number;
    readonly high: number;
  };
}

const golden = JSON.parse(readFileSync(new URL('../../goldens/statistics.json', import.meta.url), 'utf8')) as Golden;
const forecasts = golden.forecasts.map(({ score, right }) => ({ score, isRight: right }));

describe('statistics that the trainer computes too', () => {
  it('calibration error', () => {
    expect(calibrationError([binSums(forecasts)])).toBeCloseTo(golden.calibration_error, 12);
  });

  it('temperature, clipped where the server clips', () => {
    expect(fitTemperature(forecasts) / golden.temperature).toBeCloseTo(1, 6);
  });

  it('interval of a mean over problems', () => {
    const { values, resamples, seed, low, high } = golden.bootstrap;
    const found = estimateRatio(
      values.map((value) => [value, 1] as const),
      drawProblems(values.length, resamples, seed),
    );
    expect(found.low).toBeCloseTo(low, 12);
    expect(found.high).toBeCloseTo(high, 12);
  });
});
