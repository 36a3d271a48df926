/** Several engines as one: each request goes to the one that serves its model. Knows nothing of how any of them works. */
import { StvError } from '../errors.ts';
import type {
  Engine,
  EngineCallOptions,
  EngineStatus,
  GenerateRequest,
  GenerationEvent,
  ModelInfo,
  Prompt,
  ScoreRequest,
  ScoreResult,
} from './engine.ts';
import type { EngineStatsListener } from './engine-stats.ts';

/** An engine that tells what it does. */
export interface ObservedEngine extends Engine {
  /** @returns a function that takes the listener off again */
  onStats(listener: EngineStatsListener): () => void;
  /** Resident bytes of the processes that hold its weights; undefined where there are none or nobody tells. */
  residentBytes?(): number | undefined;
}

/** What keeps all of it from serving comes first. */
const STATES: readonly EngineStatus['state'][] = ['closed', 'draining', 'restarting', 'loading', 'ready'];

export class CombinedEngine implements ObservedEngine {
  readonly #engines: readonly ObservedEngine[];

  /** Throws StvError `config_invalid` when two engines answer to the same name. */
  constructor(engines: readonly ObservedEngine[]) {
    this.#engines = engines;
    const seen = new Set<string>();
    for (const { name, aliases } of this.models()) {
      for (const each of new Set([name, ...aliases])) {
        if (seen.has(each)) throw new StvError('config_invalid', `Two models answer to the name "${each}".`);
        seen.add(each);
      }
    }
  }

  generate(request: GenerateRequest, options?: EngineCallOptions): AsyncIterable<GenerationEvent> {
    return this.#engineOf(request.model).generate(request, options);
  }

  async score(request: ScoreRequest, options?: EngineCallOptions): Promise<ScoreResult> {
    return this.#engineOf(request.model).score(request, options);
  }

  models(): readonly ModelInfo[] {
    return this.#engines.flatMap((engine) => engine.models());
  }

  async tokenize(model: string, text: string): Promise<number[]> {
    return this.#engineOf(model).tokenize(model, text);
  }

  async detokenize(model: string, tokens: readonly number[]): Promise<string> {
    return this.#engineOf(model).detokenize(model, tokens);
  }

  async countTokens(model: string, prompt: Prompt, options?: EngineCallOptions): Promise<number> {
    return this.#engineOf(model).countTokens(model, prompt, options);
  }

  checkRoom(model: string, shareKey?: string): void {
    this.#engineOf(model).checkRoom(model, shareKey);
  }

  /** The state of the worst, the work of all, the progress of the liveliest. */
  status(): EngineStatus {
    const all = this.#engines.map((engine) => engine.status());
    const state = STATES.find((each) => all.some((status) => status.state === each)) ?? 'ready';
    const reason = all.find((status) => status.state === state)?.reason;
    const remotes = all.flatMap((status) => status.remotes ?? []);
    return {
      state,
      ...(reason === undefined ? {} : { reason }),
      running: all.reduce((sum, { running }) => sum + running, 0),
      waiting: all.reduce((sum, { waiting }) => sum + waiting, 0),
      lastStepMsAgo: least(all.map(({ lastStepMsAgo }) => lastStepMsAgo)),
      lastTokenMsAgo: least(all.map(({ lastTokenMsAgo }) => lastTokenMsAgo)),
      ...(remotes.length === 0 ? {} : { remotes }),
    };
  }

  onStats(listener: EngineStatsListener): () => void {
    const removers = this.#engines.map((engine) => engine.onStats(listener));
    return () => {
      for (const remove of removers) remove();
    };
  }

  residentBytes(): number | undefined {
    const known = this.#engines.map((engine) => engine.residentBytes?.()).filter((bytes) => bytes !== undefined);
    return known.length === 0 ? undefined : known.reduce((sum, bytes) => sum + bytes, 0);
  }

  async close(): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.close()));
  }

  #engineOf(model: string): ObservedEngine {
    const found = this.#engines.find((engine) =>
      engine.models().some(({ name, aliases }) => name === model || aliases.includes(model)),
    );
    if (found !== undefined) return found;
    throw new StvError('model_not_found', `The model "${model}" is not served here.`, { param: 'model' });
  }
}

function least(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : Math.min(...known);
}
