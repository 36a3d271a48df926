import { describe, expect, it } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { IdempotencyKeys } from '../../../src/runs/idempotency-keys.ts';
import { LiveRun, type LiveRunOptions } from '../../../src/runs/live-run.ts';
import type { NewRun } from '../../../src/stv/run-store.ts';
import type { SolveEvent } from '../../../src/stv/solve-events.ts';

const run = { id: 'slv_1', owner: 'o', created: 1, request: {} } as unknown as NewRun;
const start = {
  ...{ type: 'solve-start', id: 1, solveId: 'slv_1', created: 1, problem: 'p', initialAttempt: null, seed: 1 },
  ...{ models: { generator: 'g', verifier: 'v' }, metadata: null, generator: {}, verifier: {} },
  limits: {
    maxRounds: 0,
    chains: 1,
    accept: { rule: 'single' },
    giveUp: null,
    budget: { tokens: null, seconds: null },
  },
} as unknown as SolveEvent;
const opening = [
  start,
  { type: 'round-start', id: 2, solveId: 'slv_1', chain: 0, round: 0, carried: null },
  { type: 'attempt-start', id: 3, solveId: 'slv_1', chain: 0, round: 0, seed: 1, promptHash: null },
] as unknown as SolveEvent[];

const delta = (id: number): SolveEvent =>
  ({ type: 'attempt-delta', id, solveId: 'slv_1', chain: 0, round: 0, text: 'word ' }) as SolveEvent;

/** Gives way after each event, so that readers keep up with it. */
async function* deltas(last: number): AsyncGenerator<SolveEvent> {
  yield* opening;
  for (let id = opening.length + 1; id <= last; id++) {
    yield delta(id);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const launch = (options: Partial<LiveRunOptions>): LiveRun =>
  new LiveRun(run, { loop: () => deltas(1500), maxEventChars: 65_536, ...options });

async function idsOf(events: AsyncIterable<SolveEvent>): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of events) ids.push(id);
  return ids;
}

describe('a reader of a live run', () => {
  it('that has read everything waits when the run forgets its deltas, and goes on', async () => {
    const live = launch({});
    const ids = await idsOf(live.events());
    expect(ids.length).toBeGreaterThan(1400);
    expect(ids).toEqual(ids.toSorted((a, b) => a - b));
  });

  it('that comes late to a run which has been erased is told so', async () => {
    const live = launch({
      loop: () => deltas(6000),
      writer: { write: async () => undefined, readPage: async () => [] },
    });
    await live.done;
    await expect(idsOf(live.events())).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe('a run that is released while its end is being written', () => {
  it('has ended for its readers', async () => {
    let finish = (): void => undefined;
    const written = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const live = launch({
      loop: async function* () {
        yield start;
        await new Promise((resolve) => setImmediate(resolve));
        yield {
          type: 'solve-end',
          id: 2,
          solveId: 'slv_1',
          status: 'abstained',
          stopReason: 'cancelled',
        } as SolveEvent;
      },
      writer: {
        write: async (events) => (events.some(({ type }) => type === 'solve-end') ? written : undefined),
        readPage: async () => [],
      },
    });
    const ids = idsOf(live.events());
    await new Promise((resolve) => setTimeout(resolve, 20));
    live.release(new StvError('conflict', 'Another server has taken this run over.'));
    finish();
    expect(await ids).toEqual([1, 2]);
    expect(live).toMatchObject({ isReleased: false, failure: undefined });
    live.release(new StvError('draining', 'The server stops.'));
    expect(live).toMatchObject({ isReleased: false, failure: undefined });
  });
});

describe('a run whose store has failed', () => {
  it('is recorded once, also where a write was done and its answer lost', async () => {
    const stored: SolveEvent[] = [];
    let isDown = false;
    const live = launch({
      loop: async function* (signal) {
        yield* opening;
        await new Promise((resolve) => setImmediate(resolve));
        isDown = true;
        yield delta(4);
        while (!signal.aborted) await new Promise((resolve) => setImmediate(resolve));
        yield { type: 'solve-end', id: 5, solveId: 'slv_1', status: 'abstained' } as SolveEvent;
      },
      writer: {
        write: async (events) => {
          if (events.some(({ id }) => stored.some((known) => known.id === id))) throw new Error('a row twice');
          stored.push(...events);
          if (isDown) throw new Error('the connection was lost');
        },
        readPage: async (after) => stored.filter(({ id }) => id > after).slice(0, 2),
      },
    });
    await live.done;
    expect(live.isRecorded).toBe(false);
    isDown = false;
    await live.record();
    expect(live.isRecorded).toBe(true);
    expect(stored.map(({ id }) => id)).toEqual([1, 2, 3, 4, 5]);
    expect(stored.at(-1)).toMatchObject({ status: 'failed' });
    await live.record();
    expect(stored).toHaveLength(5);
  });
});

describe('a run whose store is away for a moment', () => {
  const away = new StvError('not_ready', 'The store does not answer at the moment.');
  const loop = async function* (): AsyncGenerator<SolveEvent> {
    yield* opening;
    await new Promise((resolve) => setImmediate(resolve));
    yield { type: 'solve-end', id: 4, solveId: 'slv_1', status: 'accepted' } as SolveEvent;
  };

  it.each([
    ['it was lost', false],
    ['it was done and its answer lost', true],
  ])('writes again, each event once, where %s', async (_, isDone) => {
    const stored: SolveEvent[] = [];
    let numWrites = 0;
    const live = launch({
      loop,
      writer: {
        write: async (events) => {
          numWrites += 1;
          if (numWrites > 1 || isDone) stored.push(...events);
          if (numWrites === 1) throw away;
        },
        readPage: async (after) => stored.filter(({ id }) => id > after),
      },
    });
    expect(await idsOf(live.events())).toEqual([1, 2, 3, 4]);
    await live.done;
    expect(live).toMatchObject({ failure: undefined, isRecorded: true, state: { answer: { status: 'accepted' } } });
    expect(stored.map(({ id }) => id)).toEqual([1, 2, 3, 4]);
  });

  it('waits no longer once it is released', async () => {
    const live = launch({
      loop,
      writer: {
        write: async () => {
          live.release(new StvError('draining', 'The server shuts down.'));
          throw away;
        },
        readPage: async () => [],
      },
    });
    await live.done;
    expect(live).toMatchObject({ isReleased: true, isRecorded: true, failure: { code: 'draining' } });
  });
});

describe('an idempotency key', () => {
  it('is not forgotten with a run that came before the one that has it', () => {
    const keys = new IdempotencyKeys(() => 0);
    const [abandoned, successor] = [launch({}), launch({})];
    const first = keys.slot('o', { key: 'k', body: 1 });
    first.remember(abandoned);
    abandoned.cancel(new StvError('cancelled', 'The client left.'));
    const second = keys.slot('o', { key: 'k', body: 1 });
    expect(second.known).toBeUndefined();
    second.remember(successor);
    first.forget(abandoned);
    expect(keys.slot('o', { key: 'k', body: 1 }).known).toBe(successor);
    expect(() => keys.slot('o', { key: 'k', body: 2 })).toThrow('another body');
  });
});
