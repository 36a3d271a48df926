/**
 * The runs that this server knows: those going on here, and those of the store. Decides who may see a run, what an
 * idempotency key attaches to, which runs of a dead server are taken over, and what a shutdown does. No HTTP here.
 */
import { createHash, randomBytes } from 'node:crypto';
import { StvError } from '../errors.ts';
import { foldSolve, type SolveState, summaryAfter } from '../stv/fold.ts';
import type { Lease, NewRun, RunLabel, RunStore, StoredRun, TraceOptions } from '../stv/run-store.ts';
import type { SolveEvent, SolveRequest } from '../stv/solve-events.ts';
import { type TraceRecord, type TraceVersions, tracesOf } from '../stv/traces.ts';
import { bodyHashOf, IdempotencyKeys } from './idempotency-keys.ts';
import { LiveRun } from './live-run.ts';
import { alreadyEnded, keyReused, takenOver, unknownRun } from './run-errors.ts';

/** Who asks; `isAdmin` may see every run. */
export interface RunOwner {
  readonly id: string;
  readonly isAdmin: boolean;
}

export interface StartRun {
  readonly request: SolveRequest;
  readonly owner: RunOwner;
  readonly isStored: boolean;
  readonly label?: RunLabel | undefined;
  /** The client's key and the body it came with. */
  readonly idempotency?: { readonly key: string; readonly body: unknown } | undefined;
}

export type FoundRun =
  | { readonly kind: 'live'; readonly live: LiveRun }
  | { readonly kind: 'stored'; readonly stored: StoredRun };

export interface RunRegistryOptions {
  /** `owner` is the id of the key that began the run. */
  readonly loop: (
    request: SolveRequest,
    signal: AbortSignal,
    resume: SolveState | undefined,
    owner: string,
  ) => AsyncIterable<SolveEvent>;
  /** Throws what a stored run would fail with before its first event, so that none is begun: nobody may be there to be told. */
  readonly check?: ((request: SolveRequest) => void) | undefined;
  readonly maxEventChars: number;
  readonly store?: RunStore | undefined;
  /** What a run that begins now, or goes on here from now, is written by. */
  readonly versions?: (() => TraceVersions) | undefined;
  /** Unique to this process. */
  readonly holder: string;
  /** Ended stored runs beyond these are erased. */
  readonly retention?: { readonly maxAgeMs: number; readonly maxBytes: number } | undefined;
  readonly onEvent?: ((event: SolveEvent) => void) | undefined;
  /** What goes wrong with nobody waiting for it. */
  readonly onError?: ((error: unknown) => void) | undefined;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
}

/** Runs whose events cannot be read here are left to others for so long. */
const unreadableForMs = 60_000;
const leaseTtlMs = 15_000;
const pageSize = 256;
/** How often a run that another server owns is looked at for new events. */
const pollMs = 500;
/** Abandoned runs that are taken over at one look. */
const maxClaimed = 4;
const sweepIntervalMs = 3_600_000;

export class RunRegistry {
  readonly #options: RunRegistryOptions;
  readonly #live = new Map<string, LiveRun>();
  readonly #keys: IdempotencyKeys;
  readonly #lease: Lease;
  /** Stored runs held by this server that are not live here for the moment: just created, claimed, or being given back. */
  readonly #inHand = new Set<string>();
  /** Until when. */
  readonly #unreadable = new Map<string, number>();
  #isClaiming = false;
  #isSweeping = false;
  #upkeep: NodeJS.Timeout | undefined;
  #sweptAt = Number.NEGATIVE_INFINITY;
  #storeTrouble: string | undefined;
  /** Why this server works on no stored run any more. */
  #parkedFor: StvError | undefined;

  constructor(options: RunRegistryOptions) {
    this.#options = options;
    this.#keys = new IdempotencyKeys(options.now ?? Date.now);
    this.#lease = { holder: options.holder, ttlMs: leaseTtlMs };
  }

  /** Why runs cannot be stored at the moment; undefined while they can. */
  get storeTrouble(): string | undefined {
    return this.#storeTrouble;
  }

