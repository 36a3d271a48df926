import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { calibrate } from '../../../src/stv/calibration.ts';
import type { Calibration, VerdictFormat } from '../../../src/stv/loop-pack.ts';
import { deriveSeed, retrySeed, voteSeed } from '../../../src/stv/seeds.ts';
import { readVerdict, type Verdict, verdictCandidates } from '../../../src/stv/verdict.ts';
import { acceptsAtLeast, castVotes, majority, type VoteRule } from '../../../src/stv/votes.ts';

const format: VerdictFormat = {
  open: '<verdict>',
  close: '</verdict>',
  words: { accept: 'yes', reject: 'no', undetermined: 'unsure' },
  minMass: 0.5,
};
const logs = (...probabilities: number[]): number[] => probabilities.map(Math.log);

describe('readVerdict', () => {
  it.each<[string, number[], Verdict, number, number]>([
    ['a clear accept', logs(0.9, 0.05, 0.05), 'accept', 0.9, 1],
    ['a clear reject', logs(0.1, 0.8, 0.1), 'reject', 0.1, 1],
    ['the third word', logs(0.3, 0.2, 0.5), 'undetermined', 0.3, 1],
    ['a score normalised over the words', logs(0.45, 0.15, 0), 'accept', 0.75, 0.6],
    ['too little mass', logs(0.4, 0.05, 0), 'undetermined', 0.4 / 0.45, 0.45],
    ['just enough mass', logs(0.4, 0.1, 0), 'accept', 0.8, 0.5],
    ['a tie', logs(0.5, 0.5, 0), 'undetermined', 0.5, 1],
    ['no probability at all', logs(0, 0, 0), 'undetermined', 0.5, 0],
    ['nothing but NaN', [Number.NaN, Number.NaN, Number.NaN], 'undetermined', 0.5, 0],
    ['words that are all but impossible', [-900, -901, -902], 'undetermined', 1 / (1 + Math.exp(-1) + Math.exp(-2)), 0],
  ])('reads %s', (_, logprobs, verdict, rawScore, mass) => {
    const reading = readVerdict({ ...format, minMass: 0.4999999 }, logprobs);
    expect(reading.verdict).toBe(verdict);
    expect(reading.rawScore).toBeCloseTo(rawScore);
    expect(reading.mass).toBeCloseTo(mass);
  });

  it('asks for the third word only where the pack has one', () => {
    expect(verdictCandidates(format)).toEqual(['yes', 'no', 'unsure']);
    expect(verdictCandidates({ ...format, words: { accept: 'yes', reject: 'no' } })).toEqual(['yes', 'no']);
  });

  it('gives a score within 0..1 whatever the engine says', () => {
    const logprob = fc.oneof(fc.double({ max: 0 }), fc.constant(Number.NEGATIVE_INFINITY), fc.constant(Number.NaN));
    fc.assert(
      fc.property(fc.array(logprob, { minLength: 2, maxLength: 3 }), (logprobs) => {
        const { rawScore } = readVerdict(format, logprobs);
        expect(rawScore).toBeGreaterThanOrEqual(0);
        expect(rawScore).toBeLessThanOrEqual(1);
      }),
    );
  });
});

