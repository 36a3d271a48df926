import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PrefixIndex } from '../../../src/engine/prefix-index.ts';
import { Rng } from '../../../src/engine/rng.ts';
import { Scheduler, type SchedulerOptions } from '../../../src/engine/scheduler.ts';
import type { Sequence } from '../../../src/engine/sequence.ts';
import { spec } from '../../support/engine-core-driver.ts';

const OPTIONS: SchedulerOptions = {
  numSlots: 12,
  maxLength: 1024,
  maxLanes: 8,
  maxBatchedTokens: 128,
  chunkTokens: 48,
  reusePrefixes: true,
  batchDelayMs: 500,
};

/** Does what the core does, without a model: every lane advances, every sampled token is drawn. */
class Simulation {
  readonly scheduler: Scheduler;
  readonly finished: Sequence[] = [];
  /** Step of the first computation and of the end, by sequence. */
  readonly startedAt = new Map<number, number>();
  /** In order of their first admission. */
  readonly started: Sequence[] = [];
  readonly endedAt = new Map<number, number>();
  numSteps = 0;
  numPreemptions = 0;
  numComputed = 0;
  readonly #options: SchedulerOptions;
  readonly #rng = new Rng(1);

  constructor(options: SchedulerOptions) {
    this.#options = options;
    this.scheduler = new Scheduler(options);
  }

