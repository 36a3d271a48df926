/** Stores as released versions left them, opened by this one. The files are never changed; a new schema adds one. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import Sqlite from 'libsql';
import { describe, expect, it } from 'vitest';
import { openDatabase } from '../../../src/store/open-database.ts';
import { migrations } from '../../../src/store/schema.ts';
import { SqlQuotaStore } from '../../../src/store/sql-quota-store.ts';
import { SqlRunStore } from '../../../src/store/sql-run-store.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const folder = fileURLToPath(new URL('./released', import.meta.url));
const versions = readdirSync(folder).map((file) => path.basename(file, '.sql'));

function restore(version: string): string {
  const location = path.join(temporaryFolder(), 'runs.db');
  const db = new Sqlite(location);
  db.exec(readFileSync(path.join(folder, `${version}.sql`), 'utf8'));
  db.close();
  return location;
}

describe('a released store', () => {
  it('is kept here for every schema', () => {
    expect(versions.sort()).toEqual(Object.keys(migrations));
  });

  it.each(versions)('%s is brought forward with its runs, events, labels, keys and links', async (version) => {
    const location = restore(version);
    const db = await openDatabase(location);
    const store = new SqlRunStore(db, () => 1_790_000_030_000);
    const number = Number.parseInt(version, 10);

    const runs = await store.list('key-1', { limit: 10 });
    expect(runs.map(({ id, status }) => [id, status])).toEqual([
      ['slv_held', 'running'],
      ['slv_parked', 'parked'],
      ['slv_ended', 'accepted'],
    ]);
    const ended = await store.findShared('d1e2');
    expect(ended).toMatchObject({
      id: 'slv_ended',
      created: 1_790_000_000_000,
      updated: 1_790_000_009_000,
      lastEventId: 2,
      request: { problem: 'What is 2 + 2?' },
      summary: { id: 'slv_ended', status: 'accepted', solution: "it's 4 – ✓", score: 0.9 },
      isCancelRequested: false,
    });
    expect(ended?.summary).not.toHaveProperty('chains');
    expect(await store.events('slv_ended', 0, 10)).toMatchObject([
      { id: 1, type: 'attempt-delta', text: 'ä€😀' },
      { id: 2, type: 'solve-end', solution: "it's 4 – ✓", chains: [{ chain: 0, rounds: [] }] },
    ]);
    const { rows: labels } = await sql`select run_id, data from labels`.execute(db);
    expect(labels).toEqual([{ run_id: 'slv_ended', data: '{"reference":"2 + 2 = 4","answer":"4"}' }]);
    if (number >= 2) {
      const traces = await store.traces({ limit: 10, withLabels: true });
      expect(traces).toMatchObject([{ solveId: 'slv_ended', attempt: '4', versions: null, label: { answer: '4' } }]);
    }
    const usage = await new SqlQuotaStore(db).read('key-1', '2026-09-21');
    expect(usage).toEqual(number >= 4 ? { requests: 3, tokens: 1234 } : { requests: 0, tokens: 0 });

    const lease = { holder: 'next', ttlMs: 15_000 };
    const repeated = {
      id: 'slv_new',
      owner: 'key-1',
      created: 1,
      request: {} as never,
      idempotency: { key: 'again', bodyHash: 'b0d1' },
    };
    expect(await store.create(repeated, lease)).toEqual({ kind: 'exists', id: 'slv_ended' });
    expect((await store.claim(lease, 10)).map(({ id }) => id)).toEqual(['slv_parked']);
    expect(await store.sweep({ maxAgeMs: 1e15, maxBytes: 320, now: 1_790_000_030_000 })).toBe(1);
    expect((await store.list('key-1', { limit: 10 })).map(({ id }) => id)).toEqual(['slv_held', 'slv_parked']);
    await store.close();

    // once more, by a server that starts again
    const again = new SqlRunStore(await openDatabase(location));
    expect(await again.find('slv_parked')).toMatchObject({ status: 'parked', lastEventId: 1 });
    await again.close();
  });
});
