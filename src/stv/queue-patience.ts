/**
 * What a request does when the engine's queue is full. A request that has nothing yet is refused at once, so that its client
 * can go elsewhere; one that the engine has begun to work for waits for its turn instead of losing what it has.
 */
import { StvError } from '../errors.ts';

/** A call waits no longer than this in all. */
const MAX_WAIT_MS = 120_000;
const MIN_DELAY_MS = 50;
const MAX_DELAY_MS = 5_000;

/** Shared by all engine calls of one request. */
export class QueuePatience {
  #numOpen = 0;
  #isAdmitted = false;

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
        if (!isRefused || !hasOthers || waitedMs >= MAX_WAIT_MS || signal.aborted) throw error;
        refusal = error;
      } finally {
        this.#numOpen--;
      }
      const delayMs = Math.min(MAX_DELAY_MS, Math.max(MIN_DELAY_MS, refusal.retryAfterMs ?? 0));
      waitedMs += delayMs;
      await sleep(delayMs, signal);
    }
  }
}

/** Resolves early on an abort. */
async function sleep(delayMs: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const wake = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', wake);
      resolve();
    };
    const timer = setTimeout(wake, delayMs);
    signal.addEventListener('abort', wake, { once: true });
  });
}
