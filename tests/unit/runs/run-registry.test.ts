import path from 'node:path';
import { expect, it, onTestFinished, vi } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { RunRegistry, type RunRegistryOptions } from '../../../src/runs/run-registry.ts';
import { openDatabase } from '../../../src/store/open-database.ts';
import { SqlRunStore } from '../../../src/store/sql-run-store.ts';
import { createSolveRequest } from '../../support/solve-request.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

it('leaves nothing of a stored run that fails before its first event', async () => {
  const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
  onTestFinished(() => store.close());
  const failure = new StvError('model_not_found', 'The model is not served here.');
  const runs = new RunRegistry({
    // biome-ignore lint/correctness/useYield: it fails before it has anything to give
    async *loop() {
      throw failure;
    },
    store,
    maxEventChars: 65_536,
    holder: 'here',
  });
  const request = { ...createSolveRequest(), id: 'slv_1' };
  const owner = { id: 'o', isAdmin: false };
  const found = await runs.start({ request, owner, isStored: true });
  const reading = async (): Promise<void> => {
    for await (const _ of runs.events(found, 0, new AbortController().signal)) throw new Error('there is no event');
  };
  await expect(reading()).rejects.toBe(failure);
  await vi.waitFor(async () => expect(await store.find('slv_1')).toBeUndefined());
  await expect(runs.find('slv_1', owner)).rejects.toMatchObject({ code: 'not_found' });
});

it('keeps a run that begins while the leases are renewed', async () => {
  const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
  onTestFinished(() => store.close());
  let isRenewed: (() => void) | undefined;
  const renewal = new Promise<void>((resolve) => {
    isRenewed = resolve;
  });
  const renew = store.renew.bind(store);
  const slowly = vi.spyOn(store, 'renew').mockImplementationOnce(async (lease) => {
    const held = await renew(lease);
    await renewal;
    return held;
  });
  let goOn: (() => void) | undefined;
  const runs = new RunRegistry({
    async *loop(_request, signal) {
      await new Promise<void>((resolve) => {
        goOn = resolve;
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
      if (signal.aborted) throw signal.reason;
    },
    store,
    maxEventChars: 65_536,
    holder: 'here',
  });
  runs.beginUpkeep();
  await vi.waitFor(() => expect(slowly).toHaveBeenCalled());
  const request = { ...createSolveRequest(), id: 'slv_2' };
  const found = await runs.start({ request, owner: { id: 'o', isAdmin: false }, isStored: true });
  isRenewed?.();
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(found.kind === 'live' && found.live.isEnded).toBe(false);
  goOn?.();
  await runs.close(new StvError('draining', 'The test is over.'));
});

/** What waits for the end of the server, with the ids of the runs that it worked on. */
function waitingLoop(): { readonly worked: string[]; readonly loop: RunRegistryOptions['loop'] } {
  const worked: string[] = [];
  return {
    worked,
    async *loop({ id }, signal) {
      worked.push(id);
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
      throw signal.reason;
    },
  };
}

async function upkeepAgain(): Promise<void> {
  vi.advanceTimersByTime(5000);
  await new Promise((resolve) => setTimeout(resolve, 50));
}

it('goes on with a stored run whose creation was never confirmed', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
  onTestFinished(() => store.close());
  const create = store.create.bind(store);
  vi.spyOn(store, 'create').mockImplementationOnce(async (run, lease) => {
    await create(run, lease);
    throw new Error('the connection was lost');
  });
  const { loop, worked } = waitingLoop();
  const runs = new RunRegistry({ loop, store, maxEventChars: 65_536, holder: 'here' });
  runs.beginUpkeep();
  const request = { ...createSolveRequest(), id: 'slv_3' };
  const start = runs.start({ request, owner: { id: 'o', isAdmin: false }, isStored: true });
  await expect(start).rejects.toThrow('the connection was lost');
  for (let turn = 0; turn < 3 && worked.length === 0; turn++) await upkeepAgain();
  expect(worked).toEqual(['slv_3']);
  await upkeepAgain();
  expect(runs.numLive).toBe(1); // and is not given back again
  await runs.close(new StvError('draining', 'The test is over.'));
  expect((await store.find('slv_3'))?.status).toBe('parked');
});

it('takes runs over beside such as it cannot read', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
  onTestFinished(() => store.close());
  const dead = { holder: 'dead', ttlMs: -1 };
  for (const [created, id] of ['bad_1', 'bad_2', 'bad_3', 'bad_4', 'bad_5', 'good'].entries()) {
    const request = { ...createSolveRequest(), id };
    await store.create({ id, owner: 'o', created, request, label: undefined, idempotency: undefined }, dead);
  }
  const events = store.events.bind(store);
  vi.spyOn(store, 'events').mockImplementation(async (id, after, limit) => {
    if (id.startsWith('bad')) throw new Error('an event of a newer server');
    return events(id, after, limit);
  });
  const errors: unknown[] = [];
  const { loop, worked } = waitingLoop();
  const onError = (error: unknown): void => void errors.push(error);
  const runs = new RunRegistry({ loop, store, maxEventChars: 65_536, holder: 'here', onError });
  runs.beginUpkeep();
  for (let turn = 0; turn < 3 && worked.length === 0; turn++) await upkeepAgain();
  expect(worked).toEqual(['good']);
  expect(errors).toHaveLength(5);
  expect((await store.find('bad_1'))?.status).toBe('parked'); // for a server that can
  await runs.close(new StvError('draining', 'The test is over.'));
});

it('goes on erasing what is too old after the clock was set back', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
  onTestFinished(() => store.close());
  let now = Date.now();
  const runs = new RunRegistry({
    async *loop() {},
    store,
    maxEventChars: 65_536,
    holder: 'here',
    retention: { maxAgeMs: 1, maxBytes: 1 },
    now: () => now,
  });
  const sweep = vi.spyOn(store, 'sweep');
  const turn = async (): Promise<number> => {
    vi.advanceTimersByTime(5000);
    await vi.waitFor(() => expect(sweep.mock.settledResults.every(({ type }) => type === 'fulfilled')).toBe(true));
    return sweep.mock.calls.length;
  };
  runs.beginUpkeep();
  expect(await turn()).toBe(1);
  now -= 365 * 86_400_000;
  expect(await turn()).toBe(2);
  expect(await turn()).toBe(2);
  await runs.close(new StvError('draining', 'The test is over.'));
});
