/** Durable runs in SQL: one set of queries for SQLite and PostgreSQL. */
import type { Kysely, Selectable, SelectQueryBuilder, Transaction } from 'kysely';
import { StvError } from '../errors.ts';
import {
  type AppendExtras,
  type CreateResult,
  keyLifetimeMs,
  type Lease,
  type ListOptions,
  type NewRun,
  type RunLabel,
  type RunStatus,
  type RunStore,
  type StoredRun,
  type TraceOptions,
} from '../stv/run-store.ts';
import type { RunSummary, SolveEvent, SolveRequest } from '../stv/solve-events.ts';
import type { NewTrace, TraceRecord } from '../stv/traces.ts';
import { ErasedTexts } from './erased-texts.ts';
import { FarLeases, type HeldLease } from './far-leases.ts';
import { addEndedBytes, eraseAll, sweepPage, sweepPageSize } from './retention.ts';
import type { Database } from './schema.ts';
import { lostCommit, reading, writeFailure } from './write-failure.ts';

const live: readonly RunStatus[] = ['queued', 'running', 'parked'];

/** Rows of one INSERT; SQLite takes at most 32,766 variables, three a row. */
const maxRowsPerInsert = 1000;

export class SqlRunStore implements RunStore {
  readonly #db: Kysely<Database>;
  readonly #now: () => number;
  readonly #farLeases: FarLeases;
  readonly #erasedTexts: ErasedTexts;

  /** `now`: milliseconds since the epoch; `elapsed`: milliseconds of a clock that nobody sets. */
  constructor(db: Kysely<Database>, now: () => number = Date.now, elapsed: () => number = () => performance.now()) {
    this.#db = db;
    this.#now = now;
    this.#farLeases = new FarLeases(elapsed);
    this.#erasedTexts = new ErasedTexts(db);
  }

