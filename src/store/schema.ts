/** Tables of the store, the same in SQLite and PostgreSQL, and the migrations that make them. JSON is kept as text. */
import { type Kysely, type Migration, sql } from 'kysely';

export interface Database {
  runs: {
    id: string;
    owner: string;
    /** Milliseconds since the epoch, as all times here. */
    created: number;
    updated: number;
    status: string;
    request: string;
    last_event_id: number;
    /** Bytes of request and events, for retention by size. */
    bytes: number;
    /** Null: nobody works on it. */
    lease_holder: string | null;
    lease_until: number;
    idempotency_key: string | null;
    body_hash: string | null;
    share_digest: string | null;
    /** When it ended; null while it is live. Retention goes by it. */
    ended: number | null;
    /** 1: its owner has been asked, through whatever server, to cancel it. */
    cancel_requested: number;
    /** The answer so far without its chains, for lists; null before the first event. */
    summary: string | null;
  };
  events: { run_id: string; id: number; data: string };
  labels: { run_id: string; data: string };
  /** `seq` orders them by the commit of their transaction, because each takes it from the counter, whose row it locks. */
  traces: { seq: number; run_id: string; chain: number; round: number; data: string };
  /** `traces`: the last `seq`. `ended_bytes`: bytes of all ended runs. */
  counters: { name: string; value: number };
  /** What each API key has used on a day (UTC, `YYYY-MM-DD`). */
  quotas: { key: string; day: string; requests: number; tokens: number };
}

const liveStatuses = ['queued', 'running', 'parked'];

/** Forward only. A released migration never changes; a new one is added below it. */
export const migrations: Readonly<Record<string, Migration>> = {
  '001-runs': {
    async up(db: Kysely<unknown>) {
      await db.schema
        .createTable('runs')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('owner', 'text', (column) => column.notNull())
        .addColumn('created', 'bigint', (column) => column.notNull())
        .addColumn('updated', 'bigint', (column) => column.notNull())
        .addColumn('status', 'text', (column) => column.notNull())
        .addColumn('request', 'text', (column) => column.notNull())
        .addColumn('last_event_id', 'integer', (column) => column.notNull())
        .addColumn('bytes', 'bigint', (column) => column.notNull())
        .addColumn('lease_holder', 'text')
        .addColumn('lease_until', 'bigint', (column) => column.notNull())
        .addColumn('idempotency_key', 'text')
        .addColumn('body_hash', 'text')
        .addColumn('share_digest', 'text')
        .execute();
      await db.schema.createIndex('runs_by_owner').on('runs').columns(['owner', 'created', 'id']).execute();
      await db.schema.createIndex('runs_by_status').on('runs').columns(['status', 'lease_until']).execute();
      await db.schema.createIndex('runs_by_share').unique().on('runs').column('share_digest').execute();
      await sql`create unique index runs_by_idempotency on runs (owner, idempotency_key) where idempotency_key is not null`.execute(
        db,
      );
      await db.schema
        .createTable('events')
        .addColumn('run_id', 'text', (column) => column.notNull().references('runs.id').onDelete('cascade'))
        .addColumn('id', 'integer', (column) => column.notNull())
        .addColumn('data', 'text', (column) => column.notNull())
        .addPrimaryKeyConstraint('events_key', ['run_id', 'id'])
        .execute();
      await db.schema
        .createTable('labels')
        .addColumn('run_id', 'text', (column) => column.primaryKey().references('runs.id').onDelete('cascade'))
        .addColumn('data', 'text', (column) => column.notNull())
        .execute();
    },
  },
  '002-traces': {
    async up(db: Kysely<unknown>) {
      await db.schema
        .createTable('traces')
        .addColumn('seq', 'bigint', (column) => column.primaryKey())
        .addColumn('run_id', 'text', (column) => column.notNull().references('runs.id').onDelete('cascade'))
        .addColumn('chain', 'integer', (column) => column.notNull())
        .addColumn('round', 'integer', (column) => column.notNull())
        .addColumn('data', 'text', (column) => column.notNull())
        .addUniqueConstraint('traces_by_round', ['run_id', 'chain', 'round'])
        .execute();
      await db.schema
        .createTable('counters')
        .addColumn('name', 'text', (column) => column.primaryKey())
        .addColumn('value', 'bigint', (column) => column.notNull())
        .execute();
      await sql`insert into counters (name, value) values ('traces', 0)`.execute(db);
    },
  },
  '003-summaries': {
    async up(db: Kysely<unknown>) {
      const table = db.schema.alterTable('runs');
      await table.addColumn('ended', 'bigint').execute();
      await table.addColumn('cancel_requested', 'integer', (column) => column.notNull().defaultTo(0)).execute();
      await table.addColumn('summary', 'text').execute();
      await db.schema.createIndex('runs_by_end').on('runs').columns(['ended', 'id']).execute();
      await summarizeEnded(db as Kysely<Database>);
    },
  },
  '004-quotas': {
    async up(db: Kysely<unknown>) {
      await db.schema
        .createTable('quotas')
        .addColumn('key', 'text', (column) => column.notNull())
        .addColumn('day', 'text', (column) => column.notNull())
        .addColumn('requests', 'bigint', (column) => column.notNull())
        .addColumn('tokens', 'bigint', (column) => column.notNull())
        .addPrimaryKeyConstraint('quotas_key', ['key', 'day'])
        .execute();
    },
  },
};

/** Runs that ended before there were summaries: their last event holds the answer. */
async function summarizeEnded(db: Kysely<Database>): Promise<void> {
  let after = '';
  let bytes = 0;
  for (;;) {
    const page = await db
      .selectFrom('runs')
      .leftJoin('events', (join) =>
        join.onRef('events.run_id', '=', 'runs.id').onRef('events.id', '=', 'runs.last_event_id'),
      )
      .select(['runs.id', 'runs.updated', 'runs.bytes', 'events.data'])
      .where('runs.status', 'not in', liveStatuses)
      .where('runs.id', '>', after)
      .orderBy('runs.id')
      .limit(100)
      .execute();
    for (const row of page) {
      after = row.id;
      bytes += row.bytes;
      await db
        .updateTable('runs')
        .set({ ended: row.updated, summary: row.data === null ? null : summaryOfEnd(row.data) })
        .where('id', '=', row.id)
        .execute();
    }
    if (page.length < 100) break;
  }
  await db.insertInto('counters').values({ name: 'ended_bytes', value: bytes }).execute();
}

function summaryOfEnd(event: string): string | null {
  const { type, id: _, solveId, chains: __, ...answer } = JSON.parse(event) as Record<string, unknown>;
  return type === 'solve-end' ? JSON.stringify({ id: solveId, ...answer }) : null;
}
