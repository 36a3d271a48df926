/**
 * Whether this process can serve, and with what. It listens before the models are there and goes on answering while it
 * drains, so everything that needs the engine asks here first.
 */
import type { Engine } from './engine/engine.ts';
import { StvError } from './errors.ts';
import type { LoopPack } from './stv/loop-pack.ts';

/** What serves requests once the models are loaded. */
export interface Service {
  readonly engine: Engine;
  readonly pack: LoopPack;
}

export type ServingState =
  | { readonly state: 'loading'; readonly reason: string }
  | { readonly state: 'ready'; readonly service: Service }
  | { readonly state: 'draining'; readonly service: Service | undefined }
  | { readonly state: 'failed'; readonly reason: string };

/** Swaps so far; what began before a swap may go on with what it began with. */
type Epoch = number;

export class Serving {
  #state: ServingState = { state: 'loading', reason: 'The server is starting.' };
  #epoch: Epoch = 0;
  /** How many requests and runs began in each epoch and have not ended. */
  readonly #users = new Map<Epoch, number>();
  #vacancies: { readonly epoch: Epoch; readonly settle: () => void }[] = [];

  get state(): ServingState {
    return this.#state;
  }

  /** What is being done, for `/health/ready` and for requests that come too early. */
  loading(reason: string): void {
    if (this.#state.state === 'loading') this.#state = { state: 'loading', reason };
  }

  ready(service: Service): void {
    if (this.#state.state === 'loading') this.#state = { state: 'ready', service };
  }

  /**
   * Gives what begins from now on another service. Resolves when nothing uses the one before any more. Throws `not_ready` or
   * `draining` where there is none to replace.
   */
  swap(service: Service): { readonly vacated: Promise<void> } {
    this.require();
    const epoch = this.#epoch++;
    this.#state = { state: 'ready', service };
    const vacated = new Promise<void>((settle) => {
      this.#vacancies.push({ epoch, settle });
    });
    this.#settleVacancies();
    return { vacated };
  }

  /** Requests and runs that began before the swap after `swaps` swaps. */
  usersBefore(swaps: number): number {
    let count = 0;
    for (const [epoch, users] of this.#users) if (epoch < swaps) count += users;
    return count;
  }

  /** Swaps so far. */
  get swaps(): number {
    return this.#epoch;
  }

  /** Something that may use the service begins; call what it returns when it is over, once or more often. */
  enter(): () => void {
    const epoch = this.#epoch;
    this.#users.set(epoch, (this.#users.get(epoch) ?? 0) + 1);
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      const left = (this.#users.get(epoch) ?? 1) - 1;
      if (left > 0) this.#users.set(epoch, left);
      else this.#users.delete(epoch);
      this.#settleVacancies();
    };
  }

  /** Iterates over what `use` makes of the service, which stays in service until the end. Throws like `service`. */
  async *during<T>(use: (service: Service) => AsyncIterable<T>): AsyncGenerator<T, void, void> {
    const leave = this.enter();
    try {
      yield* use(this.service());
    } finally {
      leave();
    }
  }

  #settleVacancies(): void {
    const oldest = Math.min(...this.#users.keys());
    const settled = this.#vacancies.filter(({ epoch }) => epoch < oldest);
    this.#vacancies = this.#vacancies.filter(({ epoch }) => epoch >= oldest);
    for (const { settle } of settled) settle();
  }

  failed(reason: string): void {
    if (this.#state.state !== 'draining') this.#state = { state: 'failed', reason };
  }

  drain(): void {
    const service = this.#state.state === 'ready' ? this.#state.service : undefined;
    this.#state = { state: 'draining', service };
  }

  /** The service for work that was accepted before; throws `not_ready` where none was ever loaded. */
  service(): Service {
    const current = this.#state;
    if ((current.state === 'ready' || current.state === 'draining') && current.service !== undefined) {
      return current.service;
    }
    throw new StvError('not_ready', 'The models are not loaded.');
  }

  /** The service for a new request. Throws `not_ready` or `draining`. */
  require(): Service {
    const current = this.#state;
    switch (current.state) {
      case 'ready':
        return current.service;
      case 'draining':
        throw new StvError('draining', 'The server is shutting down and takes no new requests.');
      case 'loading':
      case 'failed':
        throw new StvError('not_ready', `The server is not ready: ${current.reason}`);
    }
  }
}
