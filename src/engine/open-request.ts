/** A request between its call and its end: its place in the queue, what can interrupt it, and what must be let go when it is over. */
import type { Ticket } from './admission.ts';
import { Interruption, type InterruptionSources } from './interruption.ts';

export interface OpenRequestOptions extends InterruptionSources {
  /** Index and full name of the model. */
  readonly model: number;
  readonly name: string;
  readonly requestedAtMs: number;
  /** It waits no longer. */
  readonly onStart: () => void;
}

export class OpenRequest {
  readonly model: number;
  readonly name: string;
  readonly requestedAtMs: number;
  readonly interruption: Interruption;
  readonly #onStart: () => void;
  #ticket: Ticket | undefined;
  #cleanups: (() => void)[] = [];

  constructor({ model, name, requestedAtMs, onStart, ...sources }: OpenRequestOptions) {
    this.#onStart = onStart;
    this.model = model;
    this.name = name;
    this.requestedAtMs = requestedAtMs;
    this.interruption = new Interruption(sources);
    this.onClose(() => this.interruption.stop());
  }

  /** Its place in the queue, given back at the end whatever happens. */
  hold(ticket: Ticket): void {
    this.#ticket = ticket;
    this.onClose(() => ticket.release());
  }

  setTokens(count: number): void {
    this.#ticket?.setTokens(count);
  }

  /** The engine has begun with it. */
  readonly start = (): void => {
    this.#ticket?.start();
    this.#onStart();
  };

  /** Runs when the request is over, the latest first. */
  onClose(cleanup: () => void): void {
    this.#cleanups.push(cleanup);
  }

  /** May be called again without effect. */
  close(): void {
    const cleanups = this.#cleanups;
    this.#cleanups = [];
    for (const cleanup of cleanups.reverse()) cleanup();
  }
}
