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
  };
  events: { run_id: string; id: number; data: string };
  labels: { run_id: string; data: string };
  /** `seq` orders them by the commit of their transaction, because each takes it from the counter, whose row it locks. */
  traces: { seq: number; run_id: string; chain: number; round: number; data: string };
  counters: { name: string; value: number };
}

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
};
