/**
 * What is loaded, and its exchange while the server serves: the new models start beside the running ones, what begins from then on
 * gets them, and the old ones end when nothing uses them any more. The process of the old ones ends with them, so their memory returns.
 */
import type { ObservedEngine } from './engine/combined-engine.ts';
import { StvError, toStvError } from './errors.ts';
import type { AvailableModel, FoundPack } from './models/model-folders.ts';
import type { Pack } from './models/pack.ts';
import { packWithRole, type SwapRole } from './models/pack-swap.ts';
import type { Serving } from './serving.ts';

/** What a load can exchange. */
export const swapRoles = ['generator', 'verifier', 'both'] as const satisfies readonly SwapRole[];

export interface LoadedModels {
  readonly engine: ObservedEngine;
  readonly pack: Pack;
}

/** How far a load is; `done` of `total` where something is counted. */
export interface SwapProgress {
  readonly what: string;
  readonly done?: number;
  readonly total?: number | undefined;
}

/** The load that is under way, or the last one. */
export interface SwapStatus {
  readonly role: SwapRole;
  readonly name: string;
  readonly state: 'loading' | 'ready' | 'failed';
  readonly progress: SwapProgress;
  /** Milliseconds since the epoch. */
  readonly startedAtMs: number;
  readonly endedAtMs: number | undefined;
  readonly error: StvError | undefined;
}

/** Models that were exchanged and still answer what began before. */
export interface DrainingModels {
  readonly engine: ObservedEngine;
  /** Requests and runs that may still use them. */
  users(): number;
}

export interface ModelSwapOptions {
  readonly serving: Serving;
  /** A name below the model folders. Throws StvError `invalid_value`, `model_not_found` or what is wrong with the pack. */
  readonly find: (name: string) => Promise<FoundPack>;
  /** What `find` could be asked for. */
  readonly list: () => Promise<readonly AvailableModel[]>;
  /** Starts the models of a pack. Throws StvError. */
  readonly load: (pack: Pack, report: (progress: SwapProgress) => void, signal: AbortSignal) => Promise<LoadedModels>;
  /** Told of models that serve from now on. */
  readonly onServing?: (models: LoadedModels) => void;
}

export class ModelSwap {
  readonly #options: ModelSwapOptions;
  readonly #closing = new AbortController();
  readonly #draining = new Set<DrainingModels>();
  #current: LoadedModels | undefined;
  #status: SwapStatus | undefined;
  #work: Promise<void> | undefined;
  #numSwaps = { ready: 0, failed: 0 };

  constructor(options: ModelSwapOptions) {
    this.#options = options;
  }

  /** The first models are there: they serve. */
  start(models: LoadedModels): void {
    this.#current = models;
    this.#options.serving.ready(models);
    this.#options.onServing?.(models);
  }

  /** What serves; undefined before `start`. */
  get current(): LoadedModels | undefined {
    return this.#current;
  }

  get status(): SwapStatus | undefined {
    return this.#status;
  }

  get draining(): readonly DrainingModels[] {
    return [...this.#draining];
  }

  /** Ended loads by outcome. */
  get counts(): Readonly<Record<'ready' | 'failed', number>> {
    return this.#numSwaps;
  }

  /** What can be loaded, by name. */
  available(): Promise<readonly AvailableModel[]> {
    return this.#options.list();
  }

  /**
   * Loads what `name` says into a role. Resolves once the load has begun; `done` resolves when the new models serve and rejects with
   * StvError `model_load_failed` when they cannot, which leaves the old ones in service. Throws StvError `conflict` while another
   * load is under way, `not_ready` or `draining`, and what `find` throws.
   */
  async load(role: SwapRole, name: string): Promise<{ readonly done: Promise<void> }> {
    this.#options.serving.require();
    const current = this.#current;
    if (current === undefined) throw new StvError('not_ready', 'The first models are still loading.');
    if (this.#work !== undefined) {
      throw new StvError('conflict', 'Another load is under way; GET /admin/models shows how far it is.');
    }
    return new Promise((resolve, reject) => {
      const done: Promise<void> = this.#swap(current, role, name, () => resolve({ done })).finally(() => {
        this.#work = undefined;
      });
      this.#work = done.catch(reject);
    });
  }

  /** Ends all models, those of a load under way too. */
  async close(): Promise<void> {
    this.#closing.abort(new StvError('draining', 'The server is shutting down.'));
    await this.#work;
    const engines = [this.#current, ...this.#draining].flatMap((models) => models?.engine ?? []);
    await Promise.all(engines.map((engine) => engine.close()));
  }

  async #swap(current: LoadedModels, role: SwapRole, name: string, onBegin: () => void): Promise<void> {
    const { pack: other, isBare } = await this.#options.find(name).catch(refuse);
    const begun = { role, name, startedAtMs: Date.now(), endedAtMs: undefined, error: undefined };
    this.#status = { ...begun, state: 'loading', progress: { what: 'Starting.' } };
    onBegin();
    const report = (progress: SwapProgress): void => {
      this.#status = { ...begun, state: 'loading', progress };
    };
    try {
      const pack = packWithRole(current.pack, role, other, isBare);
      const next = await this.#options.load(pack, report, this.#closing.signal);
      await this.#putInService(current, next);
    } catch (thrown) {
      const { code, message } = toStvError(thrown);
      const error = new StvError(code === 'draining' ? code : 'model_load_failed', message, { cause: thrown });
      this.#numSwaps.failed++;
      this.#status = { ...begun, state: 'failed', progress: { what: 'Failed.' }, endedAtMs: Date.now(), error };
      throw error;
    }
    this.#numSwaps.ready++;
    this.#status = { ...begun, state: 'ready', progress: { what: 'In service.' }, endedAtMs: Date.now() };
  }

  async #putInService(old: LoadedModels, next: LoadedModels): Promise<void> {
    const { serving, onServing } = this.#options;
    let vacated: Promise<void>;
    try {
      ({ vacated } = serving.swap(next));
    } catch (thrown) {
      await next.engine.close();
      throw thrown;
    }
    this.#current = next;
    onServing?.(next);
    const { swaps } = serving;
    const draining = { engine: old.engine, users: () => serving.usersBefore(swaps) };
    this.#draining.add(draining);
    void vacated.then(async () => {
      await old.engine.close();
      this.#draining.delete(draining);
    });
  }
}

/** A pack that is wrong is the caller's to know of, and no defect of the server. */
function refuse(thrown: unknown): never {
  const error = toStvError(thrown);
  if (error.code === 'pack_invalid' || error.code === 'config_invalid') {
    throw new StvError('model_load_failed', error.message, { cause: thrown });
  }
  throw error;
}
