import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Kysely, Migrator, SqliteDialect, sql } from 'kysely';
import Sqlite from 'libsql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDatabase } from '../../../src/store/open-database.ts';
import { type Database, migrations } from '../../../src/store/schema.ts';
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

  it('brings a store of the version before to the newest: ended runs get their summary, live ones stay', async () => {
    const location = path.join(folder, 'old.db');
    const db = new Kysely<Database>({ dialect: new SqliteDialect({ database: new Sqlite(location) }) });
    const old = Object.fromEntries(Object.entries(migrations).filter(([name]) => name < '003'));
    await new Migrator({ db, provider: { getMigrations: async () => old } }).migrateToLatest();
    const insert = async (id: string, status: string, lastEvent: object): Promise<void> => {
      const row = `('${id}', 'o', 1, 77, '${status}', '{"problem":"p"}', 2, 100, null, 0, null, null, null)`;
      await sql.raw(`insert into runs values ${row}`).execute(db);
      await sql`insert into events values (${id}, 2, ${JSON.stringify(lastEvent)})`.execute(db);
    };
    const answer = { status: 'accepted', solution: 's', chains: [{ chain: 0 }] };
    await insert('slv_ended', 'accepted', { type: 'solve-end', id: 2, solveId: 'slv_ended', ...answer });
    await insert('slv_live', 'parked', { type: 'attempt-delta', id: 2, solveId: 'slv_live', text: 'x' });
    await db.destroy();

    const upgraded = new SqlRunStore(await openDatabase(location));
    const runs = await upgraded.list('o', { limit: 10 });
    expect(runs.map(({ id, summary }) => [id, summary])).toEqual([
      ['slv_live', undefined],
      ['slv_ended', { id: 'slv_ended', status: 'accepted', solution: 's' }],
    ]);
    expect(await upgraded.sweep({ maxAgeMs: 1e15, maxBytes: 99, now: 1000 })).toBe(1);
    expect((await upgraded.list('o', { limit: 10 })).map(({ id }) => id)).toEqual(['slv_live']);
    await upgraded.close();
  });

  it('lists and sweeps without reading the other runs: the plans name an index', async () => {
    const db = await openDatabase(path.join(folder, 'plans.db'));
    const planOf = async (query: string): Promise<string> => {
      const { rows } = await sql.raw<{ detail: string }>(`explain query plan ${query}`).execute(db);
      return rows.map(({ detail }) => detail).join('; ');
    };
    const list = await planOf(`select * from runs where owner = 'o' order by created desc, id desc limit 20`);
    expect(list).toContain('runs_by_owner');
    const sweep = await planOf('select id from runs where ended is not null order by ended, id limit 100');
    expect(sweep).toContain('runs_by_end');
    for (const plan of [list, sweep]) expect(plan).not.toContain('TEMP B-TREE');
    await db.destroy();
  });

  it('refuses what a full store cannot take, and takes it when there is room again', async () => {
    const db = await openDatabase(path.join(folder, 'full.db'));
    const full = new SqlRunStore(db);
    const lease = { holder: 'a', ttlMs: 10_000 };
    const create = (id: string, problem: string) =>
      full.create({ id, owner: 'o', created: 1, request: { id, problem } as never }, lease);
    const setLimit = async (pages: number): Promise<void> => {
      await sql.raw(`pragma max_page_count = ${pages}`).execute(db);
    };
    await create('slv_before', 'p');
    // below what is there, SQLite sets it to what is there
    await setLimit(1);
    for (const id of ['slv_1', 'slv_2']) {
      await expect(create(id, 'x'.repeat(50_000))).rejects.toMatchObject({ code: 'storage_full' });
    }
    expect(await full.find('slv_before')).toMatchObject({ status: 'queued' });
    await setLimit(1_000_000);
    expect(await create('slv_2', 'x'.repeat(50_000))).toEqual({ kind: 'created' });
    expect((await full.list('o', { limit: 9 })).map(({ id }) => id)).toEqual(['slv_before', 'slv_2']);
    await full.close();
  });

  it('says which file cannot be opened', async () => {
    await expect(openDatabase(folder)).rejects.toMatchObject({
      code: 'config_invalid',
      message: expect.stringContaining(folder),
    });
  });
});
