/** What every RunStore must do; run against SQLite in the unit tests and against PostgreSQL in the e2e tests. */
import { expect, it, onTestFinished, vi } from 'vitest';
import type { Lease, NewRun, RunStore } from '../../src/stv/run-store.ts';
import type { RunSummary, SolveEvent } from '../../src/stv/solve-events.ts';
import type { NewTrace } from '../../src/stv/traces.ts';

const here: Lease = { holder: 'here', ttlMs: 1000 };
const there: Lease = { holder: 'there', ttlMs: 1000 };
let counter = 0;

const trace = (solveId: string, chain: number, round: number): NewTrace =>
  ({ solveId, chain, round, attempt: `attempt ${chain}.${round}` }) as NewTrace;

/** Traces of these runs alone: the database is shared with the other tests. */
async function tracesOfRuns(store: RunStore, runs: readonly NewRun[], withLabels = false) {
  const all: Awaited<ReturnType<RunStore['traces']>> = [];
  for (;;) {
    const page = await store.traces({ limit: 3, after: all.at(-1)?.traceId, withLabels });
    if (page.length === 0) break;
    all.push(...page);
  }
  return all.filter(({ solveId }) => runs.some(({ id }) => id === solveId));
}

export interface StoreUnderTest {
  readonly store: RunStore;
  /** Sets the clock that the store was made with. */
  setNow(ms: number): void;
}

/** Runs share one database, so each test has runs and owners of its own. */
function newRun(extra: Partial<NewRun> = {}): NewRun {
  const id = `slv_${String(++counter).padStart(26, '0')}`;
  return { id, owner: `owner-${id}`, created: 1000, request: { id, problem: 'p' } as NewRun['request'], ...extra };
}

const delta = (id: number, text = 'x'): SolveEvent =>
  ({ type: 'attempt-delta', id, solveId: 's', chain: 0, round: 0, text }) as SolveEvent;

const end = (id: number): SolveEvent => ({ type: 'solve-end', id, solveId: 's', status: 'accepted' }) as SolveEvent;

