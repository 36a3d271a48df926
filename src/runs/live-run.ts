/**
 * One run of the loop that is going on in this process: it runs by itself, keeps its events, and lets any number of
 * readers replay and follow them. A slow reader costs nothing but its own cursor. With a store no event is seen by anyone
 * before it is written.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { runFailure, type StvError, toStvError } from '../errors.ts';
import { foldSolve, type SolveState } from '../stv/fold.ts';
import type { NewRun } from '../stv/run-store.ts';
import type { SolveEvent } from '../stv/solve-events.ts';
import { EventLog, type ReadPage } from './event-log.ts';
import { takenOver, unknownRun } from './run-errors.ts';

/**
 * Where a stored run's events go. `write` gets the fold of all events before them and throws `conflict` when the run has
 * become another server's.
 */
export interface RunWriter {
  readonly write: (events: readonly SolveEvent[], before: SolveState | undefined) => Promise<void>;
  readonly readPage: ReadPage;
}

export interface LiveRunOptions {
  readonly loop: (signal: AbortSignal) => AsyncIterable<SolveEvent>;
  /** Characters of events above which a run without a store forgets deltas. */
  readonly maxEventChars: number;
  readonly writer?: RunWriter | undefined;
  /** The fold of what was stored before this process took the run over. */
  readonly resume?: SolveState | undefined;
  readonly onEvent?: ((event: SolveEvent) => void) | undefined;
}

/** An ended run may stay for hours behind an idempotency key; beyond this its deltas are not worth the memory. */
const maxEndedChars = 262_144;
/** Events that may wait for the store before the loop has to wait too. */
const maxUnwritten = 4096;
/** How long a run waits for a store that is away, as while a database changes over, before it ends unrecorded. */
const maxStoreWaitMs = 60_000;
const firstStoreWaitMs = 250;
const longestStoreWaitMs = 2000;

export class LiveRun {
  readonly run: NewRun;
  /** Settles when the run has ended here; never rejects. */
  readonly done: Promise<void>;
  readonly #controller = new AbortController();
  readonly #options: LiveRunOptions;
  readonly #log: EventLog;
  readonly #waiting = new Set<() => void>();
  #unwritten: SolveEvent[] = [];
  #writing: Promise<void> | undefined;
  #state: SolveState | undefined;
  #failure: StvError | undefined;
  #storeFailure: StvError | undefined;
  /** What readers have seen since the store failed, and the fold of what the store has. */
  #unrecorded: SolveEvent[] = [];
  #recorded: SolveState | undefined;
  #isReleased = false;
  #isEnded = false;
  #numAttached = 0;

  constructor(run: NewRun, options: LiveRunOptions) {
    this.run = run;
    this.#options = options;
    this.#state = options.resume;
    this.#log = new EventLog(options.maxEventChars, options.writer?.readPage, options.resume?.lastEventId);
    this.done = this.#pump();
  }

