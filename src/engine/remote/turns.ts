/** Who may use a remote now and who waits: at most so many at a time, interactive before batch, first come first served. */
import { StvError } from '../../errors.ts';

export type TurnPriority = 'interactive' | 'batch';

interface Waiter {
  readonly priority: TurnPriority;
  readonly begin: () => void;
}

const QUEUE_RETRY_MS = 1000;

export class Turns {
  readonly #maxConcurrent: number;
  readonly #maxQueued: number;
  #waiters: Waiter[] = [];
  #numRunning = 0;

  constructor({ maxConcurrent, maxQueued }: { readonly maxConcurrent: number; readonly maxQueued: number }) {
    this.#maxConcurrent = maxConcurrent;
    this.#maxQueued = maxQueued;
  }

  get numRunning(): number {
    return this.#numRunning;
  }

  get numWaiting(): number {
    return this.#waiters.length;
  }

  /** Throws StvError `queue_full` when as many wait as may. */
  checkRoom(): void {
    if (this.#numRunning < this.#maxConcurrent || this.#waiters.length < this.#maxQueued) return;
    throw new StvError(
      'queue_full',
      `The queue of the remote is full: ${this.#waiters.length} requests wait, the limit is ${this.#maxQueued}.`,
      { retryAfterMs: QUEUE_RETRY_MS },
    );
  }

  /**
   * Resolves with the function that ends the turn. Throws StvError `queue_full` at once when too many wait, and the signal's
   * reason when it is aborted first.
   */
  async take(priority: TurnPriority, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#numRunning < this.#maxConcurrent) return this.#begin();
    this.checkRoom();
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        reject(signal.reason);
      };
      const waiter: Waiter = {
        priority,
        begin: () => {
          signal.removeEventListener('abort', leave);
          resolve(this.#begin());
        },
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiters.push(waiter);
    });
  }

  #begin(): () => void {
    this.#numRunning += 1;
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.#numRunning -= 1;
      const index = this.#waiters.findIndex(({ priority }) => priority === 'interactive');
      const [next] = this.#waiters.splice(Math.max(0, index), 1);
      next?.begin();
    };
  }
}
