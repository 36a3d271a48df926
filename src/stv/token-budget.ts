/**
 * The token budget of a run, shared by all its chains. Tokens are reserved before a call, so that calls side by side can
 * never use more than there is, and what a call did not use goes back. Invariant: spent + reserved <= limit, as long as calls
 * stay within what they reserved.
 */

export interface Reservation {
  /** What is left of it. */
  readonly tokens: number;
  /** Records tokens as spent. */
  charge(tokens: number): void;
  /** Takes `tokens` more at once if they are free. */
  extend(tokens: number): boolean;
  /** Gives the rest back. Calling it again does nothing. */
  release(): void;
}

export interface TokenDemand {
  /** Fewer are of no use. */
  readonly atLeast: number;
  readonly atMost: number;
}

interface Waiter {
  readonly demand: TokenDemand;
  readonly resolve: (reservation: Reservation | undefined) => void;
}

export class TokenBudget {
  readonly #limit: number;
  #spent: number;
  #reserved = 0;
  #waiters: Waiter[] = [];

  /** `limit` Infinity = no budget. `spent`: tokens that an interrupted run has used before. */
  constructor(limit: number, spent = 0) {
    this.#limit = limit;
    this.#spent = spent;
  }

  get isLimited(): boolean {
    return this.#limit !== Number.POSITIVE_INFINITY;
  }

  /** Not spent; reserved ones count as left. */
  get left(): number {
    return this.#limit - this.#spent;
  }

  get spent(): number {
    return this.#spent;
  }

  /**
   * As many tokens as are free, within the demand. Waits while other calls hold tokens that they may yet give back, first
   * come first served; `undefined` once it is certain that there are too few. An aborted wait resolves `undefined`.
   */
  async reserve(demand: TokenDemand, signal: AbortSignal): Promise<Reservation | undefined> {
    if (signal.aborted) return undefined;
    if (this.#waiters.length === 0) {
      const now = this.#take(demand);
      if (now !== undefined || this.#reserved === 0) return now;
    }
    return new Promise((resolve) => {
      const waiter: Waiter = {
        demand,
        resolve: (reservation) => {
          signal.removeEventListener('abort', leave);
          resolve(reservation);
        },
      };
      const leave = (): void => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        waiter.resolve(undefined);
        this.#serve();
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiters.push(waiter);
    });
  }

  #take(demand: TokenDemand): Reservation | undefined {
    const free = this.#limit - this.#spent - this.#reserved;
    if (free < demand.atLeast) return undefined;
    let held = Math.min(free, demand.atMost);
    this.#reserved += held;
    let isReleased = false;
    return {
      get tokens() {
        return held;
      },
      charge: (tokens) => {
        this.#spent += tokens;
        const covered = Math.min(tokens, held);
        held -= covered;
        this.#reserved -= covered;
      },
      extend: (tokens) => {
        if (isReleased || this.#limit - this.#spent - this.#reserved < tokens) return false;
        held += tokens;
        this.#reserved += tokens;
        return true;
      },
      release: () => {
        if (isReleased) return;
        isReleased = true;
        this.#reserved -= held;
        held = 0;
        this.#serve();
      },
    };
  }

  #serve(): void {
    for (;;) {
      const waiter = this.#waiters[0];
      if (waiter === undefined) return;
      const reservation = this.#take(waiter.demand);
      if (reservation === undefined && this.#reserved > 0) return;
      this.#waiters.shift();
      waiter.resolve(reservation);
    }
  }
}
