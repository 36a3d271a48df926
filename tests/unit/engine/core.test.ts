import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SequenceSpec } from '../../../src/engine/messages.ts';
import { DEFAULT_SAMPLING } from '../../../src/engine/sampling-params.ts';
import { CoreDriver, runAlone, spec } from '../../support/engine-core-driver.ts';
import { fakeLogits } from '../../support/fake-causal-lm.ts';

const VOCAB = 40; // small, so that random prompts share prefixes and stop tokens come up

/** Greedy continuation from the definition: no cache, no batch. */
function greedyTruth(prompt: readonly number[], count: number, vocabSize = 260): number[] {
  const tokens = [...prompt];
  for (let i = 0; i < count; i++) {
    const logits = fakeLogits(tokens, vocabSize);
    tokens.push(logits.indexOf(Math.max(...logits)));
  }
  return tokens.slice(prompt.length);
}

const samplingArbitrary = fc.record({
  temperature: fc.constantFrom(0, 0.7, 1, 1.5),
  topK: fc.constantFrom(0, 1, 5, 1000),
  topP: fc.constantFrom(1, 0.9, 0.3),
  minP: fc.constantFrom(0, 0.05),
  seed: fc.integer({ min: 0, max: 0xffff_ffff }),
  presencePenalty: fc.constantFrom(0, 0, 0.5),
  frequencyPenalty: fc.constantFrom(0, 0, 0.4),
  repetitionPenalty: fc.constantFrom(1, 1, 1.3),
});

/** Prompts are cut from few stems, so that sharing is common: whole, partial, and none. */
const promptArbitrary = fc
  .record({
    stem: fc.constantFrom(1, 2),
    shared: fc.integer({ min: 0, max: 50 }),
    own: fc.array(fc.integer({ min: 0, max: VOCAB - 1 }), { minLength: 1, maxLength: 12 }),
  })
  .map(({ stem, shared, own }) => [...Array.from({ length: shared }, (_, i) => (i * 7 + stem) % VOCAB), ...own]);

const requestArbitrary = fc.record({
  prompt: promptArbitrary,
  maxTokens: fc.integer({ min: 0, max: 12 }),
  stopTokens: fc.constantFrom<readonly number[]>([], [3], [3, 9, 17, 25, 31]),
  sampling: samplingArbitrary,
  priority: fc.constantFrom<'interactive' | 'batch'>('interactive', 'batch'),
  logprobs: fc.constantFrom(undefined, 0, 3),
  isContinued: fc.boolean(),
  isContinuation: fc.boolean(),
  rowsFrom: fc.option(fc.integer({ min: 0, max: 60 }), { nil: undefined }),
  arrivesAt: fc.integer({ min: 0, max: 30 }),
  abortAfter: fc.option(fc.integer({ min: 0, max: 20 }), { nil: undefined }),
});
type RandomRequest = typeof requestArbitrary extends fc.Arbitrary<infer T> ? T : never;

function toSpec(id: number, request: RandomRequest): SequenceSpec {
  const promptRows = [];
  if (request.rowsFrom !== undefined) {
    for (let position = request.rowsFrom; position < request.prompt.length - 1; position++) {
      promptRows.push({ position, targets: [request.prompt[position + 1] as number], top: 1 });
    }
  }
  const { maxTokens, stopTokens, sampling, priority, logprobs, isContinued, isContinuation } = request;
  const order = { priority, isContinued, isContinuation };
  return spec(id, request.prompt, { maxTokens, stopTokens, sampling, logprobs, promptRows, ...order });
}