describe('calibrate', () => {
  it.each<[Calibration, number, number]>([
    [{ kind: 'none' }, 0.3, 0.3],
    [{ kind: 'temperature', temperature: 2 }, 0.9, 0.75],
    [{ kind: 'temperature', temperature: 1 }, 0.123, 0.123],
    [{ kind: 'platt', slope: 1, intercept: 0 }, 0.4, 0.4],
    [{ kind: 'platt', slope: 0, intercept: 0 }, 0, 0.5],
    [
      {
        kind: 'isotonic',
        points: [
          [0.2, 0.1],
          [0.6, 0.5],
        ],
      },
      0.4,
      0.3,
    ],
    [
      {
        kind: 'isotonic',
        points: [
          [0.2, 0.1],
          [0.6, 0.5],
        ],
      },
      0.9,
      0.5,
    ],
    [
      {
        kind: 'isotonic',
        points: [
          [0.2, 0.1],
          [0.6, 0.5],
        ],
      },
      0,
      0.1,
    ],
    [{ kind: 'isotonic', points: [] }, 0.7, 0.7],
  ])('%o takes %d to %d', (calibration, score, expected) =>
    expect(calibrate(calibration, score)).toBeCloseTo(expected),
  );

  it('never turns the order of two scores round', () => {
    const probability = fc.double({ min: 0, max: 1, noNaN: true });
    const calibration: fc.Arbitrary<Calibration> = fc.oneof(
      fc
        .double({ min: 0.1, max: 10, noNaN: true })
        .map((temperature) => ({ kind: 'temperature' as const, temperature })),
      fc
        .tuple(fc.double({ min: 0, max: 5, noNaN: true }), fc.double({ min: -5, max: 5, noNaN: true }))
        .map(([slope, intercept]) => ({ kind: 'platt' as const, slope, intercept })),
      fc.array(fc.tuple(probability, probability), { maxLength: 6 }).map((pairs) => {
        const ys = pairs.map(([, y]) => y).sort((a, b) => a - b);
        const xs = [...new Set(pairs.map(([x]) => x))].sort((a, b) => a - b);
        return { kind: 'isotonic' as const, points: xs.map((x, index) => [x, ys[index] ?? 1] as const) };
      }),
    );
    fc.assert(
      fc.property(calibration, probability, probability, (kind, a, b) => {
        const [low, high] = a < b ? [a, b] : [b, a];
        expect(calibrate(kind, low)).toBeLessThanOrEqual(calibrate(kind, high) + 1e-12);
        expect(calibrate(kind, low)).toBeGreaterThanOrEqual(0);
        expect(calibrate(kind, high)).toBeLessThanOrEqual(1);
      }),
    );
  });
});

const verdicts: readonly Verdict[] = ['accept', 'reject', 'undetermined'];
const A = 'accept' as const;
const R = 'reject' as const;
const U = 'undetermined' as const;

/** Verdicts that some completion of the votes leads to. */
function reachable(rule: VoteRule, cast: readonly Verdict[], numOpen: number): Set<Verdict | undefined> {
  if (numOpen === 0) return new Set([rule(cast, 0)]);
  return new Set(verdicts.flatMap((next) => [...reachable(rule, [...cast, next], numOpen - 1)]));
}