  get numLive(): number {
    let count = 0;
    for (const run of this.#live.values()) if (!run.isEnded) count += 1;
    return count;
  }

  /**
   * Begins a run, or finds the one that the same idempotency key and body began. Throws `idempotency_key_reused` for another body, and
   * what `check` throws.
   */
  async start(start: StartRun): Promise<FoundRun> {
    if (start.isStored) return this.#startStored(start);
    if (start.idempotency !== undefined && (await this.#isKeyStored(start.owner.id, start.idempotency.key)))
      throw keyReused();
    const slot = start.idempotency === undefined ? undefined : this.#keys.slot(start.owner.id, start.idempotency);
    if (slot?.known !== undefined) return { kind: 'live', live: slot.known };
    const live = this.#launch(this.#newRun(start));
    slot?.remember(live);
    // what its client abandoned, what never began and what failed must not answer a retry
    void live.done.then(() => {
      const isFailed = live.failure !== undefined || live.state?.answer.status === 'failed';
      if (live.isCancelled || isFailed) slot?.forget(live);
    });
    return { kind: 'live', live };
  }

  /** Throws `not_found` for unknown runs and for those of other keys alike. */
  async find(id: string, owner: RunOwner): Promise<FoundRun> {
    const live = this.#live.get(id);
    if (live !== undefined && maySee(live.run.owner, owner)) return { kind: 'live', live };
    const stored = live === undefined ? await this.#options.store?.find(id) : undefined;
    if (stored !== undefined && maySee(stored.owner, owner)) return { kind: 'stored', stored };
    throw unknownRun();
  }

  /** The fold of a stored run's events; undefined while there is none. */
  async stateOf(stored: StoredRun): Promise<SolveState | undefined> {
    let state: SolveState | undefined;
    for await (const event of this.#pages(stored.id, 0)) state = foldSolve(state, event);
    return state;
  }

  /**
   * Whether a reader that has every event up to `after` has the whole run. Throws `invalid_value` where the run has no such event
   * yet, here or in the store.
   */
  async isReadToEnd(found: FoundRun, after: number): Promise<boolean> {
    let { lastId, hasEnd } = endOf(found);
    if (after > lastId && found.kind === 'live' && found.live.isStored) {
      // another server may have taken the run over and gone on with it, before this one notices
      const stored = await this.#store().find(found.live.run.id);
      if (stored !== undefined) ({ lastId, hasEnd } = endOf({ kind: 'stored', stored }));
    }
    if (after <= lastId) return hasEnd && after === lastId;
    throw new StvError(
      'invalid_value',
      `The header Last-Event-ID must be at most ${lastId}, the newest event of the run, got ${after}.`,
      { param: 'Last-Event-ID' },
    );
  }

  /** Events above `after` of any run, then those to come; follows runs of other servers by looking again. */
  async *events(found: FoundRun, after: number, signal: AbortSignal): AsyncGenerator<SolveEvent> {
    if (found.kind === 'live') {
      yield* found.live.events(after, signal);
      return;
    }
    let last = after;
    while (!signal.aborted) {
      for await (const event of this.#pages(found.stored.id, last)) {
        last = event.id;
        yield event;
        if (event.type === 'solve-end' || signal.aborted) return;
      }
      const current = await this.#store().find(found.stored.id);
      if (current === undefined) throw unknownRun();
      if (isEnded(current) && current.lastEventId <= last) return;
      // whoever follows a run to its end would hold up the shutdown until the grace period is over
      if (this.#parkedFor !== undefined) throw this.#parkedFor;
      await delay(pollMs, signal);
    }
  }

  async list(
    owner: RunOwner,
    limit: number,
    after: string | undefined,
  ): Promise<{ runs: StoredRun[]; hasMore: boolean }> {
    const { store } = this.#options;
    if (store === undefined) return { runs: [], hasMore: false };
    const runs = await store.list(owner.id, { limit: limit + 1, after });
    return { runs: runs.slice(0, limit), hasMore: runs.length > limit };
  }

  /** One page of the finished rounds of every key's stored runs, oldest first. */
  async traces(options: TraceOptions): Promise<TraceRecord[]> {
    return this.#store().traces(options);
  }

  /**
   * Cancels a live run, wherever it goes on; never erases anything. Throws `conflict` when it has ended already. A run of another
   * server ends when that one next writes or renews its lease.
   */
  async cancel(found: FoundRun): Promise<void> {
    if (found.kind === 'live') {
      if (hasAnswer(found.live)) throw alreadyEnded();
      const { live } = found;
      live.cancel(new Error('the run was cancelled'));
      // whoever takes it over before its end is stored has to know
      if (live.isStored) {
        await this.#store()
          .requestCancel(live.run.id)
          .catch((error: unknown) => this.#options.onError?.(error));
      }
      return;
    }
    const { id } = found.stored;
    if (isEnded(found.stored) || !(await this.#store().requestCancel(id))) throw alreadyEnded();
    // one that nobody holds would wait for the next look
    if (found.stored.status === 'parked') this.#turn();
  }

  /** Cancels a live run (`cancelled`), erases an ended one with all its texts (`erased`). What was seen live is never erased. */
  async remove(found: FoundRun): Promise<'cancelled' | 'erased'> {
    if (found.kind === 'live' && hasAnswer(found.live)) {
      // its readers know the end already, only the last steps of the bookkeeping are missing
      await found.live.done;
      if (!found.live.isStored) throw unknownRun();
      await this.#record(found.live);
      await this.#store().erase(found.live.run.id);
      return 'erased';
    }
    if (found.kind === 'live' || !isEnded(found.stored)) {
      await this.cancel(found).catch((thrown: unknown) => {
        // it ended in between: nothing is left to cancel
        if (!(thrown instanceof StvError && thrown.code === 'conflict')) throw thrown;
      });
      return 'cancelled';
    }
    await this.#store().erase(found.stored.id);
    return 'erased';
  }

  /** A token that shows this stored run, and nothing else, to whoever has it. A new one replaces the last. */
  async share(found: FoundRun): Promise<string> {
    const id = found.kind === 'live' ? found.live.run.id : found.stored.id;
    if (found.kind === 'live' && !found.live.isStored) {
      throw new StvError('conflict', 'Only a stored run can be shared; this one is forgotten when it ends.');
    }
    const token = `shr_${randomBytes(24).toString('base64url')}`;
    await this.#store().share(id, digestOf(token));
    return token;
  }

  /** The run that a token shows; throws `not_found` where it shows another one or none. */
  async findShared(id: string, token: string): Promise<FoundRun> {
    const stored = await this.#options.store?.findShared(digestOf(token));
    if (stored === undefined || stored.id !== id) throw unknownRun();
    const live = this.#live.get(id);
    return live === undefined ? { kind: 'stored', stored } : { kind: 'live', live };
  }

  /** Keeps the leases of this server and takes over what dead ones left. Call when the models are ready. */
  beginUpkeep(): void {
    if (this.#options.store === undefined || this.#upkeep !== undefined) return;
    this.#upkeep = setInterval(() => this.#turn(), leaseTtlMs / 3);
    this.#upkeep.unref();
    this.#turn();
  }

  #turn(): void {
    if (this.#upkeep === undefined) return;
    this.#keepUp().catch((error: unknown) => this.#options.onError?.(error));
  }

  /** Gives stored runs back to the database, so that the next server goes on with them. */
  async park(reason: StvError): Promise<void> {
    clearInterval(this.#upkeep);
    this.#upkeep = undefined;
    this.#parkedFor = reason;
    const stored = [...this.#live.values()].filter((run) => run.isStored);
    const ended = stored.filter((run) => run.isEnded);
    for (const run of stored) if (!run.isEnded) run.release(reason);
    await Promise.allSettled(ended.map((run) => this.#record(run)));
    await Promise.all(stored.map((run) => run.done));
    const parked = stored.filter((run) => run.failure === reason).map((run) => run.run.id);
    if (parked.length > 0) await this.#store().park(parked, this.#lease);
  }

  /** Parks what is stored, cancels the rest, and waits until all of it has ended. */
  async close(reason: StvError): Promise<void> {
    const parked = this.park(reason); // has told the stored ones when it returns
    const live = [...this.#live.values()];
    for (const run of live) run.cancel(reason);
    await Promise.all([parked, ...live.map((run) => run.done)]);
  }

  async #startStored(start: StartRun): Promise<FoundRun> {
    const store = this.#store();
    // whether the body is stored is said by the body: a key that is known here came with another one
    if (start.idempotency !== undefined) this.#keys.slot(start.owner.id, start.idempotency);
    const isRepeated = start.idempotency !== undefined && (await store.hasKey(start.owner.id, start.idempotency.key));
    if (!isRepeated) this.#options.check?.(start.request);
    const run = this.#newRun(start);
    const created = await this.#handling(run.id, async () => {
      const result = await this.#noted(store.create(run, this.#lease));
      return result.kind === 'created' ? this.#launch(run, store) : result;
    });
    if (created instanceof LiveRun) return { kind: 'live', live: created };
    if (created.kind === 'conflict') throw keyReused();
    return this.find(created.id, start.owner);
  }

  async #handling<T>(id: string, work: () => Promise<T>): Promise<T> {
    this.#inHand.add(id);
    try {
      return await work();
    } finally {
      this.#inHand.delete(id);
    }
  }

  /** Whether a stored run came with the key. A store that fails is no reason to refuse a run that needs none. */
  async #isKeyStored(owner: string, key: string): Promise<boolean> {
    try {
      return (await this.#options.store?.hasKey(owner, key)) ?? false;
    } catch (error) {
      this.#options.onError?.(error);
      return false;
    }
  }

  /** Remembers whether the store could be written. */
  async #noted<T>(writing: Promise<T>): Promise<T> {
    try {
      const result = await writing;
      this.#storeTrouble = undefined;
      return result;
    } catch (thrown) {
      if (thrown instanceof StvError && thrown.code === 'storage_full') this.#storeTrouble = thrown.message;
      throw thrown;
    }
  }

  #newRun({ request, owner, label, idempotency }: StartRun): NewRun {
    return {
      id: request.id,
      owner: owner.id,
      created: (this.#options.now ?? Date.now)(),
      request,
      label,
      idempotency:
        idempotency === undefined ? undefined : { key: idempotency.key, bodyHash: bodyHashOf(idempotency.body) },
    };
  }

  #launch(run: NewRun, store?: RunStore, resume?: SolveState): LiveRun {
    const { loop, maxEventChars, onEvent } = this.#options;
    // a run keeps the models that it begins with here, whatever is loaded later
    const versions = store === undefined ? null : (this.#options.versions?.() ?? null);
    const live = new LiveRun(run, {
      loop: (signal) => loop({ ...run.request, outlastsEngine: store !== undefined }, signal, resume, run.owner),
      maxEventChars,
      onEvent,
      resume,
      writer:
        store === undefined
          ? undefined
          : {
              write: async (events, before) => {
                const extras = { traces: tracesOf(before, events, versions), summary: summaryAfter(before, events) };
                const { isCancelRequested } = await this.#noted(store.append(run.id, events, this.#lease, extras));
                if (isCancelRequested) live.cancel(new Error('the run was cancelled at another server'));
              },
              readPage: (after) => store.events(run.id, after, pageSize),
            },
    });
    this.#live.set(run.id, live);
    void live.done.then(() => this.#settle(live)).catch((error: unknown) => this.#options.onError?.(error));
    return live;
  }

  /** One whose end the store could not take stays, so that it is seen as ended until the store has it. */
  async #settle(live: LiveRun): Promise<void> {
    if (!live.isRecorded) return;
    const { id } = live.run;
    this.#live.delete(id);
    if (!live.isStored || live.failure === undefined || this.#parkedFor !== undefined) return;
    // Its loop threw or was told to stop, so there is no end. Where nothing had begun there is nothing to go on with, and it would be
    // tried for ever; another is left to the next look, unless it is another server's by now.
    await this.#handling(id, async () => {
      if (live.lastEventId === 0 && !live.isReleased) await this.#store().erase(id);
      else await this.#store().park([id], this.#lease);
    });
  }

  /** Writes what the store could not take when it happened. */
  async #record(live: LiveRun): Promise<void> {
    await live.record();
    this.#live.delete(live.run.id);
  }

  async #keepUp(): Promise<void> {
    this.#sweep().catch((error: unknown) => this.#options.onError?.(error));
    await this.#renew();
    await this.#takeOver();
  }

  /** Apart from the leases, which must not wait for it. */
  async #sweep(): Promise<void> {
    const { retention, now = Date.now } = this.#options;
    const sinceMs = now() - this.#sweptAt;
    // below 0: the clock was set back, perhaps by years
    if (retention === undefined || this.#isSweeping || (sinceMs >= 0 && sinceMs < sweepIntervalMs)) return;
    this.#sweptAt = now();
    this.#isSweeping = true;
    try {
      await this.#store().sweep({ ...retention, now: now() });
    } finally {
      this.#isSweeping = false;
    }
  }

  async #renew(): Promise<void> {
    const store = this.#store();
    // a run that begins while the leases are renewed is not among them yet
    const known = [...this.#live];
    const held = await store.renew(this.#lease);
    for (const [id, live] of known) {
      if (!live.isStored || (live.isEnded && live.isRecorded)) continue;
      const lease = held.get(id);
      if (live.isEnded) {
        if (lease === undefined) this.#live.delete(id);
        else await this.#record(live).catch((error: unknown) => this.#options.onError?.(error));
      } else if (lease === undefined) live.release(takenOver());
      else if (lease.isCancelRequested) live.cancel(new Error('the run was cancelled at another server'));
    }
    // what a failed write or a lost answer left to this server, which would renew it for ever
    if (this.#isClaiming) return;
    const orphans = [...held.keys()].filter((id) => !this.#live.has(id) && !this.#inHand.has(id));
    await store.park(orphans, this.#lease);
  }

  async #takeOver(): Promise<void> {
    if (this.#isClaiming) return;
    const store = this.#store();
    const { onError, now = Date.now } = this.#options;
    for (const [id, until] of this.#unreadable) if (until <= now()) this.#unreadable.delete(id);
    let claimed: readonly StoredRun[];
    this.#isClaiming = true;
    try {
      claimed = await store.claim(this.#lease, maxClaimed, [...this.#unreadable.keys()]);
      for (const { id } of claimed) this.#inHand.add(id);
    } finally {
      this.#isClaiming = false;
    }
    for (const stored of claimed) {
      await this.#handling(stored.id, () => this.#goOnWith(stored)).catch(async (thrown: unknown) => {
        onError?.(thrown);
        // events of a newer server, perhaps: it must not keep others from being taken over
        this.#unreadable.set(stored.id, now() + unreadableForMs);
        await store.park([stored.id], this.#lease).catch((error: unknown) => onError?.(error));
      });
    }
  }

  async #goOnWith(stored: StoredRun): Promise<void> {
    const state = await this.stateOf(stored);
    if (this.#live.has(stored.id)) return;
    const { id, owner, created, request } = stored;
    const live = this.#launch({ id, owner, created, request }, this.#store(), state);
    if (stored.isCancelRequested) live.cancel(new Error('the run was cancelled while nobody held it'));
  }

  async *#pages(id: string, after: number): AsyncGenerator<SolveEvent> {
    let last = after;
    for (;;) {
      const page = await this.#store().events(id, last, pageSize);
      yield* page;
      if (page.length < pageSize) return;
      last = page.at(-1)?.id ?? last;
    }
  }

  #store(): RunStore {
    const { store } = this.#options;
    if (store !== undefined) return store;
    throw new StvError('unsupported_parameter', 'Keeping runs needs a run store, and this server runs without one.', {
      param: 'store',
    });
  }
}

/** Whether the run's end has been seen by its readers. */
function hasAnswer(live: LiveRun): boolean {
  return live.isEnded || endOf({ kind: 'live', live }).hasEnd;
}

/** The newest event, and whether it is the run's `solve-end`. A run that failed before its start has none. */
function endOf(found: FoundRun): { readonly lastId: number; readonly hasEnd: boolean } {
  if (found.kind === 'stored') return { lastId: found.stored.lastEventId, hasEnd: isEnded(found.stored) };
  const { live } = found;
  return { lastId: live.lastEventId, hasEnd: live.state !== undefined && live.state.answer.status !== 'running' };
}

function isEnded(stored: StoredRun): boolean {
  return stored.status !== 'queued' && stored.status !== 'running' && stored.status !== 'parked';
}

function digestOf(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

function maySee(runOwner: string, owner: RunOwner): boolean {
  return owner.isAdmin || runOwner === owner.id;
}

function delay(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const settle = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', settle);
      resolve();
    };
    const timer = setTimeout(settle, ms);
    signal.addEventListener('abort', settle, { once: true });
  });
}
