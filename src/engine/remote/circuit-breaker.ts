/**
 * Keeps requests away from a server that fails. Closed: all pass. Open, after some failures in a row: none for a while. Half-open:
 * one passes as a trial; its first sign of life closes the circuit, its failure opens it for twice as long. Calls beside the work
 * (a text to encode, say) are no trials, and that they succeed says nothing: a server may encode well and generate nothing.
 */
import { StvError } from '../../errors.ts';
import type { RemoteLimits } from './remote-config.ts';

export type CircuitState = 'closed' | 'open' | 'half-open';

/** One attempt that was let through. Exactly one of `succeed`, `fail` and `leave` has an effect, the first. */
export interface CircuitPass {
  /** The server has begun to answer: enough for a trial to close the circuit. */
  progress(): void;
  succeed(): void;
  fail(): void;
  /** It ended without saying anything about the server: the caller gave up. */
  leave(): void;
}

export type CircuitLimits = Pick<RemoteLimits, 'failureThreshold' | 'minOpenMs' | 'maxOpenMs'>;

export class CircuitBreaker {
  readonly #remote: string;
  readonly #limits: CircuitLimits;
  readonly #now: () => number;
  #failuresInARow = 0;
  #numOpened = 0;
  #openMs: number;
  /** undefined = closed. */
  #opensAgainAtMs: number | undefined;
  #trial: CircuitPass | undefined;
  /** Results of attempts from before the last opening or closing say nothing about now. */
  #era = 0;

  constructor(remote: string, limits: CircuitLimits, now: () => number) {
    this.#remote = remote;
    this.#limits = limits;
    this.#now = now;
    this.#openMs = limits.minOpenMs;
  }

  get state(): CircuitState {
    if (this.#opensAgainAtMs === undefined) return 'closed';
    return this.#now() < this.#opensAgainAtMs ? 'open' : 'half-open';
  }

  get failuresInARow(): number {
    return this.#failuresInARow;
  }

  /** How often the circuit has opened. */
  get numOpened(): number {
    return this.#numOpened;
  }

  /**
   * Throws StvError `remote_unavailable` while the circuit is open or a trial is under way.
   * @param options.isAside a call beside the work: only its failure counts
   */
  enter({ isAside = false }: { readonly isAside?: boolean } = {}): CircuitPass {
    const isClosed = this.#opensAgainAtMs === undefined;
    const isTrial = !isClosed && !isAside;
    if (!isClosed && (this.state === 'open' || this.#trial !== undefined)) {
      const retryAfterMs = Math.max(this.#limits.minOpenMs / 2, (this.#opensAgainAtMs ?? 0) - this.#now());
      throw new StvError(
        'remote_unavailable',
        `The remote ${this.#remote} has failed ${this.#failuresInARow} times in a row and is left alone for a while.`,
        { retryAfterMs: Math.round(retryAfterMs) },
      );
    }
    let isOver = false;
    const era = this.#era;
    const end = (effect: () => void): void => {
      if (isOver) return;
      isOver = true;
      if (this.#trial === pass) this.#trial = undefined;
      if (era === this.#era || isTrial) effect();
    };
    const pass: CircuitPass = {
      progress: () => {
        // one more failure opens it again, until an attempt has come to a good end
        if (!isOver && this.#trial === pass) this.#close(this.#limits.failureThreshold - 1);
      },
      succeed: () =>
        end(() => {
          if (isAside) return;
          this.#openMs = this.#limits.minOpenMs;
          this.#close(0);
        }),
      fail: () =>
        end(() => {
          this.#failuresInARow += 1;
          if (this.#failuresInARow >= this.#limits.failureThreshold || this.#opensAgainAtMs !== undefined) this.#open();
        }),
      leave: () => end(() => undefined),
    };
    if (isTrial) this.#trial = pass;
    return pass;
  }

  #open(): void {
    this.#opensAgainAtMs = this.#now() + this.#openMs;
    this.#openMs = Math.min(this.#limits.maxOpenMs, this.#openMs * 2);
    this.#numOpened += 1;
    this.#era += 1;
  }

  #close(failuresInARow: number): void {
    if (this.#opensAgainAtMs !== undefined) this.#era += 1;
    this.#opensAgainAtMs = undefined;
    this.#trial = undefined;
    this.#failuresInARow = failuresInARow;
  }
}
