import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SamplingParams } from '../../../src/engine/engine.ts';
import { argmax, logSumExp, rowLogprobs, topIndices } from '../../../src/engine/logprobs.ts';
import { NEGLIGIBLE_EXPONENT, negativeExp } from '../../../src/engine/negative-exp.ts';
import { Rng } from '../../../src/engine/rng.ts';
import { Sampler, type TokenHistory } from '../../../src/engine/sampler.ts';
import { DEFAULT_SAMPLING } from '../../../src/engine/sampling-params.ts';

const params = (changes: Partial<SamplingParams>): SamplingParams => ({ ...DEFAULT_SAMPLING, ...changes });

/** The filters written down plainly: sort everything, cut, renormalise. */
function referenceDistribution(row: Float32Array, { temperature, topK, topP, minP }: SamplingParams): number[] {
  const max = Math.max(...row);
  const weights = Array.from(row, (logit) => Math.exp((logit - max) / temperature));
  let order = weights.map((_, i) => i).sort((a, b) => (row[b] as number) - (row[a] as number) || a - b);
  if (topK > 0) order = order.slice(0, topK);
  const total = order.reduce((sum, i) => sum + (weights[i] as number), 0);
  const kept: number[] = [];
  let mass = 0;
  for (const i of order) {
    if (kept.length > 0 && mass >= topP * total) break;
    mass += weights[i] as number;
    kept.push(i);
  }
  const survivors = kept.filter((i) => (weights[i] as number) >= minP);
  const left = survivors.reduce((sum, i) => sum + (weights[i] as number), 0);
  const probabilities = weights.map(() => 0);
  for (const i of survivors) probabilities[i] = (weights[i] as number) / left;
  return probabilities;
}

function randomRow(size: number, seed: number, spread = 6): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length: size }, () => (rng.nextFloat() - 0.5) * 2 * spread);
}

/** Upper tail of chi-square by the Wilson-Hilferty approximation, as a standard normal deviate. */
function chiSquareDeviate(statistic: number, degrees: number): number {
  const ratio = 2 / (9 * degrees);
  return ((statistic / degrees) ** (1 / 3) - (1 - ratio)) / Math.sqrt(ratio);
}

describe('Rng', () => {
  it('is reproducible, and close seeds are unrelated', () => {
    const draw = (seed: number): number[] => {
      const rng = new Rng(seed);
      return Array.from({ length: 8 }, () => rng.nextUint32());
    };
    expect(draw(7)).toEqual(draw(7));
    const seen = new Set([0, 1, 2, 3, 0xffff_ffff].flatMap(draw));
    expect(seen.size).toBe(40);
  });

  it('is uniform in [0, 1), also over the first draw of many seeds (false alarm once in 10^7 runs of other seeds)', () => {
    const streams: (() => number)[] = [];
    const single = new Rng(99);
    streams.push(() => single.nextFloat());
    let seed = 0;
    streams.push(() => new Rng(seed++).nextFloat());
    for (const next of streams) {
      const counts = new Array<number>(64).fill(0);
      const draws = 64_000;
      for (let i = 0; i < draws; i++) {
        const bin = Math.floor(next() * 64);
        counts[bin] = (counts[bin] ?? Number.NaN) + 1; // a value outside of [0, 1) spoils the statistic
      }
      expect(counts).toHaveLength(64);
      const statistic = counts.reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0);
      expect(chiSquareDeviate(statistic, 63)).toBeLessThan(5.2);
    }
  });
});

describe('negativeExp', () => {
  it('equals Math.exp to 1e-11 and ends at the negligible', () => {
    let worst = 0;
    for (let i = 0; i < 20_000; i++) {
      const x = (i / 20_000) * NEGLIGIBLE_EXPONENT;
      worst = Math.max(worst, Math.abs(negativeExp(x) / Math.exp(-x) - 1));
    }
    expect(worst).toBeLessThan(1e-11);
    expect(negativeExp(NEGLIGIBLE_EXPONENT)).toBe(0);
    expect(negativeExp(Number.POSITIVE_INFINITY)).toBe(0);
  });
});