describe('vote rules', () => {
  it.each<[Verdict[], Verdict]>([
    [[A], A],
    [[R], R],
    [[U], U],
    [[A, R], U],
    [[A, A, R], A],
    [[A, A, U, U], U],
    [[A, A, R, U], A],
    [[R, R, A, U], R],
    [[U, U, A], U],
  ])('the majority of %j is %s', (cast, verdict) => expect(majority(cast, 0)).toBe(verdict));

  it.each([
    ['the majority', majority],
    ['2 accepts', acceptsAtLeast(2)],
    ['4 accepts', acceptsAtLeast(4)],
  ] as const)('%s: decides early exactly when no later vote can change it', (name, rule) => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(...verdicts), { minLength: 1, maxLength: 6 }),
        fc.nat(4),
        (cast, numOpen) => {
          if (name !== 'the majority' && cast.length + numOpen < 4) return;
          const early = rule(cast, numOpen);
          const outcomes = reachable(rule, cast, numOpen);
          if (early !== undefined && early === 'accept') expect(outcomes).toEqual(new Set(['accept']));
          else if (early !== undefined) expect(outcomes.has('accept')).toBe(false);
          else expect(outcomes.size).toBeGreaterThan(1);
          if (name === 'the majority' && early !== undefined) expect(outcomes).toEqual(new Set([early]));
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('castVotes', () => {
  it('counts in index order whichever ends first, and cancels the rest', async () => {
    const ended: number[] = [];
    const counted: number[] = [];
    const result = await castVotes({
      numVotes: 5,
      earlyStop: true,
      rule: majority,
      signal: new AbortController().signal,
      cast: async (vote, signal) => {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, (5 - vote) * 5 + (vote > 2 ? 10_000 : 0));
          signal.addEventListener('abort', () => {
            clearTimeout(timer);
            resolve();
          });
        });
        ended.push(vote);
        return { verdict: A, vote };
      },
      onCounted: (vote) => void counted.push(vote),
    });
    expect(result.verdict).toBe('accept');
    expect(counted).toEqual([0, 1, 2]);
    expect(ended.toSorted()).toEqual([0, 1, 2, 3, 4]);
  });

  it('casts all without early stop', async () => {
    const cast = async (): Promise<{ verdict: Verdict }> => ({ verdict: A });
    const signal = new AbortController().signal;
    const options = { numVotes: 5, rule: majority, signal, cast, onCounted: () => undefined };
    expect((await castVotes({ ...options, earlyStop: false })).votes).toHaveLength(5);
    expect((await castVotes({ ...options, earlyStop: true })).votes).toHaveLength(3);
  });

  it('throws the error of a counted vote after all others have ended, and ignores one that does not count', async () => {
    let numEnded = 0;
    const run = (failing: number): ReturnType<typeof castVotes> =>
      castVotes({
        numVotes: 3,
        earlyStop: true,
        rule: majority,
        signal: new AbortController().signal,
        cast: async (vote) => {
          await Promise.resolve();
          numEnded++;
          if (vote === failing) throw new Error('broken');
          return { verdict: A };
        },
        onCounted: () => undefined,
      });
    await expect(run(1)).rejects.toThrow('broken');
    expect(numEnded).toBe(3);
    await expect(run(2)).resolves.toMatchObject({ verdict: 'accept' });
  });
});

describe('seeds', () => {
  it('follow the documented hash', () => {
    expect(deriveSeed(0, { chain: 0, round: 0, role: 'generator', vote: 0 })).toBe(seedByTheBook(0, [0, 0, 0, 0]));
    expect(deriveSeed(7, { chain: 3, round: 2, role: 'verifier', vote: 5 })).toBe(seedByTheBook(7, [3, 2, 1, 5]));
    // published: changing the hash would change every recorded run
    expect(deriveSeed(1, { chain: 0, round: 0, role: 'generator', vote: 0 })).toBe(3_120_657_311);
  });

  it('differ for different places', () => {
    const seen = new Set<number>();
    for (const role of ['generator', 'verifier'] as const) {
      for (let chain = 0; chain < 16; chain++) {
        for (let round = 0; round < 16; round++) {
          for (let vote = 0; vote < 8; vote++) seen.add(deriveSeed(42, { chain, round, role, vote }));
        }
      }
    }
    expect(seen.size).toBe(2 * 16 * 16 * 8);
  });

  it('give vote 0 the seed of the request', () => {
    expect(voteSeed(7, 0)).toBe(7);
    expect(voteSeed(7, 1)).not.toBe(7);
    expect(retrySeed(7, 1)).not.toBe(retrySeed(7, 2));
  });
});

/** The same with big integers, word by word from the description. */
function seedByTheBook(seed: number, words: readonly number[]): number {
  const mask = 0xffffffffn;
  let hash = BigInt(seed);
  for (const word of words) {
    hash = ((hash ^ BigInt(word)) + 0x9e3779b9n) & mask;
    hash ^= hash >> 16n;
    hash = (hash * 0x85ebca6bn) & mask;
    hash ^= hash >> 13n;
    hash = (hash * 0xc2b2ae35n) & mask;
    hash ^= hash >> 16n;
  }
  return Number(hash);
}