  get isStored(): boolean {
    return this.#options.writer !== undefined;
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  get isCancelled(): boolean {
    return this.#controller.signal.aborted;
  }

  /** The fold so far; undefined before the first event. */
  get state(): SolveState | undefined {
    return this.#state;
  }

  /** Of the newest event; 0 before the first. */
  get lastEventId(): number {
    return this.#log.lastId;
  }

  /** Why there is no `solve-end`: thrown before the start, or the run was given to another server. */
  get failure(): StvError | undefined {
    return this.#failure;
  }

  /** Whether another process is to go on with it. */
  get isReleased(): boolean {
    return this.#isReleased;
  }

  /** Whether the store has everything that readers have seen. */
  get isRecorded(): boolean {
    return this.#unrecorded.length === 0;
  }

  /** Once the run has ended: brings the store up to what readers have seen. Throws what the store throws. */
  async record(): Promise<void> {
    const { writer } = this.#options;
    if (writer === undefined || this.isRecorded) return;
    ({ rest: this.#unrecorded, before: this.#recorded } = await missing(this.#unrecorded, this.#recorded, writer));
    if (this.isRecorded) return;
    await writer.write(this.#unrecorded, this.#recorded);
    this.#unrecorded = [];
  }

  cancel(reason: unknown): void {
    this.#controller.abort(reason);
  }

  /** Stops without an end, so that another process can go on with it; readers get `reason`. */
  release(reason: StvError): void {
    if (this.#hasEnd) return;
    this.#isReleased = true;
    this.#failure ??= reason;
    this.#controller.abort(reason);
  }

  /** Counts a connection that the run lives for; call what it returns when it closes. The last one to leave cancels. */
  attach(): () => void {
    this.#numAttached += 1;
    let isAttached = true;
    return () => {
      if (!isAttached) return;
      isAttached = false;
      this.#numAttached -= 1;
      if (this.#numAttached === 0 && !this.#isEnded) this.cancel(new Error('nobody waits for this run any more'));
    };
  }

  /** Events with ids above `after`: those there are, then those to come, until the run ends. Throws its failure, `not_found` when it is erased. */
  async *events(after = 0, signal?: AbortSignal): AsyncGenerator<SolveEvent> {
    let last = after;
    while (!signal?.aborted) {
      const found = this.#log.after(last);
      const batch = found instanceof Promise ? await found : found;
      for (const event of batch) {
        last = event.id;
        yield event;
        if (signal?.aborted) return;
      }
      if (batch.length > 0) continue;
      // what was sent is in the store before it is anywhere else: an empty page means that the run is gone
      if (found instanceof Promise) throw unknownRun();
      if (this.#isEnded) {
        if (this.#failure !== undefined) throw this.#failure;
        return;
      }
      await this.#change(signal);
    }
  }

  async #pump(): Promise<void> {
    const { loop, writer } = this.#options;
    try {
      for await (const event of loop(this.#controller.signal)) {
        if (this.#isReleased) break;
        if (writer === undefined) this.#publish(event);
        else await this.#writeSoon(event, writer);
      }
      await this.#writing;
    } catch (thrown) {
      this.#failure ??= runFailure(thrown);
    } finally {
      this.#isEnded = true;
      // its end may have been on the way to the store when the run was released
      if (this.#hasEnd) {
        this.#isReleased = false;
        this.#failure = undefined;
      }
      this.#log.compact(maxEndedChars);
      this.#announce();
    }
  }

  /** Whether readers have `solve-end`: nothing else ends the run for them. */
  get #hasEnd(): boolean {
    return this.#state !== undefined && this.#state.answer.status !== 'running';
  }

  /** Events that come while the store is busy share the next write. */
  async #writeSoon(event: SolveEvent, writer: RunWriter): Promise<void> {
    if (this.#storeFailure !== undefined) {
      this.#publishUnrecorded(event, this.#storeFailure);
      return;
    }
    this.#unwritten.push(event);
    this.#writing ??= this.#write(writer).finally(() => {
      this.#writing = undefined;
    });
    if (this.#unwritten.length > maxUnwritten) await this.#writing;
  }

  async #write(writer: RunWriter): Promise<void> {
    while (this.#unwritten.length > 0 && !this.#isReleased) {
      const batch = this.#unwritten;
      this.#unwritten = [];
      try {
        await this.#persist(batch, writer);
      } catch (thrown) {
        if (this.#isReleased) return;
        const failure = toStvError(thrown, 'storage_full', 'What the run did could not be stored.');
        if (failure.code === 'conflict') {
          this.release(takenOver());
          return;
        }
        // the caller still gets what was found, but the run cannot go on unrecorded
        this.#storeFailure = failure;
        this.#recorded = this.#state;
        this.cancel(failure);
        for (const event of [...batch, ...this.#unwritten.splice(0)]) this.#publishUnrecorded(event, failure);
        return;
      }
      for (const event of batch) this.#publish(event);
    }
  }

  /** Tried again while the store is away. Throws what the store throws, that it is away once the run was released or has waited long enough. */
  async #persist(events: readonly SolveEvent[], writer: RunWriter): Promise<void> {
    const until = performance.now() + maxStoreWaitMs;
    let open: Missing = { rest: [...events], before: this.#state };
    for (let numTries = 1; ; numTries++) {
      try {
        if (numTries > 1) open = await missing(open.rest, open.before, writer);
        if (open.rest.length > 0) await writer.write(open.rest, open.before);
        return;
      } catch (thrown) {
        const isAway = toStvError(thrown).code === 'not_ready';
        if (!isAway || this.#isReleased || performance.now() > until) throw thrown;
        await delay(Math.min(longestStoreWaitMs, firstStoreWaitMs * 2 ** (numTries - 1)), undefined, { ref: false });
      }
    }
  }

  #publishUnrecorded(event: SolveEvent, failure: StvError): void {
    const shown = withFailure(event, failure);
    this.#unrecorded.push(shown);
    this.#publish(shown);
  }

  #publish(event: SolveEvent): void {
    this.#state = foldSolve(this.#state, event);
    this.#log.push(event);
    this.#options.onEvent?.(event);
    this.#announce();
  }

  /** Resolves at the next event, at the end of the run, or when the signal aborts. */
  #change(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const settle = (): void => {
        this.#waiting.delete(settle);
        signal?.removeEventListener('abort', settle);
        resolve();
      };
      this.#waiting.add(settle);
      signal?.addEventListener('abort', settle, { once: true });
    });
  }

  #announce(): void {
    for (const settle of [...this.#waiting]) settle();
  }
}

/** Events that the store lacks, and the fold of all before them. */
interface Missing {
  readonly rest: SolveEvent[];
  readonly before: SolveState | undefined;
}

/** A write that was reported as failed may have been done: its answer was lost. */
async function missing(
  events: readonly SolveEvent[],
  before: SolveState | undefined,
  { readPage }: RunWriter,
): Promise<Missing> {
  const rest = [...events];
  let state = before;
  for (let first = rest[0]; first !== undefined; first = rest[0]) {
    const last = (await readPage(first.id - 1)).at(-1)?.id;
    if (last === undefined) break;
    const numStored = rest.filter(({ id }) => id <= last).length;
    for (const event of rest.splice(0, numStored)) state = foldSolve(state, event);
  }
  return { rest, before: state };
}

/** The end of a run whose store failed says so. */
function withFailure(event: SolveEvent, failure: StvError): SolveEvent {
  if (event.type !== 'solve-end') return event;
  return {
    ...event,
    status: 'failed',
    stopReason: 'engine_error',
    error: { message: failure.message, code: failure.code, param: null },
  };
}
