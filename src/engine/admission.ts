/**
 * Who may wait for the engine. A place is reserved in one synchronous move before any text is encoded, so a burst cannot slip
 * through between a check and a count. Counts sequences that have not started and their prompt tokens (estimated until encoded).
 * A share key may hold as many places as are free: one that floods the queue leaves half of it, two a third, and so on.
 *
 * Who is refused is told when to come back. Each gets a time of its own, later than those told before by what the queue needs for
 * one more: told the same time, all would come back together, and all but one in vain.
 */
import { StvError } from '../errors.ts';

export interface AdmissionLimits {
  /** Sequences that may wait. */
  readonly maxQueuedSequences: number;
  /** Prompt tokens of the waiting sequences together. One request alone is always admitted to an empty queue. */
  readonly maxQueuedTokens: number;
}

export const DEFAULT_ADMISSION_LIMITS: AdmissionLimits = { maxQueuedSequences: 1024, maxQueuedTokens: 1_000_000 };

export interface Reservation {
  readonly sequences: number;
  readonly estimatedTokens: number;
  /** Whose place it is; those without a key are bounded together by the queue alone. */
  readonly shareKey?: string | undefined;
  /** What a request goes on with is not refused: as many wait as requests are at work, and what these have got would be lost. */
  readonly isContinuation?: boolean | undefined;
}

/** One request's place in the queue. Every method may be called again without effect. */
export interface Ticket {
  /** Replaces the estimate once the prompt is encoded. Never refuses. */
  setTokens(count: number): void;
  /** The engine has begun with it: it waits no longer. */
  start(): void;
  /** It is over, begun or not. */
  release(): void;
}

/** How many starts are remembered to tell how fast the queue moves. */
const REMEMBERED_STARTS = 32;
/** With nobody waiting and no start for so long the queue has stood still for want of requests, which tells nothing of its speed. */
const PAUSE_MS = 5_000;
const MIN_RETRY_MS = 250;
const MAX_RETRY_MS = 60_000;
/** Times are given up to this far ahead, then from its half on again: not everybody comes back, and nobody is to wait for long. */
const MAX_SPREAD_MS = 30_000;

