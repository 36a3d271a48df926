/** The two ways a request is ended from outside, joined: its abort signal and its deadline. The first one counts, once. */
import { StvError } from '../errors.ts';

/** Longest delay of a Node timer. */
const MAX_TIMER_MS = 0x7fff_ffff;

export interface InterruptionSources {
  readonly signal: AbortSignal | undefined;
  /** Milliseconds since the epoch. */
  readonly deadline: number | undefined;
}

export class Interruption {
  readonly #signal: AbortSignal | undefined;
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #listeners = new Set<(error: StvError) => void>();
  readonly #controller = new AbortController();
  #error: StvError | undefined;

  constructor({ signal, deadline }: InterruptionSources) {
    this.#signal = signal;
    if (signal?.aborted) this.#onAbort();
    signal?.addEventListener('abort', this.#onAbort);
    if (deadline === undefined || this.#error !== undefined) return;
    const leftMs = deadline - Date.now();
    if (leftMs <= 0) this.#onDeadline();
    else this.#timer = setTimeout(this.#onDeadline, Math.min(MAX_TIMER_MS, leftMs));
  }

  /** For work that can be spared; its reason is the error. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Calls back with `cancelled` or `deadline_exceeded`, at once if it has happened. Not after `stop`. */
  onInterrupt(listener: (error: StvError) => void): void {
    if (this.#error === undefined) this.#listeners.add(listener);
    else listener(this.#error);
  }

  /** The work's result, unless the interruption comes first: then it throws that, and the result is dropped. */
  async race<T>(work: Promise<T>): Promise<T> {
    if (this.#error !== undefined) {
      work.catch(() => undefined);
      throw this.#error;
    }
    let listener: ((error: StvError) => void) | undefined;
    const interrupted = new Promise<never>((_, reject) => {
      listener = reject;
      this.#listeners.add(reject);
    });
    try {
      return await Promise.race([work, interrupted]);
    } finally {
      if (listener !== undefined) this.#listeners.delete(listener);
    }
  }

  /** The request is over: lets go of signal and timer. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#listeners.clear();
  }

  readonly #onAbort = (): void => this.#interrupt(new StvError('cancelled', 'The request was cancelled.'));

  readonly #onDeadline = (): void =>
    this.#interrupt(new StvError('deadline_exceeded', 'The deadline of the request passed before it was finished.'));

  #interrupt(error: StvError): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    this.#controller.abort(error);
    for (const listener of [...this.#listeners]) listener(error);
  }
}