describe('log-probabilities', () => {
  it('are the exact log-softmax with the best alternatives first', () => {
    const row = randomRow(5000, 3, 20);
    const max = Math.max(...row);
    const norm = max + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - max), 0));
    const best = argmax(row) as number;
    expect(logSumExp(row, row[best] as number)).toBeCloseTo(norm, 10);
    const found = rowLogprobs(row, [17, 4711], 3);
    expect(found?.logprobs[0]).toBeCloseTo((row[17] as number) - norm, 10);
    expect(found?.logprobs[1]).toBeCloseTo((row[4711] as number) - norm, 10);
    const sorted = [...row.keys()].sort((a, b) => (row[b] as number) - (row[a] as number) || a - b);
    expect(found?.topTokens).toEqual(sorted.slice(0, 3));
  });

  it('picks the lower index among equals', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 30 }),
        fc.nat(32),
        (values, count) => {
          const row = Float32Array.from(values);
          const sorted = [...row.keys()].sort((a, b) => (row[b] as number) - (row[a] as number) || a - b);
          expect(topIndices(row, count)).toEqual(sorted.slice(0, count));
          expect(argmax(row)).toBe(sorted[0]);
        },
      ),
    );
  });

  it.each([
    ['NaN', [1, Number.NaN, 2]],
    ['+Infinity', [1, Number.POSITIVE_INFINITY]],
    ['only -Infinity', [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]],
  ])('refuse a row with %s', (_, values) => {
    const row = Float32Array.from(values);
    expect(rowLogprobs(row, [0], 1)).toBeUndefined();
    expect(new Sampler(row.length).sample(row, params({}), undefined, new Rng(0))).toBeUndefined();
    expect(new Sampler(row.length).sample(row, params({ temperature: 0 }), undefined, new Rng(0))).toBeUndefined();
  });
});

