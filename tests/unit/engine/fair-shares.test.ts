import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Admission } from '../../../src/engine/admission.ts';
import type { SequenceSpec } from '../../../src/engine/messages.ts';
import { Rng } from '../../../src/engine/rng.ts';
import { Scheduler, type SchedulerOptions } from '../../../src/engine/scheduler.ts';
import type { Sequence } from '../../../src/engine/sequence.ts';
import { spec } from '../../support/engine-core-driver.ts';
import { expectStvError } from '../../support/stv-error.ts';

const OPTIONS: SchedulerOptions = {
  numSlots: 8,
  maxLength: 1024,
  maxLanes: 4,
  maxBatchedTokens: 128,
  chunkTokens: 64,
  reusePrefixes: false,
  batchDelayMs: 100,
};
const MAX_PROMPT = 200;
const MAX_OUTPUT = 60;

/** Parties that keep a number of requests waiting, whatever is served, or open, until they are answered. */
class Crowd {
  readonly scheduler: Scheduler;
  readonly computed = new Map<string, number>();
  /** Steps between arrival and first computation, by party. */
  readonly waits = new Map<string, number[]>();
  readonly #waiting = new Map<string, Set<number>>();
  /** Requests that wait or run, by party. */
  readonly #numOpen = new Map<string, number>();
  readonly #nameOf = new Map<number, string>();
  readonly #rng: Rng;
  #numSteps = 0;
  #nextId = 0;

  constructor(seed: number, options: Partial<SchedulerOptions> = {}) {
    this.scheduler = new Scheduler({ ...OPTIONS, ...options });
    this.#rng = new Rng(seed);
  }

