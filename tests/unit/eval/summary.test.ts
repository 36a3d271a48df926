import { describe, expect, it } from 'vitest';
import { binsOf, groupsOf } from '../../../src/eval/bins.ts';
import { type GradedProblem, type GradedRound, gradeAll } from '../../../src/eval/outcomes.ts';
import { parseProblems } from '../../../src/eval/problems.ts';
import type { RoundRecord } from '../../../src/eval/record-types.ts';
import { createRandom } from '../../../src/eval/statistics.ts';
import { summarize } from '../../../src/eval/summary.ts';
import { renderCharts } from '../../../src/eval/svg.ts';

const base: GradedRound = {
  isRight: false,
  isAnswered: true,
  verdict: 'reject',
  score: 0.2,
  rawScore: 0.1,
  isAccepted: false,
  leaks: null,
  firstError: null,
  generatorTokens: 10,
  verifierTokens: 5,
};
const right = { isRight: true } as const;
const accepted = { verdict: 'accept', isAccepted: true, score: 0.9, rawScore: 0.95 } as const;
const round = (...parts: readonly Partial<GradedRound>[]): GradedRound => Object.assign({}, base, ...parts);

function problem(id: string, chains: GradedProblem['chains'], extra: Partial<GradedProblem> = {}): GradedProblem {
  return { id, group: undefined, bin: undefined, isGiven: false, firstError: undefined, chains, ...extra };
}

/** Two problems with two chains each; the figures below are counted by hand. */
const problems = [
  problem('a', [
    // wrong, then right and accepted: frozen from round 1 on
    [round(), round(right, accepted)],
    // wrong but accepted at once: inflation
    [round(accepted, { score: 0.8 })],
  ]),
  problem('b', [
    // right but rejected, refined into something wrong
    [round(right), round({ verdict: 'undetermined' }), round()],
    // right and accepted
    [round(right, accepted, { score: 0.99 })],
  ]),
];
const summary = summarize(problems, { maxRounds: 2, seed: 1, resamples: 200 });
const values = (pick: (figures: (typeof summary.rounds)[number]) => { readonly value: number | null }) =>
  summary.rounds.map((figures) => pick(figures).value);

