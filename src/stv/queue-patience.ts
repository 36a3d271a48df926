/**
 * What a request does when the engine's queue is full. A request that has nothing yet is refused at once, so that its client
 * can go elsewhere; one that the engine has begun to work for waits for its turn instead of losing what it has.
 */
import { StvError } from '../errors.ts';
import { pause } from './engine-return.ts';

/** A call waits no longer than this in all. */
const MAX_WAIT_MS = 120_000;
const MIN_DELAY_MS = 50;
/** The times that the queue tells are spread, so that not all clients come back together; asking from within costs next to nothing. */
const MAX_DELAY_MS = 1_000;

/** Shared by all engine calls of one request. */
export class QueuePatience {
  readonly #isEndless: boolean;
  #numOpen = 0;
  #isAdmitted = false;

  /** `isEndless`: the request has been accepted for good, so it waits from its first call on, as long as it takes. */
  constructor(isEndless = false) {
    this.#isEndless = isEndless;
  }

  /** Asks before anything is prepared, where a refusal would end the request: `check` throws StvError `queue_full`. */
  ask(check: () => void): void {
    if (!this.#isEndless && !this.#isAdmitted && this.#numOpen === 0) check();
  }

  /** Makes the call, again and again while it is refused for a full queue and another call of the request is, or was, served. */
  async call<T>(signal: AbortSignal, make: () => Promise<T>): Promise<T> {
    let waitedMs = 0;
    for (;;) {
      this.#numOpen++;
      let refusal: StvError;
      try {
        const result = await make();
        this.#isAdmitted = true;
        return result;
      } catch (error) {
        const isRefused = error instanceof StvError && error.code === 'queue_full';
        const hasOthers = this.#isAdmitted || this.#numOpen > 1;
        const waitsOn = this.#isEndless || (hasOthers && waitedMs < MAX_WAIT_MS);
        if (!isRefused || !waitsOn || signal.aborted) throw error;
        refusal = error;
      } finally {
        this.#numOpen--;
      }
      const delayMs = Math.min(MAX_DELAY_MS, Math.max(MIN_DELAY_MS, refusal.retryAfterMs ?? 0));
      waitedMs += delayMs;
      await pause(delayMs, signal);
    }
  }
}