describe('Sampler', () => {
  it.each<Partial<SamplingParams>>([
    {},
    { temperature: 0.5 },
    { temperature: 1.7, topK: 12 },
    { topP: 0.9 },
    { temperature: 1.3, topP: 0.6, topK: 20 },
    { minP: 0.05 },
    { topP: 0.95, minP: 0.02, temperature: 0.8 },
  ])('draws from the filtered distribution, %o (false alarm once in 10^7 runs of other seeds)', (changes) => {
    const row = randomRow(60, 11, 2);
    const sampler = new Sampler(row.length);
    const sampling = params(changes);
    const expected = referenceDistribution(row, sampling);
    const counts = new Array<number>(row.length).fill(0);
    const rng = new Rng(5);
    const draws = 20_000;
    for (let i = 0; i < draws; i++) {
      const token = sampler.sample(row, sampling, undefined, rng) as number;
      counts[token] = (counts[token] as number) + 1;
    }
    let statistic = 0;
    let cells = 0;
    let restExpected = 0;
    let restCount = 0;
    for (const [token, probability] of expected.entries()) {
      const count = counts[token] as number;
      if (probability === 0) expect(count, `token ${token} was filtered out`).toBe(0);
      else if (probability * draws < 8) {
        restExpected += probability * draws; // small cells are pooled, as the test needs
        restCount += count;
      } else {
        statistic += (count - probability * draws) ** 2 / (probability * draws);
        cells++;
      }
    }
    if (restExpected > 0) {
      statistic += (restCount - restExpected) ** 2 / restExpected;
      cells++;
    }
    expect(chiSquareDeviate(statistic, cells - 1)).toBeLessThan(5.2);
  });

  it('keeps exactly the tokens that plain sorting keeps', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 1_000_000 }),
        fc.integer({ min: 2, max: 200 }),
        fc.record({
          temperature: fc.constantFrom(0.1, 0.7, 1, 2),
          topK: fc.constantFrom(0, 1, 2, 7, 50, 1000),
          topP: fc.constantFrom(0.01, 0.3, 0.9, 0.999, 1),
          minP: fc.constantFrom(0, 0.001, 0.1, 1),
        }),
        fc.boolean(),
        (seed, size, filters, coarse) => {
          const row = randomRow(size, seed, 8);
          if (coarse) for (let i = 0; i < size; i++) row[i] = Math.round(row[i] as number); // ties
          const sampling = params(filters);
          const expected = referenceDistribution(row, sampling);
          const sampler = new Sampler(size);
          const rng = new Rng(seed);
          for (let i = 0; i < 20; i++) {
            const token = sampler.sample(row, sampling, undefined, rng) as number;
            expect(expected[token], `token ${token} of ${size}`).toBeGreaterThan(0);
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  it('gives the far tail of a large vocabulary its exact share', () => {
    // 60,000 tokens 16.2 below the best weigh more than half a percent together, and none of them alone
    const row = Float32Array.from({ length: 60_000 }, (_, i) => 3.8 + (i % 7) / 1000);
    const likely = new Map([
      [100, 20],
      [30_000, 19],
      [59_000, 19.5],
    ]);
    for (const [token, logit] of likely) row[token] = logit;
    const order = [...likely.keys(), ...row.keys()].filter((token, place) => place < 3 || !likely.has(token));
    const ends: number[] = [];
    for (const token of order) ends.push((ends.at(-1) ?? 0) + Math.exp((row[token] as number) - 20));
    const total = ends.at(-1) as number;
    const sampler = new Sampler(row.length);
    const drawAt = (share: number, topP: number): number | undefined => {
      const draw = { nextFloat: () => share } as unknown as Rng;
      return sampler.sample(row, { ...DEFAULT_SAMPLING, temperature: 1, topP }, undefined, draw);
    };
    const inHead = (ends[2] as number) / total;
    expect(inHead).toBeLessThan(0.9975);
    const borders = ends.slice(0, 3).flatMap((end) => [end / total - 1e-5, end / total + 1e-5]);
    for (const share of [0, 0.2, 0.5, ...borders, 0.998, 0.999, 0.999999]) {
      const got = drawAt(share, 1) as number;
      const place = order.indexOf(got);
      // the order of sums rounds a little: the place may be off by a few tokens of the tail, never by one of the head
      const expected = ends.findIndex((end) => share * total < end);
      if (expected < 3) expect(place, `draw ${share}`).toBe(expected);
      else expect(Math.abs(place - expected), `draw ${share}`).toBeLessThan(200);
    }
    // the nucleus needs the tail's mass to know whether a third token belongs to it; draw 0 is the least likely one in it
    const two = ((ends[2] as number) - Math.exp(-1)) / total;
    expect(drawAt(0, two - 1e-4)).toBe(59_000);
    const drawn = new Set(Array.from({ length: 50 }, (_, i) => drawAt(i / 50, two + 1e-4)));
    expect(drawn).toEqual(new Set(likely.keys()));
    expect(likely.has(drawAt(0, inHead + 1e-3) as number)).toBe(false);
  });

  it('is greedy at temperature 0 whatever the seed, and leaves the row as it was', () => {
    const row = randomRow(300, 1);
    const before = row.slice();
    const sampler = new Sampler(row.length);
    const sampling = params({ temperature: 0, presencePenalty: 1, logitBias: new Map([[3, 5]]) });
    const history: TokenHistory = { outputCounts: new Map([[1, 2]]), seen: new Set([1]) };
    const tokens = [1, 2, 3].map((seed) => sampler.sample(row, sampling, history, new Rng(seed)));
    expect(new Set(tokens).size).toBe(1);
    expect(row).toEqual(before);
  });

  it('takes the maximum at temperatures near 0, however the filters are set, and consumes its random number', () => {
    const row = randomRow(300, 1);
    row[17] = Number.NEGATIVE_INFINITY;
    const sampler = new Sampler(row.length);
    const filters = [{}, { topK: 5 }, { topP: 0.5 }, { minP: 0.5 }, { minP: 1e-9 }, { topK: 5, topP: 0.9, minP: 0.1 }];
    for (const temperature of [Number.MIN_VALUE, 1e-310, 3e-307, 1e-100, 1e-46, 1e-20]) {
      for (const changes of filters) {
        const rng = new Rng(8);
        const reference = new Rng(8);
        expect(sampler.sample(row, params({ temperature, ...changes }), undefined, rng)).toBe(argmax(row));
        reference.nextFloat();
        expect(rng.nextFloat()).toBe(reference.nextFloat());
      }
    }
    const broken = row.slice();
    broken[200] = Number.NaN;
    expect(sampler.sample(broken, params({ temperature: 1e-310 }), undefined, new Rng(8))).toBeUndefined();
  });

  it('consumes one random number a token, however the filters are set', () => {
    const row = randomRow(300, 1);
    const sampler = new Sampler(row.length);
    for (const changes of [{}, { topK: 5 }, { topP: 0.5 }, { minP: 0.5 }, { topK: 1 }, { topP: 0 }]) {
      const rng = new Rng(8);
      const reference = new Rng(8);
      sampler.sample(row, params(changes), undefined, rng);
      reference.nextFloat();
      expect(rng.nextFloat()).toBe(reference.nextFloat());
    }
  });

  it('applies bias and penalties as documented', () => {
    const row = Float32Array.from([2, 1.9, -1, 0.5]);
    const sampler = new Sampler(4);
    const greedy = (changes: Partial<SamplingParams>, history?: TokenHistory): number | undefined =>
      sampler.sample(row, params({ temperature: 0, ...changes }), history, new Rng(0));
    expect(greedy({})).toBe(0);
    expect(greedy({ logitBias: new Map([[0, -100]]) })).toBe(1);
    expect(greedy({ logitBias: new Map([[2, 100]]) })).toBe(2);
    const once: TokenHistory = { outputCounts: new Map([[0, 1]]), seen: new Set([0]) };
    expect(greedy({ presencePenalty: 0.2 }, once)).toBe(1);
    expect(greedy({ frequencyPenalty: 0.05 }, once)).toBe(0);
    const often: TokenHistory = { outputCounts: new Map([[0, 9]]), seen: new Set([0]) };
    expect(greedy({ frequencyPenalty: 0.05 }, often)).toBe(1);
    // prompt tokens count for the repetition penalty only; a negative logit is pushed down as well
    const prompt: TokenHistory = { outputCounts: new Map(), seen: new Set([0, 1, 3]) };
    expect(greedy({ repetitionPenalty: 1.2 }, prompt)).toBe(0);
    expect(greedy({ presencePenalty: 2 }, prompt)).toBe(0);
    const negative = Float32Array.from([-1, -1.1]);
    expect(
      new Sampler(2).sample(
        negative,
        params({ temperature: 0, repetitionPenalty: 1.5 }),
        { ...prompt, seen: new Set([0]) },
        new Rng(0),
      ),
    ).toBe(1);
  });
});