export function runStoreSuite(open: () => StoreUnderTest): void {
  it('gives back what was stored, in order and once', async () => {
    const { store, setNow } = open();
    setNow(5000);
    const run = newRun({ label: { reference: 'r', answer: '5' } });
    expect(await store.create(run, here)).toEqual({ kind: 'created' });
    await store.append(run.id, [delta(1, 'ä€😀'), delta(2)], here);
    await store.append(run.id, [delta(3)], here);
    expect((await store.events(run.id, 0, 10)).map(({ id }) => id)).toEqual([1, 2, 3]);
    expect((await store.events(run.id, 1, 1)).map(({ id }) => id)).toEqual([2]);
    expect((await store.events(run.id, 0, 1))[0]).toEqual(delta(1, 'ä€😀'));
    expect(await store.find(run.id)).toMatchObject({ status: 'running', lastEventId: 3, request: run.request });
  });

  it('refuses to store an event twice and keeps nothing of the attempt', async () => {
    const { store } = open();
    const run = newRun();
    await store.create(run, here);
    await store.append(run.id, [delta(1)], here);
    await expect(store.append(run.id, [delta(2), delta(1)], here)).rejects.toThrow();
    expect((await store.events(run.id, 0, 10)).map(({ id }) => id)).toEqual([1]);
    expect(await store.find(run.id)).toMatchObject({ lastEventId: 1 });
  });

  it('attaches a repeated request to its run and refuses another body under the same key', async () => {
    const { store } = open();
    const first = newRun({ idempotency: { key: 'k', bodyHash: 'a' } });
    await store.create(first, here);
    const again = newRun({ owner: first.owner, idempotency: { key: 'k', bodyHash: 'a' } });
    expect(await store.create(again, here)).toEqual({ kind: 'exists', id: first.id });
    expect(await store.find(again.id)).toBeUndefined();
    const other = newRun({ owner: first.owner, idempotency: { key: 'k', bodyHash: 'b' } });
    expect(await store.create(other, here)).toEqual({ kind: 'conflict' });
    const stranger = newRun({ idempotency: { key: 'k', bodyHash: 'b' } });
    expect(await store.create(stranger, here)).toEqual({ kind: 'created' });
  });

  it('gives the key of a run that has failed to the next one', async () => {
    const { store } = open();
    const first = newRun({ idempotency: { key: 'k', bodyHash: 'a' } });
    await store.create(first, here);
    await store.append(first.id, [{ ...end(1), status: 'failed' } as SolveEvent], here);
    expect(await store.hasKey(first.owner, 'k')).toBe(false);
    const again = newRun({ owner: first.owner, idempotency: { key: 'k', bodyHash: 'a' } });
    expect(await store.create(again, here)).toEqual({ kind: 'created' });
    expect(await store.find(first.id)).toMatchObject({ status: 'failed' });
  });

  it('remembers a key for a day and keeps the run', async () => {
    const { store, setNow } = open();
    const first = newRun({ idempotency: { key: 'k', bodyHash: 'a' } });
    setNow(first.created + 86_399_999);
    await store.create(first, here);
    expect(await store.hasKey(first.owner, 'k')).toBe(true);
    expect(await store.hasKey(first.owner, 'other')).toBe(false);
    const other = newRun({ owner: first.owner, created: first.created + 1, idempotency: { key: 'k', bodyHash: 'b' } });
    expect(await store.create(other, here)).toEqual({ kind: 'conflict' });
    setNow(first.created + 86_400_000);
    expect(await store.hasKey(first.owner, 'k')).toBe(false);
    expect(await store.create(other, here)).toEqual({ kind: 'created' });
    expect(await store.find(first.id)).toMatchObject({ status: 'queued' });
  });

  it('lets one server alone write to a run, and another take over when its lease has lapsed', async () => {
    const { store, setNow } = open();
    setNow(10_000);
    const run = newRun();
    await store.create(run, here);
    const claimedBy = async (lease: Lease): Promise<boolean> =>
      (await store.claim(lease, 1000)).some(({ id }) => id === run.id);
    expect(await claimedBy(there)).toBe(false);
    await expect(store.append(run.id, [delta(1)], there)).rejects.toMatchObject({ code: 'conflict' });
    setNow(11_001);
    const both = await Promise.all([claimedBy(there), claimedBy({ ...there, holder: 'third' })]);
    expect(both.filter(Boolean)).toHaveLength(1);
    await expect(store.append(run.id, [delta(1)], here)).rejects.toMatchObject({ code: 'conflict' });
  });

  it('keeps a run by renewing its lease, and says which are lost', async () => {
    const { store, setNow } = open();
    setNow(20_000);
    const holder: Lease = { holder: 'renewer', ttlMs: 1000 };
    const run = newRun();
    await store.create(run, holder);
    setNow(20_900);
    expect((await store.renew(holder)).has(run.id)).toBe(true);
    setNow(21_500);
    expect((await store.claim(there, 1000)).map(({ id }) => id)).not.toContain(run.id);
    setNow(21_901);
    expect((await store.claim(there, 1000)).map(({ id }) => id)).toContain(run.id);
    expect((await store.renew(holder)).has(run.id)).toBe(false);
  });

  it('takes over from a dead holder after the clock was set back, and leaves a living one its run', async () => {
    let elapsed = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => elapsed);
    onTestFinished(() => clock.mockRestore());
    const { store, setNow } = open();
    setNow(9_000_000);
    const dead: Lease = { holder: 'died', ttlMs: 1000 };
    const alive: Lease = { holder: 'lives', ttlMs: 1000 };
    const [left, kept] = [newRun(), newRun()];
    await store.create(left, dead);
    await store.create(kept, alive);
    setNow(40_000);
    const claimed = async (): Promise<string[]> => (await store.claim(there, 1000)).map(({ id }) => id);
    expect(await claimed()).not.toContain(left.id);
    elapsed = 900;
    await store.renew(alive);
    expect(await claimed()).not.toContain(left.id);
    elapsed = 1001;
    const taken = await claimed();
    expect(taken).toContain(left.id);
    expect(taken).not.toContain(kept.id);
    await expect(store.append(left.id, [delta(1)], dead)).rejects.toMatchObject({ code: 'conflict' });
    // a holder whose clock runs ahead renews all the same
    setNow(9_100_000);
    await store.renew(alive);
    for (const at of [1500, 2400, 3300]) {
      elapsed = at;
      setNow(9_100_000 + at);
      await store.renew(alive);
      setNow(41_000 + at);
      expect(await claimed()).not.toContain(kept.id);
    }
  });

  it('hands parked runs over at once and never an ended one', async () => {
    const { store, setNow } = open();
    setNow(30_000);
    const [parked, ended] = [newRun(), newRun()];
    for (const run of [parked, ended]) await store.create(run, here);
    await store.append(ended.id, [delta(1), end(2)], here);
    await store.park([parked.id, ended.id], here);
    expect(await store.find(parked.id)).toMatchObject({ status: 'parked' });
    expect(await store.find(ended.id)).toMatchObject({ status: 'accepted' });
    const claimed = (await store.claim(there, 1000)).map(({ id }) => id);
    expect(claimed).toContain(parked.id);
    expect(claimed).not.toContain(ended.id);
    await expect(store.append(ended.id, [delta(3)], here)).rejects.toMatchObject({ code: 'conflict' });
  });

  it('lists the runs of one owner, newest first, page by page', async () => {
    const { store } = open();
    const owner = 'lister';
    const runs = [1, 2, 2, 3].map((created) => newRun({ owner, created }));
    for (const run of runs) await store.create(run, here);
    const first = await store.list(owner, { limit: 3 });
    const second = await store.list(owner, { limit: 3, after: first.at(-1)?.id });
    expect([...first, ...second].map(({ id }) => id)).toEqual([3, 2, 1, 0].map((index) => runs[index]?.id));
    expect(await store.list('nobody', { limit: 3 })).toEqual([]);
    await expect(store.list('nobody', { limit: 3, after: runs[0]?.id })).rejects.toMatchObject({ code: 'not_found' });
  });

  it('erases a run with all its texts', async () => {
    const { store } = open();
    const run = newRun({ label: { answer: '1' } });
    await store.create(run, here);
    await store.append(run.id, [delta(1), end(2)], here);
    expect(await store.erase(run.id)).toBe(true);
    expect(await store.erase(run.id)).toBe(false);
    expect(await store.find(run.id)).toBeUndefined();
    expect(await store.events(run.id, 0, 10)).toEqual([]);
  });

  it('gives traces of all runs in the order of storing, page by page, and labels only where asked', async () => {
    const { store } = open();
    const [one, two] = [newRun({ label: { answer: '7' } }), newRun()];
    for (const run of [one, two]) await store.create(run, here);
    await store.append(one.id, [delta(1)], here, { traces: [trace(one.id, 0, 0), trace(one.id, 1, 0)] });
    await store.append(two.id, [delta(1)], here, { traces: [trace(two.id, 0, 0)] });
    await store.append(one.id, [delta(2)], here, { traces: [trace(one.id, 0, 1)] });
    const plain = await tracesOfRuns(store, [one, two]);
    expect(plain.map(({ attempt }) => attempt)).toEqual(['attempt 0.0', 'attempt 1.0', 'attempt 0.0', 'attempt 0.1']);
    const ids = plain.map(({ traceId }) => traceId);
    expect(ids).toEqual([...new Set(ids)].sort());
    expect(plain.every((record) => !('label' in record))).toBe(true);
    const labelled = await tracesOfRuns(store, [one, two], true);
    expect(labelled.map(({ label }) => label)).toEqual([{ answer: '7' }, { answer: '7' }, undefined, { answer: '7' }]);
    await expect(store.traces({ limit: 1, after: 'slv_1', withLabels: false })).rejects.toMatchObject({
      code: 'invalid_value',
      param: 'after',
    });
  });

  it('keeps no trace of a write that fails, nor of an erased run, and goes on behind erased ones', async () => {
    const { store } = open();
    const [gone, kept] = [newRun(), newRun()];
    for (const run of [gone, kept]) await store.create(run, here);
    await store.append(gone.id, [delta(1)], here, { traces: [trace(gone.id, 0, 0)] });
    const [last] = await tracesOfRuns(store, [gone]);
    await expect(store.append(gone.id, [delta(1)], here, { traces: [trace(gone.id, 0, 1)] })).rejects.toThrow();
    await expect(store.append(gone.id, [delta(2)], there, { traces: [trace(gone.id, 0, 1)] })).rejects.toThrow();
    expect(await tracesOfRuns(store, [gone])).toHaveLength(1);
    await store.append(gone.id, [end(2)], here);
    await store.append(kept.id, [delta(1)], here, { traces: [trace(kept.id, 0, 0)] });
    await store.erase(gone.id);
    expect(await tracesOfRuns(store, [gone])).toEqual([]);
    const next = await store.traces({ limit: 1, after: last?.traceId, withLabels: false });
    expect(next[0]).toMatchObject({ solveId: kept.id });
  });

  it('never shows a trace before one with a smaller id, with many writers side by side', async () => {
    const { store } = open();
    const runs = Array.from({ length: 12 }, () => newRun());
    for (const run of runs) await store.create(run, here);
    const seen: string[] = [];
    let isDone = false;
    const follow = async (): Promise<void> => {
      let after = (await tracesOfRuns(store, [])).at(-1)?.traceId;
      for (let wasDone = false; !wasDone; ) {
        wasDone = isDone;
        for (const record of await store.traces({ limit: 100, after, withLabels: false })) {
          after = record.traceId;
          if (runs.some(({ id }) => id === record.solveId)) seen.push(`${record.solveId} ${record.round}`);
        }
      }
    };
    const following = follow();
    await Promise.all(
      runs.map(async (run) => {
        for (let round = 0; round < 5; round++) {
          await store.append(run.id, [delta(round + 1)], here, { traces: [trace(run.id, 0, round)] });
        }
      }),
    );
    isDone = true;
    await following;
    expect(seen.sort()).toEqual(runs.flatMap(({ id }) => [0, 1, 2, 3, 4].map((round) => `${id} ${round}`)).sort());
  });

  it('shows a list what was last said of a run', async () => {
    const { store } = open();
    const run = newRun();
    await store.create(run, here);
    expect(await store.list(run.owner, { limit: 1 })).toMatchObject([{ id: run.id, summary: undefined }]);
    const summary = { id: run.id, status: 'running', round: 0 } as RunSummary;
    await store.append(run.id, [delta(1)], here, { summary });
    await store.append(run.id, [delta(2)], here);
    expect(await store.list(run.owner, { limit: 1 })).toMatchObject([{ summary }]);
    await store.append(run.id, [end(3)], here, { summary: { ...summary, status: 'accepted' } as RunSummary });
    expect(await store.list(run.owner, { limit: 1 })).toMatchObject([{ status: 'accepted', summary: { round: 0 } }]);
  });

  it('tells the owner of a live run, whoever it is by then, that it is to be cancelled', async () => {
    const { store, setNow } = open();
    setNow(40_000);
    const run = newRun();
    await store.create(run, here);
    expect(await store.append(run.id, [delta(1)], here)).toEqual({ isCancelRequested: false });
    expect(await store.requestCancel(run.id)).toBe(true);
    expect(await store.append(run.id, [delta(2)], here)).toEqual({ isCancelRequested: true });
    expect((await store.renew(here)).get(run.id)).toEqual({ isCancelRequested: true });
    await store.park([run.id], here);
    const claimed = await store.claim(there, 1000);
    expect(claimed.find(({ id }) => id === run.id)).toMatchObject({ isCancelRequested: true });
    await store.append(run.id, [end(3)], there);
    expect(await store.requestCancel(run.id)).toBe(false);
    expect(await store.requestCancel('slv_nobody')).toBe(false);
  });

  it('finds a shared run by the digest of its token alone', async () => {
    const { store } = open();
    const run = newRun();
    await store.create(run, here);
    await store.share(run.id, `digest-${run.id}`);
    expect(await store.findShared(`digest-${run.id}`)).toMatchObject({ id: run.id });
    expect(await store.findShared('digest')).toBeUndefined();
  });

  it('sweeps ended runs by age and by size, never live ones', async () => {
    const { store, setNow } = open();
    // far in the future: everything that other tests left is old
    const now = 1e12;
    setNow(now - 5000);
    const [old, live, large, recent] = [newRun(), newRun(), newRun(), newRun()];
    for (const run of [old, live]) await store.create(run, here);
    await store.append(old.id, [end(1)], here);
    setNow(now - 500);
    await store.create(large, here);
    await store.append(large.id, [delta(1, 'x'.repeat(5000)), end(2)], here);
    setNow(now - 100);
    await store.create(recent, here);
    await store.append(recent.id, [end(1)], here);
    await store.sweep({ maxAgeMs: 1000, maxBytes: 4000, now });
    expect(await store.find(old.id)).toBeUndefined();
    expect(await store.find(large.id)).toBeUndefined();
    expect(await store.find(live.id)).toBeDefined();
    expect(await store.find(recent.id)).toBeDefined();
  });

  it('sweeps more runs than one page holds and leaves the newest that fit', { timeout: 60_000 }, async () => {
    const { store, setNow } = open();
    const now = 2e12;
    setNow(now - 1000);
    const runs = Array.from({ length: 250 }, () =>
      newRun({ owner: 'many', request: { problem: 'x'.repeat(1000) } as never }),
    );
    for (const [index, run] of runs.entries()) {
      setNow(now - 1000 + index);
      await store.create(run, here);
      await store.append(run.id, [end(1)], here);
    }
    // each is a little over 1,000 bytes; everything that other tests left is older
    expect(await store.sweep({ maxAgeMs: 1e15, maxBytes: 25_000, now })).toBeGreaterThan(200);
    const left = await store.list('many', { limit: 100 });
    expect(left.length).toBeGreaterThan(15);
    expect(left.length).toBeLessThan(25);
    expect(left.map(({ id }) => id).sort()).toEqual(
      runs
        .slice(-left.length)
        .map(({ id }) => id)
        .sort(),
    );
    expect(await store.sweep({ maxAgeMs: 1e15, maxBytes: 25_000, now })).toBe(0);
  });
}