describe('EngineCore', () => {
  it('continues a prompt as the model defines it', () => {
    const driver = new CoreDriver();
    driver.add(spec(1, [5, 6, 7], { maxTokens: 6 }));
    driver.run();
    expect(driver.result(1).tokens).toEqual(greedyTruth([5, 6, 7], 6));
    expect(driver.result(1).finish).toEqual({ reason: 'length' });
  });

  it('gives every request the tokens it would get alone, for any mix, order, chunk size and cancellation', () => {
    fc.assert(
      fc.property(
        fc.array(requestArbitrary, { minLength: 1, maxLength: 10 }),
        fc.record({
          numSlots: fc.integer({ min: 1, max: 6 }),
          maxLanes: fc.integer({ min: 1, max: 5 }),
          maxBatchedTokens: fc.integer({ min: 1, max: 40 }),
          chunkTokens: fc.integer({ min: 1, max: 40 }),
          reusePrefixes: fc.boolean(),
          minCopyTokens: fc.constantFrom(1, 8),
          minAwaitedTokens: fc.constantFrom(1, 32),
          batchDelayMs: fc.constantFrom(0, 15, 10_000),
        }),
        (requests, limits) => {
          const driver = new CoreDriver({ ...limits, vocabSize: VOCAB, maxLength: 80, recording: false }, limits);
          const aborted = new Set<number>();
          for (let tick = 0; tick < 60; tick++) {
            for (const [id, request] of requests.entries()) {
              if (request.arrivesAt === tick) driver.add(toSpec(id, request));
              if (request.abortAfter !== undefined && request.arrivesAt + request.abortAfter === tick) {
                aborted.add(id);
                driver.abort(id);
              }
            }
            const used = new Set(driver.step().map((output) => output.id));
            for (const id of aborted) expect(used.has(id), `aborted sequence ${id} went on`).toBe(false);
          }
          driver.run();
          for (const [id, request] of requests.entries()) {
            const got = driver.result(id);
            const alone = runAlone(toSpec(id, request), { vocabSize: VOCAB, maxLength: 80 });
            if (aborted.has(id) && got.finish === undefined) {
              expect(alone.tokens.slice(0, got.tokens.length)).toEqual(got.tokens);
              expect(got.numFinishes).toBe(0);
            } else {
              expect(got.tokens).toEqual(alone.tokens);
              expect(got.logprobs).toEqual(alone.logprobs);
              expect(got.promptRows).toEqual(alone.promptRows);
              expect(got.finish).toEqual(alone.finish);
              expect(got.numFinishes).toBe(1);
              expect(got.numStarted).toBe(1);
            }
          }
          expect(driver.core.hasWork).toBe(false);
          expect(driver.core.numSlotsUsed).toBe(0);
          for (const { numTokens, numLanes } of driver.stats) {
            expect(numTokens).toBeLessThanOrEqual(limits.maxBatchedTokens);
            expect(numLanes).toBeLessThanOrEqual(limits.maxLanes);
          }
        },
      ),
      { numRuns: 100 },
    );
  }, 60_000);

  it('copies the rows of a running sequence instead of computing them again', () => {
    const driver = new CoreDriver({ maxBatchedTokens: 64, maxLength: 128 }, { chunkTokens: 64 });
    const prompt = Array.from({ length: 60 }, (_, i) => i);
    driver.add(spec(0, prompt));
    driver.step();
    for (let id = 1; id < 4; id++) driver.add(spec(id, [...prompt.slice(0, 50), 100 + id]));
    driver.run();
    expect(driver.model.copies).toHaveLength(3);
    for (let id = 1; id < 4; id++) {
      expect(driver.result(id).cachedTokens).toBe(49); // the last two of 51 are always computed
      expect(driver.result(id).tokens).toEqual(greedyTruth([...prompt.slice(0, 50), 100 + id], 8));
    }
  });

  it.each([
    { length: 400, maxBatchedTokens: 64 },
    { length: 100, maxBatchedTokens: 1024 },
  ])(
    'computes the shared prompt of eight votes that arrive together about once, %o',
    ({ length, maxBatchedTokens }) => {
      const model = { numSlots: 8, maxLanes: 8, maxBatchedTokens, maxLength: 512 };
      const driver = new CoreDriver(model, { chunkTokens: maxBatchedTokens });
      const prompt = Array.from({ length }, (_, i) => (i * 31) % 250);
      const vote = (id: number): SequenceSpec => {
        return spec(id, prompt, { sampling: { ...DEFAULT_SAMPLING, temperature: 1, seed: id }, maxTokens: 4 });
      };
      for (let id = 0; id < 8; id++) driver.add(vote(id));
      driver.run();
      const computed = driver.stats.reduce((sum, stats) => sum + stats.numTokens, 0);
      expect(computed - 8 * 3).toBeLessThanOrEqual(length * 1.2);
      for (let id = 0; id < 8; id++) {
        expect(driver.result(id).tokens).toEqual(runAlone(vote(id), { maxLength: 512 }).tokens);
      }
    },
  );

  it('does not give up a long cached prefix for a short hit while an older slot is free', () => {
    const driver = new CoreDriver({ numSlots: 2, maxLanes: 2, maxLength: 128 });
    const older = Array.from({ length: 20 }, (_, i) => 200 + (i % 50));
    const long = Array.from({ length: 60 }, (_, i) => i);
    for (const [id, prompt] of [older, long].entries()) {
      driver.add(spec(id, prompt, { maxTokens: 1 }));
      driver.run();
    }
    driver.add(spec(2, [...long.slice(0, 20), 99, 98], { maxTokens: 1 }));
    driver.run();
    expect(driver.result(2).cachedTokens).toBe(20);
    driver.add(spec(3, [...long, 97, 96], { maxTokens: 1 }));
    driver.run();
    expect(driver.result(3).cachedTokens).toBe(60);
  });

  it('does not preempt batch work whose turn came first', () => {
    const driver = new CoreDriver({ numSlots: 2, maxLanes: 1, maxLength: 128 }, { batchDelayMs: 10 });
    driver.add(spec(0, [1, 2, 3], { priority: 'batch', maxTokens: 40 }));
    for (let i = 0; i < 20; i++) driver.step();
    driver.add(spec(1, [4, 5, 6], { maxTokens: 2 }));
    driver.run();
    expect(driver.stats.reduce((sum, stats) => sum + stats.numPreemptions, 0)).toBe(0);
  });

  it('takes over the slot that a conversation left and keeps its content', () => {
    const driver = new CoreDriver({ maxLength: 128 });
    const prompt = Array.from({ length: 20 }, (_, i) => i);
    driver.add(spec(0, prompt));
    driver.run();
    const next = [...prompt, ...driver.result(0).tokens, 77, 78];
    driver.add(spec(1, next));
    driver.run();
    expect(driver.model.copies).toHaveLength(0);
    expect(driver.result(1).cachedTokens).toBe(27); // the last of the eight output tokens was never computed
    expect(driver.result(1).tokens).toEqual(greedyTruth(next, 8));
  });

  it('evicts the least recently used slot and never one in use', () => {
    const driver = new CoreDriver({ numSlots: 3, maxLanes: 3 });
    const prompts = [0, 1, 2].map((start) => Array.from({ length: 20 }, (_, i) => start * 50 + i));
    for (const [id, prompt] of prompts.entries()) {
      driver.add(spec(id, prompt, { maxTokens: 1 }));
      driver.run();
    }
    driver.add(spec(3, [...(prompts[0] as number[]), 9], { maxTokens: 1 })); // uses slot of prompt 0 again
    driver.run();
    driver.add(
      spec(
        4,
        Array.from({ length: 20 }, () => 200),
        { maxTokens: 1 },
      ),
    ); // must evict prompt 1
    driver.run();
    driver.add(spec(5, [...(prompts[2] as number[]), 9], { maxTokens: 1 }));
    driver.run();
    expect(driver.result(5).cachedTokens).toBe(19);
    driver.add(spec(6, [...(prompts[1] as number[]), 9], { maxTokens: 1 }));
    driver.run();
    expect(driver.result(6).cachedTokens).toBe(0);
  });

  it('bounds what a long prompt costs the running streams to one chunk a step', () => {
    const driver = new CoreDriver({ maxBatchedTokens: 256, maxLength: 1024 }, { chunkTokens: 32 });
    driver.add(spec(0, [1], { maxTokens: 40 }));
    driver.step();
    driver.add(
      spec(
        1,
        Array.from({ length: 900 }, (_, i) => i % 250),
        { maxTokens: 1 },
      ),
    );
    for (let i = 0; i < 28; i++) {
      const outputs = driver.step();
      expect(outputs.find(({ id }) => id === 0)?.tokens).toHaveLength(1);
      expect(driver.stats.at(-1)?.numTokens).toBeLessThanOrEqual(1 + 32);
    }
    driver.run();
    expect(driver.result(1).finish).toEqual({ reason: 'length' });
  });

  it('orders by what a token of a prompt costs, not by the much slower tokens of an answer', () => {
    const driver = new CoreDriver(
      {
        ...{ numSlots: 1, maxLanes: 1, maxBatchedTokens: 256, maxLength: 1024 },
        onForward: ([lane]) => {
          const count = lane?.tokens.length ?? 0;
          driver.nowMs += count === 1 ? 10 : count / 10;
        },
      },
      { reusePrefixes: false },
    );
    const prompt = (length: number): number[] => Array.from({ length }, (_, i) => i % 250);
    for (let id = 0; id < 30; id++) driver.add(spec(id, prompt(200), { maxTokens: 1 }));
    driver.run();
    driver.add(spec(30, [1, 2], { maxTokens: 200 }));
    for (let step = 0; step < 100; step++) driver.step();
    driver.add(spec(31, prompt(500), { maxTokens: 1 })); // 50 ms
    for (let step = 0; step < 50; step++) driver.step();
    driver.add(spec(32, prompt(20), { maxTokens: 1 })); // half a second later
    const order: number[] = [];
    while (driver.core.hasWork) for (const { id, finish } of driver.step()) if (finish !== undefined) order.push(id);
    expect(order).toEqual([30, 31, 32]);
  });

  it('frees the slot of a cancelled request before the next step, whether it waits, prefills or decodes', () => {
    const driver = new CoreDriver({ numSlots: 1, maxLanes: 1, maxBatchedTokens: 8 }, { chunkTokens: 8 });
    driver.add(spec(0, [1, 2, 3], { maxTokens: 50 }));
    driver.step(); // decodes
    driver.add(
      spec(
        1,
        Array.from({ length: 30 }, (_, i) => i),
        { maxTokens: 4 },
      ),
    );
    driver.add(spec(2, [4], { maxTokens: 2 }));
    driver.step();
    expect(driver.core.numWaiting).toBe(2);
    driver.abort(2); // waits
    driver.abort(0);
    driver.step();
    expect(driver.model.calls.at(-1)?.lanes[0]?.tokens).toHaveLength(8); // 1 prefills in the only slot
    driver.abort(1);
    expect(driver.core.hasWork).toBe(false);
    expect(driver.core.step()).toBeUndefined();
  });

  it('fails only the request whose logits are not numbers, and forgets its cache', () => {
    const poison = [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
    const driver = new CoreDriver({
      shape: (row, tokens) => {
        if (tokens[0] === 9 && tokens.length >= 14) row[100] = Number.NaN;
      },
    });
    driver.add(spec(0, poison));
    driver.add(spec(1, [1, 2, 3]));
    driver.run();
    expect(driver.result(0).finish).toMatchObject({ reason: 'error', code: 'runtime_failed' });
    expect(driver.result(0).tokens).toHaveLength(2);
    expect(driver.result(1).tokens).toEqual(greedyTruth([1, 2, 3], 8));
    driver.add(spec(2, [...poison, 1], { maxTokens: 1 }));
    driver.run();
    expect(driver.result(2).cachedTokens).toBe(0);
  });

  it('fails only the score whose logits are not numbers', () => {
    const driver = new CoreDriver({
      shape: (row, tokens) => {
        if (tokens[0] === 9) row[3] = Number.POSITIVE_INFINITY;
      },
    });
    const rows = [{ position: 1, targets: [4, 5], top: 0 }];
    driver.add(spec(0, [9, 1], { maxTokens: 0, promptRows: rows }));
    driver.add(spec(1, [8, 1], { maxTokens: 0, promptRows: rows }));
    driver.add(spec(2, [1, 2, 3]));
    driver.run();
    expect(driver.result(0).finish).toMatchObject({ reason: 'error', code: 'runtime_failed' });
    expect(driver.result(1).promptRows[0]?.logprobs.every(Number.isFinite)).toBe(true);
    expect(driver.result(2).tokens).toEqual(greedyTruth([1, 2, 3], 8));
  });

  it('fails the lanes of a step whose forward throws and serves the rest', () => {
    let isBroken = false;
    const driver = new CoreDriver({
      onForward: () => {
        if (isBroken) throw new Error('device lost');
      },
      numSlots: 2,
      maxLanes: 1,
    });
    driver.add(spec(0, [1, 2]));
    driver.step();
    driver.add(spec(1, [3, 4]));
    isBroken = true;
    driver.step();
    isBroken = false;
    driver.run();
    expect(driver.result(0).finish).toMatchObject({ reason: 'error', code: 'runtime_failed', message: 'device lost' });
    expect(driver.result(1).tokens).toEqual(greedyTruth([3, 4], 8));
  });

  it('has a lane in every step, also where a suspect comes when everybody has gone', () => {
    const numLanes: number[] = [];
    const driver = new CoreDriver({ onForward: (lanes) => void numLanes.push(lanes.length) });
    for (let id = 0; id < 3; id++) {
      driver.add(spec(id, [1, 2, 3, id], { maxTokens: 1, isSuspect: id > 0 }));
      driver.run();
      expect(driver.result(id).finish).toEqual({ reason: 'length' });
    }
    expect(numLanes).toEqual([1, 1, 1]);
  });

  it('fails only the sequence whose copy throws, and what copies from it, and forgets their caches', () => {
    const driver = new CoreDriver({ maxBatchedTokens: 64, maxLength: 128 }, { chunkTokens: 64 });
    const prompt = Array.from({ length: 40 }, (_, i) => i);
    driver.add(spec(0, prompt, { maxTokens: 12 }));
    driver.step();
    driver.step(); // the suspects' turn; the next step is for everybody
    const copy = driver.model.copyPrefix.bind(driver.model);
    let numCopies = 0;
    driver.model.copyPrefix = (from, to, length) => {
      if (length === 30 && numCopies++ === 0) throw new Error('the copy failed');
      copy(from, to, length);
    };
    const broken = [...prompt.slice(0, 30), 100, 101, 102];
    driver.add(spec(1, broken, { isSuspect: true }));
    driver.add(spec(2, [...broken, 103])); // finds the same beginning in the slot of the first
    driver.add(spec(3, [...prompt.slice(0, 20), 104, 105]));
    driver.run();
    const failure = { reason: 'error', code: 'runtime_failed', message: 'the copy failed' };
    expect(driver.result(1).finish).toEqual(failure);
    expect(driver.result(2).finish).toEqual(failure);
    expect(driver.result(0).tokens).toEqual(greedyTruth(prompt, 12));
    expect(driver.result(3).tokens).toEqual(greedyTruth([...prompt.slice(0, 20), 104, 105], 8));
    driver.add(spec(4, [...broken, 103, 106]));
    driver.run();
    expect(driver.result(4).cachedTokens).toBe(30); // of the first prompt, which is whole
    expect(driver.result(4).tokens).toEqual(greedyTruth([...broken, 103, 106], 8));
  });

  it('ends a step whose only sequence failed before it could run', () => {
    const numLanes: number[] = [];
    const driver = new CoreDriver({ maxLength: 128, onForward: (lanes) => void numLanes.push(lanes.length) });
    const prompt = Array.from({ length: 30 }, (_, i) => i);
    driver.add(spec(0, prompt));
    driver.run();
    const before = numLanes.length;
    driver.model.copyPrefix = () => {
      throw new Error('the copy failed');
    };
    driver.add(spec(1, [...prompt.slice(0, 20), 99], { maxTokens: 1 }));
    driver.run();
    expect(driver.result(1).finish).toMatchObject({ reason: 'error', code: 'runtime_failed' });
    expect(numLanes).toHaveLength(before);
  });

  it('preempts batch work for interactive work and resumes it with the same tokens', () => {
    const driver = new CoreDriver({ numSlots: 2, maxLanes: 1, maxLength: 128 });
    const batch = spec(
      0,
      Array.from({ length: 20 }, (_, i) => i),
      { priority: 'batch', maxTokens: 30 },
    );
    driver.add(batch);
    for (let i = 0; i < 8; i++) driver.step();
    driver.add(spec(1, [1, 2, 3], { maxTokens: 2 }));
    driver.step();
    driver.step();
    expect(driver.result(1).finish).toEqual({ reason: 'length' });
    driver.run();
    expect(driver.stats.reduce((sum, stats) => sum + stats.numPreemptions, 0)).toBe(1);
    expect(driver.result(0).tokens).toEqual(runAlone(batch).tokens);
    // it came back to its own slot: only the last two tokens had to be computed again
    expect(driver.stats.reduce((sum, stats) => sum + stats.numTokens, 0)).toBe(20 + 29 + 3 + 2);
  });

  it('gives the log-probabilities of prompt tokens and candidates as the definition does, chunk by chunk', () => {
    const prompt = Array.from({ length: 40 }, (_, i) => (i * 13) % 250);
    const logprob = (tokens: readonly number[], token: number): number => {
      const row = fakeLogits(tokens);
      return (row[token] as number) - Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
    };
    const driver = new CoreDriver({ maxBatchedTokens: 7 }, { chunkTokens: 7 });
    const rows = prompt.slice(1).map((token, position) => ({ position, targets: [token, 5], top: 2 }));
    driver.add(spec(0, prompt, { maxTokens: 0, promptRows: rows }));
    driver.run();
    const got = driver.result(0).promptRows;
    expect(got).toHaveLength(39);
    for (const [position, row] of got.entries()) {
      expect(row.position).toBe(position);
      expect(row.logprobs[0]).toBeCloseTo(logprob(prompt.slice(0, position + 1), prompt[position + 1] as number), 6);
      expect(row.logprobs[1]).toBeCloseTo(logprob(prompt.slice(0, position + 1), 5), 6);
    }
    // the last prompt token has no row here, so it is never computed
    expect(driver.stats.reduce((sum, stats) => sum + stats.numTokens, 0)).toBe(39);
  });
});
