import path from 'node:path';
import { sql } from 'kysely';
import { describe, expect, it, vi } from 'vitest';
import { openDatabase } from '../../../src/store/open-database.ts';
import { SqlRunStore } from '../../../src/store/sql-run-store.ts';
import { reading, writeFailure } from '../../../src/store/write-failure.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const lease = { holder: 'a', ttlMs: 10_000 };

function create(store: SqlRunStore, id: string): Promise<unknown> {
  return store.create({ id, owner: 'o', created: 1, request: { id, problem: 'p' } as never }, lease);
}

describe('a store that cannot be written', () => {
  it('refuses what is to be stored while it is read-only, says so, and takes it afterwards', async () => {
    const db = await openDatabase(path.join(temporaryFolder(), 'runs.db'));
    const store = new SqlRunStore(db);
    await create(store, 'slv_1');
    await sql.raw('pragma query_only = on').execute(db);
    await expect(create(store, 'slv_2')).rejects.toMatchObject({
      code: 'storage_full',
      message: 'The store cannot be written: it is read-only, or its disk fails.',
    });
    await expect(store.share('slv_1', 'digest')).rejects.toMatchObject({ code: 'storage_full' });
    await expect(store.requestCancel('slv_1')).rejects.toMatchObject({ code: 'storage_full' });
    expect(await store.find('slv_1')).toMatchObject({ status: 'queued' });
    await sql.raw('pragma query_only = off').execute(db);
    expect(await create(store, 'slv_2')).toEqual({ kind: 'created' });
    await store.close();
  });

  it('claims no full disk for a commit that was lost for a cause that nobody told', async () => {
    const db = await openDatabase(path.join(temporaryFolder(), 'runs.db'));
    // SQLite has rolled back by itself, and the rollback that follows finds nothing to end
    const execute = () => Promise.reject(new Error('cannot rollback - no transaction is active'));
    vi.spyOn(db, 'transaction').mockReturnValue({ execute } as never);
    const store = new SqlRunStore(db);
    await expect(create(store, 'slv_1')).rejects.toMatchObject({
      code: 'storage_full',
      message: expect.stringContaining('full, or it fails'),
    });
    await db.destroy();
  });

  it.each([
    'SQLITE_IOERR',
    'SQLITE_IOERR_WRITE',
    'SQLITE_READONLY_DBMOVED',
    'SQLITE_CANTOPEN',
    'EIO',
    '58030',
    '25006',
  ])('%s is a failed write and no full disk', (code) => {
    const failure = writeFailure(Object.assign(new Error('x'), { code }));
    expect(failure).toMatchObject({ code: 'storage_full' });
    expect(failure?.message).not.toContain('no disk space');
  });

  it.each([
    [{ code: 'ECONNREFUSED' }, 'x'],
    [{ code: '57P01' }, 'terminating connection due to administrator command'],
    [{ code: '40P01' }, 'deadlock detected'],
    [{ code: '08006' }, 'x'],
    [{}, 'timeout exceeded when trying to connect'],
    [{}, 'Connection terminated unexpectedly'],
  ])('%j %s: the store is away for the moment, to read and to write', async (fields, message) => {
    const error = Object.assign(new Error(message), fields);
    expect(writeFailure(error)).toMatchObject({ code: 'not_ready', retryAfterMs: 2000 });
    await expect(reading(Promise.reject(error))).rejects.toMatchObject({ code: 'not_ready', cause: error });
  });

  it.each([
    ['SQLITE_FULL', 'storage_full'],
    ['ENOSPC', 'storage_full'],
    ['SQLITE_CONSTRAINT_UNIQUE', undefined],
    ['SQLITE_CORRUPT', undefined],
    [undefined, undefined],
  ])('%s is %s', (code, expected) => {
    expect(writeFailure(Object.assign(new Error('x'), { code }))?.code).toBe(expected);
  });
});