  step(checking: boolean): void {
    const now = this.numSteps++;
    const { lanes, admitted, preempted } = this.scheduler.schedule(now);
    this.numPreemptions += preempted.length;
    const decoding = lanes.filter(({ sequence }) => sequence.isDecoding).length;
    const numTokens = lanes.reduce((sum, lane) => sum + lane.numTokens, 0);
    if (numTokens > this.#options.maxBatchedTokens) throw new Error(`A step of ${numTokens} tokens.`);
    if (lanes.length > this.#options.maxLanes) throw new Error(`A step of ${lanes.length} lanes.`);
    const resumed = new Set(admitted.map(({ sequence }) => sequence));
    const streams = lanes.filter(({ sequence }) => sequence.numOutputTokens > 0 && !resumed.has(sequence));
    if (streams.some(({ sequence }) => sequence.isDecoding) && numTokens - decoding > this.#options.chunkTokens) {
      throw new Error(`A step of ${numTokens - decoding} prompt tokens beside running streams.`);
    }
    for (const { sequence } of admitted) {
      if (this.startedAt.has(sequence.id)) continue;
      this.startedAt.set(sequence.id, now);
      this.started.push(sequence);
    }
    for (const { sequence, numTokens: count } of lanes) {
      this.scheduler.advance(sequence, count);
      this.numComputed += count;
      if (sequence.numMissingTokens > 0) continue;
      sequence.append(this.#rng.nextUint32() % 1000);
      if (sequence.numTokens < sequence.maxTotalTokens) continue;
      this.scheduler.remove(sequence, { keepContent: true });
      this.finished.push(sequence);
      this.endedAt.set(sequence.id, now);
    }
    if (checking) this.scheduler.checkIntegrity();
  }
}

describe('Scheduler', () => {
  it('serves 10,000 random arrivals within budget and bounds, and nobody starves', () => {
    const simulation = new Simulation(OPTIONS);
    const rng = new Rng(2026);
    const draw = (limit: number): number => rng.nextUint32() % limit;
    const stems = Array.from({ length: 20 }, () => Array.from({ length: 300 }, () => draw(1000)));
    const arrivedAt: number[] = [];
    const interactive = new Set<number>();
    const cancelled = new Set<number>();
    const alive: Sequence[] = [];
    let longestQueue = 0;
    for (let step = 0; arrivedAt.length < 10_000; step++) {
      // bursts, at about 90 % of what the lanes can serve
      const arrivals = draw(100) < 4 ? draw(14) : 0;
      for (let i = 0; i < arrivals && arrivedAt.length < 10_000; i++) {
        const id = arrivedAt.length;
        const stem = (stems[draw(20)] as number[]).slice(0, draw(300));
        const prompt = [...stem, ...Array.from({ length: 1 + draw(draw(10) === 0 ? 600 : 40) }, () => draw(1000))];
        const priority = draw(3) === 0 ? 'batch' : 'interactive';
        if (priority === 'interactive') interactive.add(id);
        const sequence = simulation.scheduler.add(spec(id, prompt, { priority, maxTokens: 1 + draw(34) }), {
          nowMs: simulation.numSteps,
          msPerToken: 1 / OPTIONS.chunkTokens,
        });
        arrivedAt.push(simulation.numSteps);
        alive.push(sequence);
      }
      if (draw(200) === 0 && alive.length > 0) {
        const victim = alive[draw(alive.length)] as Sequence;
        if (!simulation.endedAt.has(victim.id) && !cancelled.has(victim.id)) {
          cancelled.add(victim.id);
          simulation.scheduler.remove(victim, { keepContent: true });
        }
      }
      if (alive.length > 200) alive.splice(0, 100);
      simulation.step(step % 50 === 0);
      longestQueue = Math.max(longestQueue, simulation.scheduler.numWaiting);
    }
    for (let i = 0; i < 20_000 && simulation.scheduler.numWaiting + simulation.scheduler.numRunning > 0; i++) {
      simulation.step(i % 50 === 0);
    }
    expect(simulation.finished.length + cancelled.size).toBe(10_000);
    expect(simulation.scheduler.slots.numUsed).toBe(0);
    expect(longestQueue).toBeGreaterThan(20); // there was something to schedule
    expect(simulation.numPreemptions).toBeGreaterThan(0);
    const waits = (wanted: boolean): number[] =>
      arrivedAt
        .map((at, id) => ({ id, wait: (simulation.startedAt.get(id) ?? Number.NaN) - at }))
        .filter(({ id, wait }) => !Number.isNaN(wait) && interactive.has(id) === wanted)
        .map(({ wait }) => wait)
        .sort((a, b) => a - b);
    const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
    const ofInteractive = waits(true);
    const ofBatch = waits(false);
    expect(mean(ofInteractive)).toBeLessThan(mean(ofBatch));
    // nobody is passed by what comes after it in the order of keys of its own kind, but for the steps that it waits for a prefix
    let worst = 0;
    for (const [place, sequence] of simulation.started.entries()) {
      for (let i = place - 1; i >= 0; i--) {
        const other = simulation.started[i] as Sequence;
        if ((simulation.startedAt.get(other.id) as number) < sequence.arrivedAtMs) break;
        if (other.spec.priority !== sequence.spec.priority) continue;
        worst = Math.max(worst, other.key - sequence.key);
      }
    }
    expect(worst).toBeGreaterThan(0);
    expect(worst).toBeLessThan(40);
    // behind its delay a fifth of the tokens is batch work's own, whatever else arrives
    expect(ofBatch.at(-1)).toBeLessThan(500 + 1000);
  }, 60_000);

  it('lets a short prompt pass a long one, but not for ever', () => {
    const simulation = new Simulation({ ...OPTIONS, maxBatchedTokens: 48, reusePrefixes: false });
    const add = (id: number, length: number): void => {
      const prompt = Array.from({ length }, (_, i) => (id * 31 + i) % 1000);
      simulation.scheduler.add(spec(id, prompt, { maxTokens: 1 }), { nowMs: simulation.numSteps, msPerToken: 1 / 48 });
    };
    add(0, 960); // twenty steps of its own
    simulation.step(true);
    let id = 1;
    for (; simulation.endedAt.get(0) === undefined && simulation.numSteps < 500; id++) {
      add(id, 24); // half of every step, for ever
      simulation.step(true);
    }
    expect(simulation.endedAt.get(1)).toBeLessThanOrEqual(2);
    expect(simulation.endedAt.get(0)).toBeLessThanOrEqual(60);
  });

  it('computes a prompt once for all that came with it, also where a later one is to be served before the first', () => {
    const simulation = new Simulation(OPTIONS);
    const prompt = Array.from({ length: 600 }, (_, i) => i);
    const add = (id: number, msPerToken: number): Sequence =>
      simulation.scheduler.add(spec(id, [...prompt, 1000 + id], { maxTokens: 4 }), { nowMs: 0, msPerToken });
    const first = add(0, 1);
    simulation.step(true);
    // a token has become cheaper meanwhile
    const later = [1, 2, 3].map((id) => add(id, 0.5));
    expect(later.every(({ key }) => key < first.key)).toBe(true);
    while (simulation.finished.length < 4) simulation.step(true);
    expect(simulation.numComputed).toBeLessThan(prompt.length + 4 * 10);
  });

  it('serves what a prefix is awaited for as early as the one that waits', () => {
    const simulation = new Simulation({ ...OPTIONS, maxBatchedTokens: 48, batchDelayMs: 5000 });
    const random = new Rng(7);
    const other = (): number[] => Array.from({ length: 400 }, () => random.nextUint32() % 1000);
    const shared = Array.from({ length: 300 }, (_, i) => i);
    const add = (id: number, prompt: number[], priority: 'batch' | 'interactive'): Sequence =>
      simulation.scheduler.add(spec(id, prompt, { priority, maxTokens: 1 }), {
        nowMs: simulation.numSteps,
        msPerToken: 1,
      });
    const leader = add(0, [...shared, 1], 'batch');
    simulation.step(true);
    const waiting = add(1, [...shared, 2], 'interactive');
    for (let id = 2; id < 6; id++) add(id, other(), 'interactive');
    while (simulation.finished.length < 6) simulation.step(true);
    expect(simulation.finished.slice(0, 2)).toEqual([leader, waiting]);
    expect(leader.prefillKey).toBe(leader.key);
  });

  it('sends batch work of several keys back once, not in every step', () => {
    const simulation = new Simulation({ ...OPTIONS, numSlots: 16, maxLanes: 16, batchDelayMs: 10 });
    const prompt = (id: number): number[] => Array.from({ length: 20 }, (_, i) => (id * 37 + i * 11) % 1000);
    const add = (id: number, shareKey: string, priority: 'batch' | 'interactive'): Sequence =>
      simulation.scheduler.add(spec(id, prompt(id), { shareKey, priority, maxTokens: 200 }), {
        nowMs: simulation.numSteps,
        msPerToken: 1 / 48,
      });
    for (let id = 0; id < 4; id++) add(id, `batch-${id}`, 'batch');
    for (let step = 0; step < 20; step++) simulation.step(true);
    for (let id = 4; id < 16; id++) add(id, 'k', 'interactive');
    for (let step = 0; step < 10; step++) simulation.step(true);
    const last = add(16, 'other', 'interactive');
    for (let step = 0; step < 60; step++) simulation.step(true);
    expect(simulation.numPreemptions).toBe(1);
    expect(simulation.startedAt.get(last.id)).toBeLessThanOrEqual(last.arrivedAtMs + 1);
  });

  it('sends no batch work back for a key that has got more than its share beside it', () => {
    const simulation = new Simulation({ ...OPTIONS, batchDelayMs: 10 });
    const add = (id: number, shareKey: string, priority: 'batch' | 'interactive'): Sequence =>
      simulation.scheduler.add(spec(id, [id, 1, 2, 3], { shareKey, priority, maxTokens: 400 }), {
        nowMs: simulation.numSteps,
        msPerToken: 1 / 48,
      });
    for (const id of [0, 1]) add(id, `batch-${id}`, 'batch');
    for (let step = 0; step < 20; step++) simulation.step(true);
    for (let id = 2; id < 8; id++) add(id, 'k', 'interactive');
    for (let step = 0; step < 200; step++) simulation.step(true);
    const last = add(8, 'k', 'interactive'); // k has had six times as much as each of the others
    for (let step = 0; step < 100; step++) simulation.step(true);
    expect(simulation.numPreemptions).toBe(0);
    expect(simulation.startedAt.has(last.id)).toBe(false);
  });

  it('never gives a step without a lane, also where a suspect is all that there is to admit', () => {
    const scheduler = new Scheduler(OPTIONS);
    const times = { nowMs: 0, msPerToken: 0 };
    const first = scheduler.add(spec(0, [1, 2, 3], { maxTokens: 1 }), times);
    expect(scheduler.schedule(0).lanes).toHaveLength(1);
    scheduler.remove(first, { keepContent: true });
    const suspect = scheduler.add(spec(1, [4, 5], { isSuspect: true, maxTokens: 1 }), times);
    const { lanes, admitted, suspect: alone } = scheduler.schedule(1);
    expect(lanes).toEqual([{ sequence: suspect, numTokens: 2 }]);
    expect(admitted.map(({ sequence }) => sequence)).toEqual([suspect]);
    expect(alone).toBe(suspect);
    scheduler.checkIntegrity();
  });

  it('runs a suspect in steps of its own, in turns with everybody else', () => {
    const scheduler = new Scheduler(OPTIONS);
    const times = { nowMs: 0, msPerToken: 0 };
    scheduler.add(spec(0, [1, 2, 3], { isSuspect: true, maxTokens: 4 }), times);
    scheduler.add(spec(1, [4, 5], { maxTokens: 4 }), times);
    scheduler.add(spec(2, [6, 7], { maxTokens: 4, isSuspect: true }), times);
    const seen: string[] = [];
    for (let step = 0; step < 10 && scheduler.numRunning + scheduler.numWaiting > 0; step++) {
      const { lanes, suspect } = scheduler.schedule(step);
      seen.push(lanes.map(({ sequence }) => sequence.id).join());
      expect(suspect === undefined).toBe(lanes[0]?.sequence.id === 1);
      for (const { sequence, numTokens } of lanes) {
        scheduler.advance(sequence, numTokens);
        if (sequence.numMissingTokens === 0) sequence.append(9);
      }
      scheduler.checkIntegrity();
    }
    expect(seen).toEqual(['1', '0', '1', '2', '1', '0', '1', '2', '1', '0']);
  });
});

describe('PrefixIndex', () => {
  it('finds what a search through all slots finds, whatever was set and removed', () => {
    const tokens = fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 12 });
    const change = fc.record({ slot: fc.integer({ min: 0, max: 5 }), tokens: fc.option(tokens, { nil: undefined }) });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 40 }), tokens, (changes, query) => {
        const index = new PrefixIndex();
        const truth = new Map<number, number[]>();
        for (const { slot, tokens: content } of changes) {
          if (content === undefined) {
            index.remove(slot);
            truth.delete(slot);
          } else {
            index.set(slot, Int32Array.from(content));
            if (content.length > 0) truth.set(slot, content);
            else truth.delete(slot);
          }
          index.checkIntegrity();
        }
        for (const [slot, content] of truth) expect(index.tokensOf(slot)).toEqual(content);
        const expected = new Map<number, number>();
        for (const [slot, content] of truth) {
          let length = 0;
          while (length < Math.min(query.length, content.length) && query[length] === content[length]) length++;
          if (length > 0) expected.set(slot, length);
        }
        const found = new Map<number, number>();
        let previous = Number.POSITIVE_INFINITY;
        const longest = index.match(Int32Array.from(query), (slot, length) => {
          expect(found.has(slot)).toBe(false);
          expect(length).toBeLessThanOrEqual(previous);
          previous = length;
          found.set(slot, length);
        });
        expect(found).toEqual(expected);
        expect(longest).toBe(Math.max(0, ...expected.values()));
      }),
      { numRuns: 300 },
    );
  });
});
