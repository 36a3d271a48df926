import path from 'node:path';
import { expect, it, onTestFinished, vi } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { RunRegistry } from '../../../src/runs/run-registry.ts';
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