describe('summarize', () => {
  it('follows chains over rounds, frozen once accepted', () => {
    expect(values((one) => one.pass_at_1)).toEqual([0.5, 0.5, 0.5]);
    expect(values((one) => one.accept_rate)).toEqual([0.5, 0.75, 0.75]);
    expect(values((one) => one.inflation_gap)).toEqual([0, 0.25, 0.25]);
    expect(values((one) => one.precision)).toEqual([1 / 2, 2 / 3, 2 / 3]);
    expect(summary.rounds.map(({ tokens }) => tokens)).toEqual([15, 22.5, 26.25]);
  });

  it('pass@k of the first and the final state', () => {
    expect(summary.pass_at_k.map(({ k, first, final }) => [k, first.value, final.value])).toEqual([
      [1, 0.5, 0.5],
      [2, 0.5, 1],
    ]);
  });

  it('verdicts by class, over verifications', () => {
    const { verdicts } = summary;
    expect(verdicts.verifications).toBe(7);
    // three right attempts, two accepted; four wrong: two rejected, one accepted, one undetermined
    expect(verdicts.accept_when_right.value).toBeCloseTo(2 / 3);
    expect(verdicts.reject_when_wrong.value).toBe(0.5);
    expect(verdicts.undetermined_when_wrong.value).toBe(0.25);
    expect(verdicts.undetermined_when_right.value).toBe(0);
    expect(verdicts.balanced_accuracy.value).toBeCloseTo((2 / 3 + 0.5) / 2);
  });

  it('precision against coverage, most certain first', () => {
    expect(summary.precision_coverage).toEqual([
      { threshold: 0.99, coverage: 0.25, precision: 1 },
      { threshold: 0.9, coverage: 0.5, precision: 1 },
      { threshold: 0.8, coverage: 0.75, precision: 2 / 3 },
    ]);
  });

  it('flips, tokens and calibration', () => {
    expect(summary.flips.wrong_to_right.value).toBe(0.5);
    expect(summary.flips.right_to_wrong.value).toBe(1);
    expect(summary.tokens).toEqual({ generator: 70, verifier: 35, per_solved_chain: 105 / 2 });
    // raw: 0.1 thrice wrong and once right, 0.95 twice right and once wrong
    const brier = (3 * 0.01 + 0.81 + 2 * 0.0025 + 0.9025) / 7;
    expect(summary.calibration?.raw.brier.value).toBeCloseTo(brier, 12);
    expect(summary.calibration?.raw.ece.value).toBeCloseTo((4 * Math.abs(0.1 - 0.25) + 3 * Math.abs(0.95 - 2 / 3)) / 7);
  });

  it('compares with best-of-n and resampling for the tokens of the loop', () => {
    // the loop takes 26.25 tokens a chain, a sample with its verification 15: one sample, two would be 30
    expect(summary.equal_tokens?.best_of_n).toMatchObject({ n: 1, tokens: 15, limited_by_samples: false });
    expect(summary.equal_tokens?.best_of_n.pass_at_1.value).toBe(0.5);
    // two draws at most, half of them needing the second: 1.5 x 15 = 22.5
    expect(summary.equal_tokens?.resample).toMatchObject({ n: 2, tokens: 22.5 });
    // a: the accepted one is wrong, whichever comes first; b: the accepted one is right
    expect(summary.equal_tokens?.resample.pass_at_1.value).toBe(0.5);
    expect(summary.equal_tokens?.resample.loop_gain.value).toBe(0);
  });

  it('locates the first error on given attempts alone', () => {
    expect(summary.first_error).toBeNull();
    const given = [
      problem('wrong', [[round({ firstError: 2 })], [round({ firstError: 3 })]], { isGiven: true, firstError: 2 }),
      problem('right', [[round(right, accepted)]], { isGiven: true, firstError: null }),
      problem('unknown', [[round()]], { isGiven: true }),
    ];
    const found = summarize(given, { maxRounds: 0, seed: 1, resamples: 10 });
    expect(found.first_error?.located_when_wrong.value).toBe(0.5);
    expect(found.first_error?.accepted_when_right.value).toBe(1);
    expect(found.first_error?.f1).toBeCloseTo(2 / 3);
    expect(found.equal_tokens).toBeNull();
  });

  it('has intervals that hold the value, and the same ones for the same seed', () => {
    const { low, value, high } = summary.rounds[1]?.accept_rate ?? {};
    expect(low).toBeLessThanOrEqual(value ?? Number.NaN);
    expect(high).toBeGreaterThanOrEqual(value ?? Number.NaN);
    expect(summarize(problems, { maxRounds: 2, seed: 1, resamples: 200 })).toEqual(summary);
  });
});

describe('interval of the calibration error', () => {
  /** Problems with one verification each, right as often as the score says. */
  function calibrated(seed: number): GradedProblem[] {
    const random = createRandom(seed);
    return Array.from({ length: 80 }, (_, index) => {
      const score = random();
      return problem(`${index}`, [[round({ rawScore: score, score, isRight: random() < score })]]);
    });
  }

  it('holds its value, and mostly the true 0, though a draw of problems looks less calibrated than they are', () => {
    const found = Array.from({ length: 20 }, (_, seed) => {
      const { calibration } = summarize(calibrated(seed), { maxRounds: 0, seed: 1, resamples: 200 });
      const { low, value, high } = calibration?.raw.ece ?? {};
      return [low, value, high] as [number, number, number];
    });
    for (const [low, value, high] of found) {
      expect(low).toBeGreaterThanOrEqual(0);
      expect(low).toBeLessThanOrEqual(value);
      expect(high).toBeGreaterThanOrEqual(value);
      expect(high).toBeGreaterThan(low);
    }
    expect(found.filter(([low]) => low < 0.02).length).toBeGreaterThan(10);
  });
});

describe('bins and groups', () => {
  it('come from the file, else from the first round', () => {
    const ofRate = (id: string, numRight: number): GradedProblem =>
      problem(
        id,
        Array.from({ length: 10 }, (_, index) => [round({ isRight: index < numRight })]),
      );
    const all = [ofRate('a', 0), ofRate('b', 1), ofRate('c', 2), { ...ofRate('d', 9), bin: 'hardest' }];
    const { bins, isMeasured } = binsOf(all);
    expect(isMeasured).toBe(true);
    expect([...bins].map(([name, members]) => [name, members.map(({ id }) => id)])).toEqual([
      ['easy', ['c']],
      ['hard', ['b']],
      ['hardest', ['a', 'd']],
    ]);
    expect(groupsOf(all).size).toBe(0);
  });
});

