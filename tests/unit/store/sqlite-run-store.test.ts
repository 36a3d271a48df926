import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
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

  describe('what was erased', () => {
    const marker = 'ERASED-MARKER';
    const lease = { holder: 'a', ttlMs: 10_000 };

    /** How often the marker stands in the bytes of the database and of its log. */
    function copiesIn(location: string): number {
      const files = [location, `${location}-wal`].filter(existsSync);
      return files.reduce((sum, name) => sum + readFileSync(name, 'latin1').split(marker).length - 1, 0);
    }

    /** A run with texts in every table, longer than a page and shorter. */
    async function addRun(to: SqlRunStore, id: string): Promise<void> {
      const problem = `${marker} `.repeat(1000);
      const label = { reference: marker, answer: marker };
      await to.create({ id, owner: 'o', created: 1, request: { id, problem } as never, label }, lease);
      const text = { id: 1, type: 'attempt-delta', solveId: id, chain: 0, round: 0, text: problem };
      const end = { id: 2, type: 'solve-end', solveId: id, status: 'accepted', solution: marker };
      const trace = { solveId: id, chain: 0, round: 0, attempt: marker };
      const extras = { traces: [trace] as never, summary: { solution: marker } as never };
      await to.append(id, [text, end] as never, lease, extras);
    }

    it('stands in no file any more, neither after an erasure nor after a sweep', async () => {
      const location = path.join(folder, 'erased.db');
      const erasing = new SqlRunStore(await openDatabase(location), () => 1000);
      await addRun(erasing, 'slv_1');
      await addRun(erasing, 'slv_2');
      const numBefore = copiesIn(location);
      expect(await erasing.erase('slv_1')).toBe(true);
      const numLeft = copiesIn(location);
      expect(numLeft).toBeGreaterThan(1000);
      expect(numLeft).toBeLessThan(numBefore);
      expect(await erasing.sweep({ maxAgeMs: 0, maxBytes: 1e9, now: 2000 })).toBe(1);
      expect(copiesIn(location)).toBe(0);
      await addRun(erasing, 'slv_3');
      expect(await erasing.erase('slv_3')).toBe(true);
      expect(copiesIn(location)).toBe(0);
      await erasing.close();
    });

    it('is erased also while another process reads, and leaves the log at the next sweep', async () => {
      const location = path.join(folder, 'held.db');
      const erasing = new SqlRunStore(await openDatabase(location), () => 1000);
      await addRun(erasing, 'slv_1');
      const reader = new Sqlite(location);
      reader.exec('begin');
      reader.prepare('select count(*) from runs').get();
      const began = performance.now();
      expect(await erasing.erase('slv_1')).toBe(true);
      // the process stands still while it waits
      expect(performance.now() - began).toBeLessThan(3000);
      expect(await erasing.find('slv_1')).toBeUndefined();
      expect(copiesIn(location)).toBeGreaterThan(0);
      reader.exec('commit');
      reader.close();
      expect(await erasing.sweep({ maxAgeMs: 1e9, maxBytes: 1e9, now: 2000 })).toBe(0);
      expect(copiesIn(location)).toBe(0);
      await erasing.close();
    });
  });

  it('says which file cannot be opened', async () => {
    await expect(openDatabase(folder)).rejects.toMatchObject({
      code: 'config_invalid',
      message: expect.stringContaining(folder),
    });
  });
});
