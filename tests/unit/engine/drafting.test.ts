import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DraftPlanner } from '../../../src/engine/draft-planner.ts';
import { DraftSource } from '../../../src/engine/draft-source.ts';
import type { SequenceSpec, StepStats } from '../../../src/engine/messages.ts';
import { Rng } from '../../../src/engine/rng.ts';
import { DEFAULT_SAMPLING } from '../../../src/engine/sampling-params.ts';
import { Sequence } from '../../../src/engine/sequence.ts';
import { StepCost } from '../../../src/engine/step-cost.ts';
import { CoreDriver, runAlone, spec } from '../../support/engine-core-driver.ts';

const VOCAB = 40;

function total(stats: readonly StepStats[], key: 'numDraftTokens' | 'numAcceptedTokens'): number {
  return stats.reduce((sum, step) => sum + step[key], 0);
}

/** The text with some tokens replaced, left out or added: what a refinement is to its attempt. */
function edited(tokens: readonly number[], edits: readonly { at: number; kind: number; token: number }[]): Int32Array {
  const result = [...tokens];
  for (const { at, kind, token } of edits) {
    const place = at % (result.length + 1);
    result.splice(place, kind === 2 ? 0 : 1, ...(kind === 1 ? [] : [token]));
  }
  return Int32Array.from(result);
}

const editArbitrary = fc.record({
  at: fc.nat(200),
  kind: fc.integer({ min: 0, max: 2 }),
  token: fc.integer({ min: 0, max: VOCAB - 1 }),
});

const requestArbitrary = fc.record({
  prompt: fc.array(fc.integer({ min: 0, max: VOCAB - 1 }), { minLength: 1, maxLength: 30 }),
  maxTokens: fc.integer({ min: 1, max: 60 }),
  stopTokens: fc.constantFrom<readonly number[]>([], [3], [3, 9]),
  sampling: fc.record({
    temperature: fc.constantFrom(0, 0, 0.7, 1.5),
    topK: fc.constantFrom(0, 5),
    topP: fc.constantFrom(1, 0.9),
    minP: fc.constantFrom(0, 0.05),
    seed: fc.integer({ min: 0, max: 0xffff_ffff }),
    presencePenalty: fc.constantFrom(0, 0.5),
    frequencyPenalty: fc.constantFrom(0, 0.4),
    repetitionPenalty: fc.constantFrom(1, 1.3),
    logitBias: fc.constantFrom(
      new Map<number, number>(),
      new Map([
        [7, -100],
        [8, -100],
      ]),
    ),
  }),
  priority: fc.constantFrom<'interactive' | 'batch'>('interactive', 'batch'),
  logprobs: fc.constantFrom(undefined, 2),
  arrivesAt: fc.integer({ min: 0, max: 20 }),
  abortAfter: fc.option(fc.integer({ min: 0, max: 20 }), { nil: undefined }),
  edits: fc.array(editArbitrary, { maxLength: 6 }),
  isSuspect: fc.constantFrom(false, false, false, true),
});

