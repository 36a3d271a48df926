import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  bestOfN,
  createRandom,
  drawProblems,
  estimateRatio,
  passAtK,
  quantile,
  reflect,
  resampleUntilAccepted,
  type Share,
} from '../../../src/eval/statistics.ts';

/** Every ordered choice of n of the items without replacement. */
function* arrangements<T>(items: readonly T[], n: number): Generator<readonly T[]> {
  if (n === 0) {
    yield [];
    return;
  }
  for (const [index, item] of items.entries()) {
    for (const rest of arrangements(items.toSpliced(index, 1), n - 1)) yield [item, ...rest];
  }
}

function meanOver<T>(items: readonly T[], n: number, value: (chosen: readonly T[]) => number): number {
  let [sum, count] = [0, 0];
  for (const chosen of arrangements(items, n)) {
    sum += value(chosen);
    count += 1;
  }
  return sum / count;
}

const samples = fc.array(
  fc.record({ score: fc.constantFrom(0.1, 0.5, 0.9), isRight: fc.boolean(), isAccepted: fc.boolean() }),
  { minLength: 1, maxLength: 5 },
);
const withN = samples.chain((all) => fc.tuple(fc.constant(all), fc.integer({ min: 1, max: all.length })));

describe('exact expectations over subsets equal those over all arrangements', () => {
  it('pass@k', () => {
    fc.assert(
      fc.property(withN, ([all, k]) => {
        const slow = meanOver(all, k, (chosen) => Number(chosen.some(({ isRight }) => isRight)));
        expect(passAtK(all.length, all.filter(({ isRight }) => isRight).length, k)).toBeCloseTo(slow, 12);
      }),
    );
  });

  it('best of n, equal scores chosen from evenly', () => {
    fc.assert(
      fc.property(withN, ([all, n]) => {
        const slow = meanOver(all, n, (chosen) => {
          const top = Math.max(...chosen.map(({ score }) => score));
          const best = chosen.filter(({ score }) => score === top);
          return best.filter(({ isRight }) => isRight).length / best.length;
        });
        expect(bestOfN(all, n)).toBeCloseTo(slow, 12);
      }),
    );
  });

  it('resampling until one is accepted, and what it draws', () => {
    fc.assert(
      fc.property(withN, ([all, n]) => {
        const stopOf = (chosen: typeof all): number => {
          const first = chosen.findIndex(({ isAccepted }) => isAccepted);
          return first === -1 ? n - 1 : first;
        };
        const right = meanOver(all, n, (chosen) => Number(chosen[stopOf([...chosen])]?.isRight));
        const draws = meanOver(all, n, (chosen) => stopOf([...chosen]) + 1);
        const found = resampleUntilAccepted(all, n);
        expect(found.isRight).toBeCloseTo(right, 12);
        expect(found.draws).toBeCloseTo(draws, 12);
      }),
    );
  });
});

describe('bootstrap', () => {
  it('repeats itself for a seed and differs for another', () => {
    const draws = (seed: number) => drawProblems(20, 3, seed).map((draw) => [...draw]);
    expect(draws(1)).toEqual(draws(1));
    expect(draws(1)).not.toEqual(draws(2));
    expect(
      draws(1)
        .flat()
        .every((index) => index >= 0 && index < 20),
    ).toBe(true);
  });

  it('draws evenly', () => {
    const random = createRandom(5);
    const counts = new Array<number>(10).fill(0);
    for (let index = 0; index < 10_000; index++) {
      const bin = Math.floor(random() * 10);
      counts[bin] = (counts[bin] ?? 0) + 1;
    }
    // chi-square with 9 degrees of freedom; above 33.7 in one of 10,000 fair generators
    expect(counts.reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0)).toBeLessThan(33.7);
  });

  it('gives the interval that the normal approximation gives for a proportion', () => {
    const shares = Array.from({ length: 400 }, (_, index): Share => [index < 120 ? 1 : 0, 1]);
    const { value, low, high } = estimateRatio(shares, drawProblems(400, 2000, 3));
    const halfWidth = 1.96 * Math.sqrt((0.3 * 0.7) / 400);
    expect(value).toBe(0.3);
    expect(low).toBeCloseTo(0.3 - halfWidth, 2);
    expect(high).toBeCloseTo(0.3 + halfWidth, 2);
  });

  it('weighs problems by their denominators, and knows nothing of nothing', () => {
    expect(
      estimateRatio(
        [
          [1, 1],
          [0, 3],
        ],
        [],
      ).value,
    ).toBe(0.25);
    expect(estimateRatio([[0, 0]], drawProblems(1, 5, 1))).toEqual({ value: null, low: null, high: null });
  });

  it('reflects an interval about its value, cut off at 0, at 1 and at the value', () => {
    const at = (value: number, low: number, high: number) => reflect({ value, low, high });
    expect(at(0.5, 0.25, 0.625)).toEqual({ value: 0.5, low: 0.375, high: 0.75 });
    expect(at(0.25, 0.375, 0.75)).toEqual({ value: 0.25, low: 0, high: 0.25 });
    expect(at(0.5, 0.125, 0.25)).toEqual({ value: 0.5, low: 0.5, high: 0.875 });
    expect(at(0.75, 0.25, 0.875)).toEqual({ value: 0.75, low: 0.625, high: 1 });
    expect(reflect({ value: 1, low: null, high: null })).toEqual({ value: 1, low: null, high: null });
  });

  it('quantiles lie between neighbours', () => {
    expect([0, 0.25, 0.5, 1].map((p) => quantile([1, 2, 4], p))).toEqual([1, 1.5, 2, 4]);
    expect(quantile([], 0.5)).toBeNull();
  });
});
