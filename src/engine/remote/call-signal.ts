/** The one signal of a request to a remote: it fires with the caller's, with the deadline, or when the engine closes. */
import { StvError } from '../../errors.ts';

const MAX_TIMER_MS = 0x7fff_ffff;

export class CallSignal {
  readonly #controller = new AbortController();
  readonly #release: (() => void)[] = [];
  readonly #deadline: number | undefined;

  /** @param deadline milliseconds since the epoch */
  constructor(signals: readonly (AbortSignal | undefined)[], deadline?: number) {
    this.#deadline = deadline;
    for (const signal of signals) {
      if (signal === undefined) continue;
      const onAbort = (): void => this.abort(reasonOf(signal));
      if (signal.aborted) onAbort();
      signal.addEventListener('abort', onAbort, { once: true });
      this.#release.push(() => signal.removeEventListener('abort', onAbort));
    }
    if (deadline === undefined) return;
    const passed = new StvError('deadline_exceeded', 'The deadline of the request passed before it was finished.');
    if (this.leftMs <= 0) this.abort(passed);
    const timer = setTimeout(() => this.abort(passed), Math.min(MAX_TIMER_MS, Math.max(0, this.leftMs)));
    this.#release.push(() => clearTimeout(timer));
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Milliseconds until the deadline, Infinity without one. */
  get leftMs(): number {
    return this.#deadline === undefined ? Number.POSITIVE_INFINITY : this.#deadline - Date.now();
  }

  abort(reason: StvError): void {
    if (!this.signal.aborted) this.#controller.abort(reason);
  }

  /** Takes it off the signals it listens to. */
  release(): void {
    for (const release of this.#release.splice(0)) release();
  }

  /** The promise, or a rejection with the signal's reason, whichever comes first. */
  async race<T>(promise: Promise<T>): Promise<T> {
    const { signal } = this;
    promise.catch(() => undefined); // may fail when nobody waits for it any more, or never did
    signal.throwIfAborted();
    let onAbort: () => void = () => undefined;
    const aborted = new Promise<never>((_, reject) => {
      onAbort = (): void => reject(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
    });
    try {
      return await Promise.race([promise, aborted]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }
}

function reasonOf(signal: AbortSignal): StvError {
  const reason: unknown = signal.reason;
  return reason instanceof StvError ? reason : new StvError('cancelled', 'The request was cancelled.');
}
