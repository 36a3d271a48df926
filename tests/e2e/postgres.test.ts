/** The store on a real PostgreSQL, and two servers on one database. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { StvError } from '../../src/errors.ts';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import type { RunStore } from '../../src/stv/run-store.ts';
import type { SolveRequest } from '../../src/stv/solve-events.ts';
import { buildApp, type TestApp } from '../http/build-app.ts';
import { call, parseEvents, post } from '../http/contract.ts';
import { findPostgres, type PostgresServer, startPostgres } from '../support/postgres.ts';
import { runStoreSuite } from '../support/run-store-suite.ts';
import { createSolveRequest } from '../support/solve-request.ts';

const bin = findPostgres();
if (bin === undefined)
  console.warn('Skipped: no PostgreSQL below /usr/lib/postgresql (Debian: apt install postgresql).');

describe.skipIf(bin === undefined)('SqlRunStore on PostgreSQL', () => {
  let server: PostgresServer;
  let location = '';
  let store: SqlRunStore;
  let now = 0;

  beforeAll(async () => {
    server = await startPostgres(bin as string);
    location = server.database('runs');
    store = new SqlRunStore(await openDatabase(location), () => now);
  });
  afterAll(async () => {
    await store?.close();
    await server?.stop();
  });

  runStoreSuite(() => ({
    store,
    setNow: (ms) => {
      now = ms;
    },
  }));

  it('gives numbers back as numbers, also beyond 32 bits', async () => {
    now = 1_900_000_000_123;
    const id = 'slv_numbers';
    await store.create({ id, owner: 'o', created: now, request: { id } as SolveRequest }, { holder: 'h', ttlMs: 1 });
    expect(await store.find(id)).toMatchObject({ created: now, updated: now, lastEventId: 0 });
  });

  it('says that it cannot connect without telling the password', async () => {
    const wrong = location.replace('stv@', 'stv:PRIVATE@').replace('/runs?', '/missing?');
    const error = await openDatabase(wrong).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'config_invalid' });
    expect((error as StvError).message).not.toContain('PRIVATE');
  });

  it('says of a database that is away that it is to be asked again', async () => {
    const other = await startPostgres(bin as string);
    const lost = new SqlRunStore(await openDatabase(other.database('runs')));
    await other.stop();
    const away = { code: 'not_ready', retryAfterMs: 2000 };
    // connections that were open are seen to be closed first
    await vi.waitFor(async () =>
      expect(await lost.find('nothing').catch((thrown: unknown) => thrown)).toMatchObject(away),
    );
    const run = { id: 'slv_away', owner: 'o', created: 1, request: { id: 'slv_away' } as SolveRequest };
    await expect(lost.create(run, { holder: 'h', ttlMs: 1 })).rejects.toMatchObject(away);
    await lost.close();
  });

  it('outlives a database that closes its connections', async () => {
    const doomed = new SqlRunStore(await openDatabase(location));
    const killer = await openDatabase(location);
    expect(await doomed.find('nothing')).toBeUndefined();
    await sql`select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()`.execute(killer);
    await vi.waitFor(async () => expect(await doomed.find('nothing')).toBeUndefined());
    await Promise.all([doomed.close(), killer.destroy()]);
  });

  it('is set up once by servers that start at the same time', async () => {
    const fresh = server.database('fresh');
    const databases = await Promise.all([1, 2, 3].map(() => openDatabase(fresh)));
    const { rows } = await sql<{ count: number }>`select count(*) as count from counters where name = 'traces'`.execute(
      databases[0] as (typeof databases)[0],
    );
    expect(rows).toEqual([{ count: 1 }]);
    await Promise.all(databases.map((db) => db.destroy()));
  });
});

describe.skipIf(bin === undefined)('two servers on one PostgreSQL', () => {
  let server: PostgresServer;
  let number = 0;
  let location = '';

  beforeAll(async () => {
    server = await startPostgres(bin as string);
  });
  afterAll(async () => {
    await server?.stop();
  });

  /** A server with connections of its own. */
  async function replica(engine: Parameters<typeof buildApp>[0] = {}): Promise<TestApp & { store: RunStore }> {
    const store = new SqlRunStore(await openDatabase(location));
    onTestFinished(() => store.close());
    return { ...(await buildApp({ ...engine, store })), store };
  }

  it('take over what a dead one left, and never run the same run twice', async () => {
    location = server.database(`replicas${++number}`);
    const engine = { delayMs: 3, reply: () => 'word '.repeat(20), accept: () => 0.2 };
    const [one, two] = [await replica({ engine }), await replica({ engine })];
    const ids = Array.from({ length: 8 }, (_, index) => `slv_left${index}`);
    for (const id of ids) {
      await one.store.create(
        {
          id,
          owner: 'anonymous',
          created: Date.now(),
          request: createSolveRequest({ id, maxRounds: 1, priority: 'batch' }),
        },
        { holder: 'dead', ttlMs: -1 },
      );
    }
    one.runs.beginUpkeep();
    two.runs.beginUpkeep();
    for (const id of ids) {
      await vi.waitFor(
        async () => expect((await call(two.app, { url: `/solve/${id}` })).json().status).toBe('exhausted'),
        20_000,
      );
      const events = parseEvents((await one.app.inject({ url: `/solve/${id}/events` })).body);
      expect(events.map((event) => Number(event.id))).toEqual(events.map((_, index) => index + 1));
      expect(events.filter(({ event }) => event === 'solve-start')).toHaveLength(1);
      expect(events.at(-1)?.event).toBe('solve-end');
    }
    const attempts = [one, two].map(({ engine: { requests } }) =>
      requests.filter(({ model }) => model.includes('generator')).map(({ id }) => id),
    );
    // two attempts a run, each made once by one server
    expect(attempts.flat()).toHaveLength(ids.length * 2);
    expect(new Set(attempts.flat()).size).toBe(ids.length * 2);
    expect(await one.store.traces({ limit: 100, withLabels: false })).toHaveLength(ids.length * 2);
    for (const { runs } of [one, two]) await runs.close(new StvError('draining', 'The test is over.'));
  });

  it('attach the same Idempotency-Key to one run, whichever of them is asked', async () => {
    location = server.database(`replicas${++number}`);
    const [one, two] = [await replica({ engine: { delayMs: 2 } }), await replica({ engine: { delayMs: 2 } })];
    const body = { problem: 'p', max_rounds: 0, seed: 3, store: true };
    const answers = await Promise.all(
      [one, two, one, two].map(({ app }) => post(app, '/solve', body, { 'idempotency-key': 'k' })),
    );
    expect(new Set(answers.map((answer) => answer.json().id)).size).toBe(1);
    expect(one.engine.requests.length + two.engine.requests.length).toBe(2);
  });

  it('follow each other: one shows live what the other runs', async () => {
    location = server.database(`replicas${++number}`);
    const [one, two] = [await replica({ engine: { delayMs: 20, accept: () => 0.2 } }), await replica()];
    const { id } = (await post(one.app, '/solve', { problem: 'p', max_rounds: 1, background: true })).json();
    const events = parseEvents((await two.app.inject({ url: `/solve/${id}/events` })).body);
    expect(events.at(-1)?.event).toBe('solve-end');
    expect(events.map((event) => Number(event.id))).toEqual(events.map((_, index) => index + 1));
  });
});