  async create(run: NewRun, lease: Lease): Promise<CreateResult> {
    const request = JSON.stringify(run.request);
    const { idempotency } = run;
    return this.#write(async (trx) => {
      if (idempotency !== undefined) {
        await trx
          .updateTable('runs')
          .set({ idempotency_key: null })
          .where('owner', '=', run.owner)
          .where('idempotency_key', '=', idempotency.key)
          // a client is told to try again what has failed
          .where(({ eb, or }) => or([eb('created', '<=', this.#now() - keyLifetimeMs), eb('status', '=', 'failed')]))
          .execute();
      }
      const inserted = await trx
        .insertInto('runs')
        .values({
          id: run.id,
          owner: run.owner,
          created: run.created,
          updated: this.#now(),
          status: 'queued',
          request,
          last_event_id: 0,
          bytes: Buffer.byteLength(request),
          lease_holder: lease.holder,
          lease_until: this.#now() + lease.ttlMs,
          idempotency_key: idempotency?.key ?? null,
          body_hash: idempotency?.bodyHash ?? null,
          share_digest: null,
          ended: null,
          cancel_requested: 0,
          summary: null,
        })
        .onConflict((conflict) =>
          conflict.columns(['owner', 'idempotency_key']).where('idempotency_key', 'is not', null).doNothing(),
        )
        .executeTakeFirst();
      if (inserted.numInsertedOrUpdatedRows === 0n && idempotency !== undefined) {
        const other = await trx
          .selectFrom('runs')
          .select(['id', 'body_hash'])
          .where('owner', '=', run.owner)
          .where('idempotency_key', '=', idempotency.key)
          .executeTakeFirstOrThrow();
        return other.body_hash === idempotency.bodyHash ? { kind: 'exists', id: other.id } : { kind: 'conflict' };
      }
      if (run.label !== undefined) {
        await trx
          .insertInto('labels')
          .values({ run_id: run.id, data: JSON.stringify(run.label) })
          .execute();
      }
      return { kind: 'created' };
    });
  }

  async hasKey(owner: string, idempotencyKey: string): Promise<boolean> {
    const query = this.#db
      .selectFrom('runs')
      .select('id')
      .where('owner', '=', owner)
      .where('idempotency_key', '=', idempotencyKey)
      .where('created', '>', this.#now() - keyLifetimeMs)
      .where('status', '!=', 'failed');
    return (await reading(query.executeTakeFirst())) !== undefined;
  }

  async append(
    id: string,
    events: readonly SolveEvent[],
    lease: Lease,
    { traces = [], summary }: AppendExtras = {},
  ): Promise<{ readonly isCancelRequested: boolean }> {
    const last = events.at(-1);
    if (last === undefined) return { isCancelRequested: false };
    const rows = events.map((event) => ({ run_id: id, id: event.id, data: JSON.stringify(event) }));
    const traceRows = traces.map(({ chain, round, ...rest }) => ({
      run_id: id,
      chain,
      round,
      data: JSON.stringify({ ...rest, chain, round }),
    }));
    const end = events.find((event) => event.type === 'solve-end');
    const size = [...rows, ...traceRows].reduce((sum, { data }) => sum + Buffer.byteLength(data), 0);
    return this.#write(async (trx) => {
      const now = this.#now();
      // the update comes first: it takes the row's lock and proves the lease before anything is written
      const updated = await trx
        .updateTable('runs')
        .set((row) => ({
          updated: now,
          status: end?.status ?? 'running',
          last_event_id: last.id,
          bytes: row('bytes', '+', size),
          ...(summary === undefined ? {} : { summary: JSON.stringify(summary) }),
          ...(end === undefined
            ? { lease_until: now + lease.ttlMs }
            : { lease_holder: null, lease_until: 0, ended: now }),
        }))
        .where('id', '=', id)
        .where('lease_holder', '=', lease.holder)
        .returning(['bytes', 'cancel_requested'])
        .executeTakeFirst();
      if (updated === undefined) {
        throw new StvError('conflict', `The run ${id} is no longer held by this server.`);
      }
      for (let from = 0; from < rows.length; from += maxRowsPerInsert) {
        await trx
          .insertInto('events')
          .values(rows.slice(from, from + maxRowsPerInsert))
          .execute();
      }
      await insertTraces(trx, traceRows);
      if (end !== undefined) await addEndedBytes(trx, updated.bytes);
      return { isCancelRequested: updated.cancel_requested !== 0 };
    });
  }

  async events(id: string, after: number, limit: number): Promise<SolveEvent[]> {
    const query = this.#db
      .selectFrom('events')
      .select('data')
      .where('run_id', '=', id)
      .where('id', '>', after)
      .orderBy('id')
      .limit(limit);
    const rows = await reading(query.execute());
    return rows.map(({ data }) => JSON.parse(data) as SolveEvent);
  }

  async find(id: string): Promise<StoredRun | undefined> {
    const row = await reading(this.#db.selectFrom('runs').selectAll().where('id', '=', id).executeTakeFirst());
    return row && toRun(row);
  }

  async list(owner: string, { limit, after }: ListOptions): Promise<StoredRun[]> {
    let query = this.#db.selectFrom('runs').selectAll().where('owner', '=', owner);
    if (after !== undefined) {
      const place = this.#db
        .selectFrom('runs')
        .select(['created', 'id'])
        .where('owner', '=', owner)
        .where('id', '=', after);
      const last = await reading(place.executeTakeFirst());
      if (last === undefined) throw new StvError('not_found', `There is no run ${after}.`, { param: 'after' });
      query = query.where(({ eb, or, and }) =>
        or([eb('created', '<', last.created), and([eb('created', '=', last.created), eb('id', '<', last.id)])]),
      );
    }
    const rows = await reading(query.orderBy('created', 'desc').orderBy('id', 'desc').limit(limit).execute());
    return rows.map(toRun);
  }

  async traces({ limit, after, withLabels }: TraceOptions): Promise<TraceRecord[]> {
    const query = this.#db
      .selectFrom('traces')
      .leftJoin('labels', 'labels.run_id', 'traces.run_id')
      .select(['traces.seq', 'traces.data', 'labels.data as label'])
      .where('traces.seq', '>', after === undefined ? 0 : seqOf(after))
      .orderBy('traces.seq')
      .limit(limit);
    const rows = await reading(query.execute());
    return rows.map(({ seq, data, label }) => {
      // released servers wrote no versions
      const trace = JSON.parse(data) as Omit<NewTrace, 'versions'> & Partial<Pick<NewTrace, 'versions'>>;
      return {
        traceId: traceIdOf(seq),
        ...trace,
        versions: trace.versions ?? null,
        ...(withLabels && label !== null ? { label: JSON.parse(label) as RunLabel } : {}),
      };
    });
  }

  async erase(id: string): Promise<boolean> {
    const count = await this.#write((trx) => eraseAll(trx, [id]));
    await this.#erasedTexts.wipe(count);
    return count > 0;
  }

  async requestCancel(id: string): Promise<boolean> {
    return this.#write(async (trx) => {
      const row = await trx
        .updateTable('runs')
        .set({ cancel_requested: 1 })
        .where('id', '=', id)
        .where('status', 'in', live)
        .returning('id')
        .executeTakeFirst();
      return row !== undefined;
    });
  }