describe('drafting', () => {
  it('never changes a token, a log-probability or an ending, whatever is predicted and whoever runs beside it', () => {
    let accepted = 0;
    let rejected = 0;
    fc.assert(
      fc.property(
        fc.array(requestArbitrary, { minLength: 1, maxLength: 8 }),
        fc.record({
          numSlots: fc.integer({ min: 1, max: 5 }),
          maxLanes: fc.integer({ min: 1, max: 5 }),
          maxBatchedTokens: fc.integer({ min: 1, max: 60 }),
          chunkTokens: fc.integer({ min: 1, max: 40 }),
          batchDelayMs: fc.constantFrom(0, 15, 10_000),
        }),
        (requests, limits) => {
          const model = { vocabSize: VOCAB, maxLength: 80 };
          const specs = requests.map(({ arrivesAt, abortAfter, edits, ...request }, id): SequenceSpec => {
            return spec(id, request.prompt, { ...request, prompt: Int32Array.from(request.prompt) });
          });
          const alone = specs.map((sequence) => runAlone(sequence, model));
          const driver = new CoreDriver({ ...limits, ...model, recording: false }, limits);
          const aborted = new Set<number>();
          for (let tick = 0; tick < 45; tick++) {
            for (const [id, { arrivesAt, abortAfter, edits }] of requests.entries()) {
              if (arrivesAt === tick) {
                const prediction = edited(alone[id]?.tokens ?? [], edits);
                driver.add({ ...(specs[id] as SequenceSpec), prediction });
              }
              if (abortAfter !== undefined && arrivesAt + abortAfter === tick) {
                aborted.add(id);
                driver.abort(id);
              }
            }
            driver.step();
          }
          driver.run();
          for (const [id, expected] of alone.entries()) {
            const got = driver.result(id);
            if (aborted.has(id) && got.finish === undefined) {
              expect(expected.tokens.slice(0, got.tokens.length)).toEqual(got.tokens);
            } else {
              expect(got.tokens).toEqual(expected.tokens);
              expect(got.logprobs).toEqual(expected.logprobs);
              expect(got.finish).toEqual(expected.finish);
            }
          }
          for (const { numTokens } of driver.stats) expect(numTokens).toBeLessThanOrEqual(limits.maxBatchedTokens);
          expect(driver.core.numSlotsUsed).toBe(0);
          accepted += total(driver.stats, 'numAcceptedTokens');
          rejected += total(driver.stats, 'numDraftTokens') - total(driver.stats, 'numAcceptedTokens');
        },
      ),
      { numRuns: 100 },
    );
    // otherwise this test compared too little
    expect(accepted).toBeGreaterThan(500);
    expect(rejected).toBeGreaterThan(100);
  }, 60_000);

  it('takes few steps for a text that was predicted with some tokens changed, and counts what it verified', () => {
    const request = spec(0, [5, 6, 7], { maxTokens: 100 });
    const truth = runAlone(request, { maxLength: 256 }).tokens;
    const prediction = Int32Array.from(truth);
    prediction[20] = 250;
    prediction[60] = 251;
    const driver = new CoreDriver({ maxLength: 256 });
    driver.add({ ...request, prediction });
    driver.run();
    expect(driver.result(0).tokens).toEqual(truth);
    expect(driver.stats.length).toBeLessThan(20);
    const accepted = total(driver.stats, 'numAcceptedTokens');
    expect(accepted).toBeGreaterThan(80);
    expect(driver.stats.reduce((sum, step) => sum + step.numOutputTokens, 0)).toBe(100);
  });

  it('finds the earlier attempt in the prompt too, but only where a repetition is expected', () => {
    const request = spec(0, [5, 6, 7], { maxTokens: 40 });
    const attempt = runAlone(request, { maxLength: 256 }).tokens;
    // the model goes on after [..., 1, 2] as it did: its rows are made to
    const prompt = [1, 2, ...attempt, 50, 51, 1, 2];
    const model = {
      maxLength: 256,
      vocabSize: 260,
      shape: (row: Float32Array, tokens: readonly number[]) => {
        const next = attempt[tokens.length - prompt.length];
        if (next !== undefined) row[next] = 50;
      },
    };
    const numSteps = (prediction?: Int32Array): number => {
      const driver = new CoreDriver(model);
      driver.add(spec(1, prompt, { maxTokens: 40, ...(prediction === undefined ? {} : { prediction }) }));
      driver.run();
      expect(driver.result(1).tokens).toEqual(attempt);
      return driver.stats.length;
    };
    expect(numSteps(Int32Array.of(200))).toBeLessThan(20);
    expect(numSteps()).toBeGreaterThanOrEqual(40);
  });

  it('verifies next to nothing of a prediction that never comes true', () => {
    const driver = new CoreDriver({ maxLength: 512 });
    const prediction = Int32Array.from({ length: 400 }, (_, i) => (i * 37) % 260);
    driver.add(spec(0, [5, 6, 7], { maxTokens: 400, prediction }));
    driver.run();
    expect(total(driver.stats, 'numDraftTokens')).toBeLessThan(40);
  });

  it('leaves the distribution of sampled tokens as it is, at each place of a draft', () => {
    // five tokens, the same odds at every place; the draft holds a likely and an unlikely one
    const odds = [0.45, 0.3, 0.15, 0.07, 0.03];
    const model = {
      vocabSize: odds.length,
      maxLength: 16,
      recording: false,
      shape: (row: Float32Array) => row.set(odds.map((p) => Math.log(p))),
    };
    const numDraws = 3000;
    const counts = Array.from({ length: 4 }, () => odds.map(() => 0));
    let drafted = 0;
    for (let draw = 0; draw < numDraws; draw++) {
      const driver = new CoreDriver(model);
      const sampling = { ...DEFAULT_SAMPLING, temperature: 1, seed: draw * 2_654_435 };
      driver.add(spec(0, [0], { maxTokens: 4, sampling, prediction: Int32Array.of(0, 0, 4, 0) }));
      driver.run();
      drafted += total(driver.stats, 'numDraftTokens');
      for (const [place, token] of driver.result(0).tokens.entries()) {
        const count = counts[place] as number[];
        count[token] = (count[token] as number) + 1;
      }
    }
    expect(drafted).toBeGreaterThan(numDraws);
    for (const count of counts) {
      const chiSquare = odds.reduce(
        (sum, p, i) => sum + ((count[i] as number) - numDraws * p) ** 2 / (numDraws * p),
        0,
      );
      expect(chiSquare).toBeLessThan(18.47); // 4 degrees of freedom, p = 0.001
    }
  }, 60_000);

  it('fails nobody for a row behind a wrong guess', () => {
    const request = spec(0, [5, 6, 7], { maxTokens: 30 });
    const truth = runAlone(request).tokens;
    const wrong = [...truth];
    wrong[10] = 250;
    const driver = new CoreDriver({
      shape: (row, tokens) => {
        if (tokens.includes(250)) row.fill(Number.NaN);
      },
    });
    driver.add({ ...request, prediction: Int32Array.from(wrong) });
    driver.run();
    expect(driver.model.calls.some(({ lanes }) => lanes[0]?.tokens.includes(250))).toBe(true);
    expect(driver.result(0).tokens).toEqual(truth);
  });
});

