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

export class Serving {
  #state: ServingState = { state: 'loading', reason: 'The server is starting.' };

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

  failed(reason: string): void {
    this.#state = { state: 'failed', reason };
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
