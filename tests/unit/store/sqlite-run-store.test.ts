import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDatabase } from '../../../src/store/open-database.ts';
import { SqlRunStore } from '../../../src/store/sql-run-store.ts';
import { runStoreSuite } from '../../support/run-store-suite.ts';

describe('SqlRunStore on SQLite', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'stv-store-'));
  const file = path.join(folder, 'new/folder/runs.db');
  let now = 0;
  let store: SqlRunStore;

  beforeAll(async () => {
    store = new SqlRunStore(await openDatabase(file), () => now);
  });
  afterAll(async () => {
    await store.close();
    rmSync(folder, { recursive: true });
  });

  runStoreSuite(() => ({
    store,
    setNow: (ms) => {
      now = ms;
    },
  }));

  it('opens an existing store again and finds its runs', async () => {
    const location = path.join(folder, 'again.db');
    const lease = { holder: 'a', ttlMs: 10 };
    const first = new SqlRunStore(await openDatabase(location));
    await first.create({ id: 'slv_1', owner: 'o', created: 1, request: { id: 'slv_1' } as never }, lease);
    await first.close();
    const second = new SqlRunStore(await openDatabase(location));
    expect(await second.find('slv_1')).toMatchObject({ id: 'slv_1', status: 'queued' });
    await second.close();
  });

  it('says which file cannot be opened', async () => {
    await expect(openDatabase(folder)).rejects.toMatchObject({
      code: 'config_invalid',
      message: expect.stringContaining(folder),
    });
  });
});