describe('DraftPlanner', () => {
  /** Learns a line: so much a step, so much a row. */
  function planner(fixedMs: number, msPerRow: number): DraftPlanner {
    const made = new DraftPlanner();
    for (let i = 0; i < 200; i++) made.observe(1 + (i % 16), fixedMs + msPerRow * (1 + (i % 16)));
    return made;
  }

  function predicted(): Sequence {
    const prediction = Int32Array.from({ length: 60 }, (_, i) => i);
    const options = { key: 0, nowMs: 0, maxLength: 200, isDrafting: true };
    const sequence = new Sequence(spec(0, [100, 101], { maxTokens: 100, prediction }), options);
    for (let token = 0; token < 10; token++) sequence.append(token); // eight matching tokens and more
    return sequence;
  }

  it('verifies many tokens where rows are cheap, none where they are dear or the step is full', () => {
    const planned = (made: DraftPlanner, budget: number, others = 0): number => {
      const sequences = [predicted(), ...Array.from({ length: others }, () => new Sequence(spec(1, [1]), OTHER))];
      return made.plan(sequences, budget).get(sequences[0] as Sequence)?.numTokens ?? -1;
    };
    expect(planned(planner(10, 0.6), 100)).toBeGreaterThan(8);
    expect(planned(planner(10, 0.6), 3)).toBe(3);
    expect(planned(planner(10, 0.6), 0)).toBe(0);
    expect(planned(planner(0.1, 10), 100)).toBe(0);
    // the more sequences share a step's fixed cost, the dearer a row is beside a token
    expect(planned(planner(10, 2), 100, 15)).toBeLessThan(planned(planner(10, 2), 100));
  });

  it('is not misled by single steps that were held up', () => {
    const cost = new StepCost();
    const rng = new Rng(5);
    for (let i = 0; i < 500; i++) {
      const rows = 2 + (rng.nextUint32() % 14);
      cost.observe(rows, (10 + rows) * (rng.nextUint32() % 20 === 0 ? 15 : 1));
    }
    expect(cost.of(8)).toBeGreaterThan(17);
    expect(cost.of(8)).toBeLessThan(22);
    expect(cost.perRow).toBeGreaterThan(0.5);
    expect(cost.perRow).toBeLessThan(1.7);
  });
});

describe('DraftSource', () => {
  it('follows a prediction over a token that was replaced, left out or added', () => {
    const text = Array.from({ length: 40 }, (_, i) => 200 + i);
    const source = (): DraftSource => new DraftSource(Int32Array.from(text), 2);
    const next = (output: readonly number[]): number[] => {
      const made = source();
      let draft: readonly number[] = [];
      for (let n = 0; n <= output.length; n++) {
        draft = [...(made.propose(Int32Array.from([1, 2, ...output.slice(0, n)]), 3)?.tokens ?? [])];
      }
      return [...draft];
    };
    expect(next([])).toEqual([200, 201, 202]);
    expect(next([200, 201])).toEqual([202, 203, 204]);
    expect(next([200, 201, 9])).toEqual([203, 204, 205]); // replaced
    expect(next([200, 201, 203, 204])).toEqual([205, 206, 207]); // left out
    expect(next([200, 201, 9, 202, 203])).toEqual([204, 205, 206]); // added
  });

  it('takes the nearest of several equal places, and the longest match of all', () => {
    const text = [1, 2, 3, 4, 1, 2, 5, 6, 1, 2, 7, 8, 9, 1, 2, 10];
    const made = new DraftSource(Int32Array.from(text), 1);
    const propose = (...output: number[]): number | undefined =>
      made.propose(Int32Array.from([0, ...output]), 1)?.tokens[0];
    expect(propose(1, 2)).toBe(3);
    expect(propose(1, 2, 3, 4, 1, 2)).toBe(5);
    expect(propose(1, 2, 3, 4, 1, 2, 9, 1, 2)).toBe(10);
  });
});

const OTHER = { key: 0, nowMs: 0, maxLength: 200, isDrafting: true };