export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #now: () => number;
  readonly #starts: { readonly atMs: number; readonly sequences: number; readonly tokens: number }[] = [];
  readonly #sequencesOf = new Map<string, number>();
  /** By share key: the last time that was given to somebody who was refused. */
  readonly #lastReturnOf = new Map<string | undefined, number>();
  #queuedSequences = 0;
  #queuedTokens = 0;

  constructor(limits: AdmissionLimits, now: () => number = () => performance.now()) {
    this.#limits = limits;
    this.#now = now;
  }

  get queuedSequences(): number {
    return this.#queuedSequences;
  }

  get queuedTokens(): number {
    return this.#queuedTokens;
  }

  /** Throws StvError `queue_full` with the time after which the queue has probably moved on enough. */
  check({ sequences, estimatedTokens, shareKey }: Reservation): void {
    const { maxQueuedSequences, maxQueuedTokens } = this.#limits;
    if (this.#queuedSequences + sequences > maxQueuedSequences) {
      throw new StvError(
        'queue_full',
        `The queue is full: ${this.#queuedSequences} sequences wait, the limit is ${maxQueuedSequences}.`,
        {
          retryAfterMs: this.#retryAfterMs(shareKey, {
            what: 'sequences',
            count: sequences,
            excess: this.#queuedSequences + sequences - maxQueuedSequences,
          }),
        },
      );
    }
    if (this.#queuedTokens > 0 && this.#queuedTokens + estimatedTokens > maxQueuedTokens) {
      throw new StvError(
        'queue_full',
        `The queue is full: prompts of ${this.#queuedTokens} tokens wait, the limit is ${maxQueuedTokens}.`,
        {
          retryAfterMs: this.#retryAfterMs(shareKey, {
            what: 'tokens',
            count: estimatedTokens,
            excess: this.#queuedTokens + estimatedTokens - maxQueuedTokens,
          }),
        },
      );
    }
    if (shareKey !== undefined) this.#checkShare(shareKey, sequences);
  }

  /** A place in the queue. Throws as `check` does, but never for a continuation. */
  reserve(reservation: Reservation): Ticket {
    if (reservation.isContinuation !== true) this.check(reservation);
    const { sequences, estimatedTokens, shareKey } = reservation;
    if (this.#queuedSequences === 0) this.#forgetBeforePause();
    this.#queuedSequences += sequences;
    this.#queuedTokens += estimatedTokens;
    this.#count(shareKey, sequences);
    this.#forgetReturns(shareKey);
    let tokens = estimatedTokens;
    let isQueued = true;
    const leave = (): void => {
      isQueued = false;
      this.#queuedSequences -= sequences;
      this.#queuedTokens -= tokens;
      this.#count(shareKey, -sequences);
    };
    return {
      setTokens: (count) => {
        if (!isQueued) return;
        this.#queuedTokens += count - tokens;
        tokens = count;
      },
      start: () => {
        if (!isQueued) return;
        leave();
        this.#starts.push({ atMs: this.#now(), sequences, tokens });
        if (this.#starts.length > REMEMBERED_STARTS) this.#starts.shift();
      },
      release: () => {
        if (isQueued) leave();
      },
    };
  }

  #forgetBeforePause(): void {
    const last = this.#starts.at(-1);
    if (last !== undefined && this.#now() - last.atMs > PAUSE_MS) this.#starts.length = 0;
  }

  #checkShare(shareKey: string, sequences: number): void {
    const own = this.#sequencesOf.get(shareKey) ?? 0;
    const { maxQueuedSequences } = this.#limits;
    const free = maxQueuedSequences - this.#queuedSequences;
    if (own + sequences <= Math.max(1, free)) return;
    throw new StvError(
      'queue_full',
      `This API key's share of the queue is full: ${own} of its sequences wait, and a key may hold as many places as are free, which is ${free} of the ${maxQueuedSequences} of maxQueuedSequences.`,
      {
        limit: { name: 'maxQueuedSequences', value: maxQueuedSequences },
        retryAfterMs: this.#retryAfterMs(shareKey, {
          what: 'sequences',
          count: sequences,
          excess: own + sequences - free,
        }),
      },
    );
  }

  #count(shareKey: string | undefined, change: number): void {
    if (shareKey === undefined) return;
    const count = (this.#sequencesOf.get(shareKey) ?? 0) + change;
    if (count > 0) this.#sequencesOf.set(shareKey, count);
    else this.#sequencesOf.delete(shareKey);
  }

  /** With half of its share free (a share is half of what it holds and what is free) nobody is about to come back. */
  #forgetReturns(shareKey: string | undefined): void {
    const free = this.#limits.maxQueuedSequences - this.#queuedSequences;
    const hasPlaces =
      shareKey === undefined ? this.#queuedSequences <= free : 3 * (this.#sequencesOf.get(shareKey) ?? 0) <= free;
    if (hasPlaces && 2 * this.#queuedTokens <= this.#limits.maxQueuedTokens) this.#lastReturnOf.delete(shareKey);
  }

  /**
   * The excess over the rate at which the last requests left the queue, a second while nothing is known; or as much later than the
   * last who was refused as the queue needs for this request.
   */
  #retryAfterMs(shareKey: string | undefined, refused: Refused): number {
    const now = this.#now();
    const msPerUnit = this.#msPerUnit(refused.what, now);
    const soonest = msPerUnit === undefined ? 1000 : refused.excess * msPerUnit;
    const alone = Math.min(MAX_RETRY_MS, Math.max(MIN_RETRY_MS, soonest));
    const afterLast =
      (this.#lastReturnOf.get(shareKey) ?? Number.NEGATIVE_INFINITY) + refused.count * (msPerUnit ?? 0) - now;
    const wait =
      afterLast > Math.max(MAX_SPREAD_MS, alone) ? Math.max(MAX_SPREAD_MS / 2, alone) : Math.max(alone, afterLast);
    this.#lastReturnOf.set(shareKey, now + wait);
    return Math.round(wait);
  }

  /** Milliseconds in which the queue lost one, lately. */
  #msPerUnit(what: Refused['what'], now: number): number | undefined {
    const first = this.#starts[0];
    if (first === undefined || this.#starts.length < 2) return undefined;
    let left = 0;
    for (const start of this.#starts) left += start[what];
    return Math.max(1, now - first.atMs) / Math.max(1, left);
  }
}

interface Refused {
  readonly what: 'sequences' | 'tokens';
  /** What it asked for, and by how much that is more than fits. */
  readonly count: number;
  readonly excess: number;
}