describe('gradeAll', () => {
  const record = (extra: Partial<RoundRecord>): RoundRecord => ({
    attempt: 'x',
    answer: null,
    finish_reason: 'stop',
    verdict: 'reject',
    score: 0.1,
    raw_score: 0.1,
    accepted: false,
    feedback: '',
    first_error: null,
    generator_tokens: 1,
    verifier_tokens: 1,
    ...extra,
  });

  it('grades the answer and sees feedback that gives the right one away', () => {
    const file =
      '{"id": "p", "problem": "What is 31 + 41?", "answer": "72"}\n\n{"id": "q", "problem": "?", "answer": 1}';
    const rounds = [
      record({ attempt: 'It is \\boxed{70}', answer: '70', feedback: 'Wrong: the answer is 72.' }),
      record({ attempt: 'It is \\boxed{71}', answer: '71', feedback: 'The addition in step 1 is wrong.' }),
      record({ attempt: 'It is \\boxed{72}', answer: '72', feedback: 'Yes, the answer is 72.' }),
    ];
    const models = { generator: 'g', verifier: 'v' };
    const graded = gradeAll(parseProblems(file, 'f'), [
      { id: 'p', batch: 0, models, chains: [{ status: 'x', rounds }] },
    ]);
    expect(graded).toHaveLength(1);
    expect(graded[0]?.chains[0]?.map(({ isRight, leaks }) => [isRight, leaks])).toEqual([
      [false, true],
      [false, false],
      [true, null],
    ]);
  });

  it('finds the answer of a given attempt as people write it, and of generated ones as the pack says only', () => {
    const attempt = '31 + 41 = 72\nThe answer is 72.';
    const file = JSON.stringify({ id: 'p', problem: 'What is 31 + 41?', answer: '72', attempt });
    const models = { generator: 'g', verifier: 'v' };
    const rounds = [record({ attempt }), record({ attempt })];
    const graded = gradeAll(parseProblems(file, 'f'), [
      { id: 'p', batch: 0, models, chains: [{ status: 'x', rounds }] },
    ]);
    expect(graded[0]?.chains[0]?.map(({ isRight, isAnswered }) => [isRight, isAnswered])).toEqual([
      [true, true],
      [false, false],
    ]);
  });
});

describe('parseProblems', () => {
  it.each([
    ['{"problem": "p"}', 'f, line 1: the field `answer` is required.'],
    ['{"problem": "p", "answer": " "}', 'f, line 1: `answer` must be a text that is not empty.'],
    ['{"problem": "p", "answer": "1"}\n[1]', 'f, line 2: must be one JSON object.'],
    [
      '{"id": "a", "problem": "p", "answer": "1"}\n{"id": "a", "problem": "p", "answer": "1"}',
      'f, line 2: the id a is there twice.',
    ],
    [
      '{"problem": "p", "answer": "1", "first_error": 0}',
      'f, line 1: `first_error` must be the number of a step from 1, or null.',
    ],
    ['\n', 'f holds no problem.'],
  ])('refuses %s', (text, message) => {
    expect(() => parseProblems(text, 'f')).toThrow(message);
  });
});

describe('renderCharts', () => {
  it('puts values where they belong and user text in as text', () => {
    const svg = renderCharts('<script>', [
      {
        title: 't',
        xLabel: 'x',
        yLabel: 'y',
        x: [0, 2],
        xTicks: [0, 2],
        lines: [
          {
            name: 'a & b',
            color: '#000',
            points: [
              { x: 0, y: 0 },
              { x: 1, y: 1 },
              { x: 2, y: 0.5 },
            ],
          },
        ],
      },
    ]);
    expect(svg).not.toContain('<script>');
    expect(svg).toContain('a &amp; b');
    // 348 x 202 units of plot from (56, 34)
    expect(svg).toContain('points="56.0,236.0 230.0,34.0 404.0,135.0"');
  });
});