  async park(ids: readonly string[], lease: Lease): Promise<void> {
    if (ids.length === 0) return;
    await this.#db
      .updateTable('runs')
      .set({ status: 'parked', lease_holder: null, lease_until: 0, updated: this.#now() })
      .where('id', 'in', ids)
      .where('lease_holder', '=', lease.holder)
      .where('status', 'in', live)
      .execute();
  }

  async claim(lease: Lease, limit: number, except: readonly string[] = []): Promise<StoredRun[]> {
    const now = this.#now();
    const held = (): SelectQueryBuilder<Database, 'runs', HeldLease> =>
      this.#db
        .selectFrom('runs')
        .select(['id', 'lease_holder', 'lease_until'])
        .where('status', 'in', live)
        .$if(except.length > 0, (query) => query.where('id', 'not in', except))
        .orderBy('created');
    const lapsed = await held().where('lease_until', '<', now).limit(limit).execute();
    // no holder asks for so long: its clock is another one, or was set back since
    const far = await held()
      .where('lease_until', '>', now + lease.ttlMs)
      .execute();
    const free = [...lapsed, ...this.#farLeases.unrenewed(far, lease.ttlMs)].slice(0, limit);
    const claimed: StoredRun[] = [];
    for (const { id, lease_until } of free) {
      // the condition is repeated: of two servers that saw the run free, the second updates nothing
      const row = await this.#db
        .updateTable('runs')
        .set({ lease_holder: lease.holder, lease_until: now + lease.ttlMs })
        .where('id', '=', id)
        .where('status', 'in', live)
        .where('lease_until', '=', lease_until)
        .returningAll()
        .executeTakeFirst();
      if (row !== undefined) claimed.push(toRun(row));
    }
    return claimed;
  }

  async renew(lease: Lease): ReturnType<RunStore['renew']> {
    const rows = await this.#db
      .updateTable('runs')
      .set({ lease_until: this.#now() + lease.ttlMs })
      .where('lease_holder', '=', lease.holder)
      .where('status', 'in', live)
      .returning(['id', 'cancel_requested'])
      .execute();
    return new Map(rows.map(({ id, cancel_requested: flag }) => [id, { isCancelRequested: flag !== 0 }]));
  }

  async share(id: string, tokenDigest: string): Promise<void> {
    await this.#write((trx) =>
      trx.updateTable('runs').set({ share_digest: tokenDigest }).where('id', '=', id).execute(),
    );
  }

  async findShared(tokenDigest: string): Promise<StoredRun | undefined> {
    const query = this.#db.selectFrom('runs').selectAll().where('share_digest', '=', tokenDigest);
    const row = await reading(query.executeTakeFirst());
    return row && toRun(row);
  }

  async sweep(limits: { maxAgeMs: number; maxBytes: number; now: number }): Promise<number> {
    let erased = 0;
    for (;;) {
      const count = await this.#write((trx) => sweepPage(trx, limits));
      erased += count;
      if (count < sweepPageSize) break;
    }
    await this.#erasedTexts.wipe(erased);
    return erased;
  }

  async close(): Promise<void> {
    await this.#db.destroy();
  }

  async #write<T>(work: (trx: Transaction<Database>) => Promise<T>): Promise<T> {
    let failure: unknown;
    try {
      return await this.#db.transaction().execute(async (trx) => {
        try {
          return await work(trx);
        } catch (error) {
          failure = error;
          throw error;
        }
      });
    } catch (thrown) {
      // SQLite ends a transaction by itself when a commit meets a full (or failing) disk; the rollback after it hides why
      const error = failure ?? thrown;
      const isLostCommit = failure === undefined && /no transaction is active/.test((thrown as Error).message);
      throw isLostCommit ? lostCommit(error) : (writeFailure(error) ?? error);
    }
  }
}

/** The counter's row stays locked until the commit, so that no reader sees a number while a smaller one is still to come. */
async function insertTraces(
  trx: Transaction<Database>,
  rows: readonly Omit<Database['traces'], 'seq'>[],
): Promise<void> {
  if (rows.length === 0) return;
  const { value } = await trx
    .updateTable('counters')
    .set((row) => ({ value: row('value', '+', rows.length) }))
    .where('name', '=', 'traces')
    .returning('value')
    .executeTakeFirstOrThrow();
  await trx
    .insertInto('traces')
    .values(rows.map((row, index) => ({ ...row, seq: value - rows.length + 1 + index })))
    .execute();
}

function traceIdOf(seq: number): string {
  return `trc_${String(seq).padStart(16, '0')}`;
}

/** Throws StvError `invalid_value` for what is no trace id. */
function seqOf(traceId: string): number {
  const digits = /^trc_(\d{16})$/.exec(traceId)?.[1];
  if (digits !== undefined) return Number(digits);
  throw new StvError('invalid_value', '`after` must be the `trace_id` of a trace.', { param: 'after' });
}

function toRun(row: Selectable<Database['runs']>): StoredRun {
  return {
    id: row.id,
    owner: row.owner,
    created: row.created,
    updated: row.updated,
    status: row.status as RunStatus,
    request: JSON.parse(row.request) as SolveRequest,
    lastEventId: row.last_event_id,
    summary: row.summary === null ? undefined : (JSON.parse(row.summary) as RunSummary),
    isCancelRequested: row.cancel_requested !== 0,
  };
}