  /** Adds requests of a party until so many of its wait. */
  fill(
    name: string,
    depth: number,
    sizes: { prompt: number; output: number },
    changes: Partial<SequenceSpec> = {},
  ): void {
    const waiting = this.#waiting.get(name) ?? new Set();
    this.#waiting.set(name, waiting);
    while (waiting.size < depth) waiting.add(this.#send(name, sizes, changes));
  }

  /** Sends the next request of a party where its last one is done. */
  ask(name: string, sizes: { prompt: number; output: number }): void {
    if ((this.#numOpen.get(name) ?? 0) === 0) this.#send(name, sizes);
  }

  #send(name: string, sizes: { prompt: number; output: number }, changes: Partial<SequenceSpec> = {}): number {
    const id = this.#nextId++;
    const prompt = Array.from({ length: 1 + this.#draw(sizes.prompt) }, () => this.#draw(1000));
    const request = { maxTokens: 1 + this.#draw(sizes.output), shareKey: name, ...changes };
    this.scheduler.add(spec(id, prompt, request), { nowMs: this.#numSteps, msPerToken: 1 / 64 });
    this.#nameOf.set(id, name);
    this.#numOpen.set(name, (this.#numOpen.get(name) ?? 0) + 1);
    return id;
  }

  step(): void {
    const { lanes, admitted } = this.scheduler.schedule(this.#numSteps++);
    for (const { sequence } of admitted) this.#begin(sequence);
    for (const { sequence, numTokens } of lanes) {
      const name = this.#nameOf.get(sequence.id) as string;
      this.computed.set(name, (this.computed.get(name) ?? 0) + numTokens);
      this.scheduler.advance(sequence, numTokens);
      if (sequence.numMissingTokens > 0) continue;
      sequence.append(this.#draw(1000));
      if (sequence.numTokensLeft > 0) continue;
      this.scheduler.remove(sequence, { keepContent: true });
      this.#numOpen.set(name, (this.#numOpen.get(name) as number) - 1);
    }
    if (this.#numSteps % 25 === 0) this.scheduler.checkIntegrity();
  }

  #begin(sequence: Sequence): void {
    const name = this.#nameOf.get(sequence.id) as string;
    if (this.#waiting.get(name)?.delete(sequence.id) !== true) return; // resumed
    const waits = this.waits.get(name) ?? [];
    waits.push(this.#numSteps - 1 - sequence.arrivedAtMs);
    this.waits.set(name, waits);
  }

  #draw(limit: number): number {
    return this.#rng.nextUint32() % limit;
  }
}

describe('shares of API keys', () => {
  it('are equal in tokens, however many requests of whatever size a key sends', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            depth: fc.constantFrom(6, 10, 100),
            prompt: fc.constantFrom(10, 60, MAX_PROMPT),
            output: fc.constantFrom(2, 20, MAX_OUTPUT),
          }),
          { minLength: 2, maxLength: 5 },
        ),
        fc.nat(0xffff),
        (parties, seed) => {
          const crowd = new Crowd(seed);
          for (let step = 0; step < 3000; step++) {
            for (const [i, { depth, prompt, output }] of parties.entries()) {
              crowd.fill(`key-${i}`, depth, { prompt, output });
            }
            crowd.step();
          }
          const shares = parties.map((_, i) => crowd.computed.get(`key-${i}`) ?? 0);
          // a round's tokens, and what the lanes may have begun beyond them
          const bound = 4 * 256 + OPTIONS.maxLanes * (MAX_PROMPT + MAX_OUTPUT);
          expect(Math.min(...shares)).toBeGreaterThan(bound);
          expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(bound);
        },
      ),
      { numRuns: 25 },
    );
  }, 60_000);

  it.each([
    ['of the same size', { prompt: 60, output: 20 }],
    ['of a larger size', { prompt: MAX_PROMPT, output: MAX_OUTPUT }],
    ['of a smaller size', { prompt: 10, output: 2 }],
  ])(
    'are about equal where more keys than lanes send one request at a time, %s, beside a backlog',
    (_, sizes) => {
      const crowd = new Crowd(7);
      const names = Array.from({ length: 6 }, (_each, i) => `key-${i}`);
      for (let step = 0; step < 6000; step++) {
        crowd.fill('backlog', 20, { prompt: 60, output: 20 });
        for (const name of names) crowd.ask(name, sizes);
        crowd.step();
      }
      const shares = names.map((name) => crowd.computed.get(name) as number);
      const backlog = crowd.computed.get('backlog') as number;
      expect(backlog).toBeGreaterThan(0.8 * Math.max(...shares));
      expect(backlog).toBeLessThan(1.5 * Math.min(...shares));
    },
    60_000,
  );

  it('let a key that asks seldom pass the backlog of one that asks much', () => {
    const crowd = new Crowd(3);
    for (let step = 0; step < 4000; step++) {
      crowd.fill('much', 200, { prompt: 60, output: 20 });
      if (step % 50 === 0) crowd.fill('seldom', 1, { prompt: 60, output: 20 });
      crowd.step();
    }
    const waits = crowd.waits.get('seldom') as number[];
    expect(waits.length).toBeGreaterThan(70);
    expect(Math.max(...waits)).toBeLessThan(20); // one request's time, not two hundred
  }, 60_000);

  it('never let batch work starve interactive work, nor the other way round, however old or much it is', () => {
    const crowd = new Crowd(4);
    const batch = { priority: 'batch' } as const;
    for (let step = 0; step < 1000; step++) {
      crowd.fill('batch', 300, { prompt: MAX_PROMPT, output: MAX_OUTPUT }, batch);
      crowd.step();
    }
    for (let step = 0; step < 2000; step++) {
      crowd.fill('batch', 300, { prompt: MAX_PROMPT, output: MAX_OUTPUT }, batch);
      if (step % 40 === 0) crowd.fill('person', 1, { prompt: 60, output: 20 });
      crowd.step();
    }
    expect(Math.max(...(crowd.waits.get('person') as number[]))).toBeLessThanOrEqual(3);

    const other = new Crowd(5);
    for (let step = 0; step < 6000; step++) {
      other.fill('batch', 100, { prompt: 60, output: 20 }, batch);
      other.fill('people', 100, { prompt: 60, output: 20 });
      other.step();
    }
    const [ofBatch, ofPeople] = ['batch', 'people'].map((name) => other.computed.get(name) as number);
    expect((ofBatch as number) / (ofPeople as number)).toBeGreaterThan(0.15);
    expect((ofBatch as number) / (ofPeople as number)).toBeLessThan(0.35);
  }, 60_000);

  it('leave batch work a quarter of what a key gets, also where more keys than lanes send one request at a time', () => {
    const crowd = new Crowd(8);
    const names = Array.from({ length: 6 }, (_, i) => `key-${i}`);
    for (let step = 0; step < 12_000; step++) {
      crowd.fill('batch', 100, { prompt: 60, output: 20 }, { priority: 'batch' });
      for (const name of names) crowd.ask(name, { prompt: 60, output: 20 });
      crowd.step();
    }
    const shares = names.map((name) => crowd.computed.get(name) as number);
    const ofBatch = crowd.computed.get('batch') as number;
    expect(ofBatch).toBeGreaterThan(0.15 * Math.max(...shares));
    expect(ofBatch).toBeLessThan(0.35 * Math.min(...shares));
  }, 60_000);

  it('are remembered of so many parties at most, and leave a backlog its turn, however many keys send one request each', () => {
    const crowd = new Crowd(9, { maxLanes: 1 });
    let numKeys = 0;
    for (let step = 0; step < 10_000; step++) {
      crowd.fill('backlog', 2, { prompt: 60, output: 20 });
      while (crowd.scheduler.numWaiting < 5) crowd.ask(`key-${numKeys++}`, { prompt: 60, output: 20 });
      crowd.step(); // more flows without sequences than there is room for would throw
    }
    const all = [...crowd.computed.values()].reduce((sum, computed) => sum + computed, 0);
    expect(crowd.computed.get('backlog')).toBeGreaterThan(all / 50); // as one of those that wait or are remembered
  }, 60_000);

  it('forget parties that are gone', () => {
    const crowd = new Crowd(6);
    for (let i = 0; i < 50; i++) {
      crowd.fill(`key-${i}`, 1, { prompt: 5, output: 3 });
      for (let step = 0; step < 10; step++) crowd.step();
      crowd.scheduler.checkIntegrity(); // a flow without sequences would throw
    }
    expect(crowd.scheduler.numWaiting + crowd.scheduler.numRunning).toBe(0);
  });
});

describe('Admission', () => {
  it('keeps as many places free as a key has taken, and counts them back', () => {
    const admission = new Admission({ maxQueuedSequences: 8, maxQueuedTokens: 1000 }, () => 0);
    const reserve = (shareKey?: string) => admission.reserve({ sequences: 1, estimatedTokens: 1, shareKey });
    const flood = [reserve('a'), reserve('a'), reserve('a'), reserve('a')];
    expectStvError(() => reserve('a'), 'queue_full', 'share');
    reserve('b');
    reserve('b');
    expectStvError(() => reserve('b'), 'queue_full', 'share');
    for (const ticket of flood) ticket.release();
    for (const ticket of flood) ticket.release();
    reserve('b');
    expect(admission.queuedSequences).toBe(3);
    for (let i = 0; i < 5; i++) reserve(); // nobody's in particular: only the queue bounds them
    expectStvError(() => reserve(), 'queue_full', '8 sequences wait');
  });
});
