/** How long a server may keep us waiting, as a signal for the connection. Stands still while nobody waits. */

/** A signal that fires with the caller's, or when the time is over. */
export class Patience {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal;
  readonly #onAbort: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(outer: AbortSignal, ms: number, reason: () => Error) {
    this.#outer = outer;
    this.#onAbort = () => this.#controller.abort(outer.reason);
    if (outer.aborted) this.#onAbort();
    else outer.addEventListener('abort', this.#onAbort, { once: true });
    this.restart(ms, reason);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  pause(): void {
    clearTimeout(this.#timer);
  }

  restart(ms: number, reason: () => Error): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(reason()), ms);
  }

  /** Ends the watch; what goes on is left in peace. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#outer.removeEventListener('abort', this.#onAbort);
  }

  /** Ends the watch and closes the connection, if it is still in use. */
  abandon(): void {
    this.stop();
    this.#controller.abort(new Error('The answer is no longer wanted.'));
  }
}
