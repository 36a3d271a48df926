/**
 * What durable runs need of a database. `src/store` implements it on SQLite and PostgreSQL; nothing here knows SQL.
 *
 * A live run is owned by one server process through a lease: only the holder may append events, and a run whose lease has
 * lapsed may be claimed by another process. An event is stored before anyone sees it, so that a replay after a crash gives
 * exactly what was sent.
 */
import type { RunSummary, SolveEvent, SolveRequest, SolveStatus } from './solve-events.ts';
import type { NewTrace, TraceRecord } from './traces.ts';

/** The caller's solution key for training and evaluation: stored apart, never shown to a model. */
export interface RunLabel {
  readonly reference?: string | undefined;
  readonly answer?: string | undefined;
}

export interface NewRun {
  readonly id: string;
  /** The API key (its name) that may see the run. */
  readonly owner: string;
  /** Milliseconds since the epoch. */
  readonly created: number;
  readonly request: SolveRequest;
  readonly label?: RunLabel | undefined;
  /** `bodyHash` tells a repeated request from another one under the same key. */
  readonly idempotency?: { readonly key: string; readonly bodyHash: string } | undefined;
}

/** `queued`: accepted, no event yet. `parked`: waits for a server to go on with it. */
export type RunStatus = 'queued' | 'running' | 'parked' | SolveStatus;

export interface StoredRun {
  readonly id: string;
  readonly owner: string;
  readonly created: number;
  readonly updated: number;
  readonly status: RunStatus;
  readonly request: SolveRequest;
  /** 0 before the first. */
  readonly lastEventId: number;
  /** As of the last round that ended; undefined before the first event. */
  readonly summary: RunSummary | undefined;
  /** Whoever works on it is to cancel it. */
  readonly isCancelRequested: boolean;
}

/** What is written together with events. */
export interface AppendExtras {
  /** Of the rounds that the events finish. */
  readonly traces?: readonly NewTrace[];
  /** Of the run after the events, where they change it. */
  readonly summary?: RunSummary | undefined;
}

export interface Lease {
  /** Unique to a server process. */
  readonly holder: string;
  readonly ttlMs: number;
}

export type CreateResult =
  | { readonly kind: 'created' }
  /** The same key and body: the run that this request belongs to. */
  | { readonly kind: 'exists'; readonly id: string }
  /** The same key with another body. */
  | { readonly kind: 'conflict' };

export interface ListOptions {
  readonly limit: number;
  /** Id of the last run of the page before. */
  readonly after?: string | undefined;
}

export interface TraceOptions {
  readonly limit: number;
  /** Id of the last trace of the page before; its run may have been erased since. */
  readonly after?: string | undefined;
  /** Adds the label of the run where it has one. */
  readonly withLabels: boolean;
}

/** How long a repeated Idempotency-Key finds its run. */
export const keyLifetimeMs = 24 * 3_600_000;

export interface RunStore {
  create(run: NewRun, lease: Lease): Promise<CreateResult>;
  /** Whether one of the owner's runs came with the key, within its lifetime. */
  hasKey(owner: string, idempotencyKey: string): Promise<boolean>;
  /**
   * In one transaction; a `solve-end` among the events ends the run. Throws StvError `conflict` when the lease is another's.
   * Resolves with whether the run is to be cancelled.
   */
  append(
    id: string,
    events: readonly SolveEvent[],
    lease: Lease,
    extras?: AppendExtras,
  ): Promise<{ readonly isCancelRequested: boolean }>;
  /** Up to `limit` events with an id above `after`, in order. */
  events(id: string, after: number, limit: number): Promise<SolveEvent[]>;
  find(id: string): Promise<StoredRun | undefined>;
  /** Newest first. Reads no events. */
  list(owner: string, options: ListOptions): Promise<StoredRun[]>;
  /** Finished rounds of all runs, oldest first. A page never misses a trace that is stored later with a smaller id. */
  traces(options: TraceOptions): Promise<TraceRecord[]>;
  /** Removes the run with all its texts, labels and traces. False if there is none. */
  erase(id: string): Promise<boolean>;
  /** Asks the owner of a live run, now or to come, to cancel it. False where the run has ended or there is none. */
  requestCancel(id: string): Promise<boolean>;
  /** Gives live runs back, so that the next server goes on with them at once. */
  park(ids: readonly string[], lease: Lease): Promise<void>;
  /** Takes over up to `limit` live runs that nobody holds, oldest first, but for some. */
  claim(lease: Lease, limit: number, except?: readonly string[]): Promise<StoredRun[]>;
  /** Keeps the holder's runs; returns those that it still holds, and whether each is to be cancelled. */
  renew(lease: Lease): Promise<ReadonlyMap<string, { readonly isCancelRequested: boolean }>>;
  /** Read-only link: remembers the digest of a token. */
  share(id: string, tokenDigest: string): Promise<void>;
  findShared(tokenDigest: string): Promise<StoredRun | undefined>;
  /** Erases ended runs beyond the limits, oldest first, without looking at the others; returns how many. */
  sweep(limits: { readonly maxAgeMs: number; readonly maxBytes: number; readonly now: number }): Promise<number>;
  close(): Promise<void>;
}
