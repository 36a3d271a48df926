/** What the engine tells about itself, as plain objects. Who counts them (Prometheus, a log, a test) is not its business. */
import type { ErrorCode } from '../errors.ts';
import type { FinishReason, Timings, Usage } from './engine.ts';
import type { StepStats } from './messages.ts';

export type EngineStats =
  | ({ readonly type: 'step'; readonly model: string } & StepStats)
  /** What the slots hold when no step tells it: work was taken out, or the host went down. */
  | { readonly type: 'slots'; readonly model: string; readonly used: number; readonly cached: number }
  | {
      readonly type: 'request';
      readonly model: string;
      readonly kind: 'generate' | 'score';
      readonly finishReason: FinishReason;
      readonly usage: Usage;
      readonly timings: Timings;
      /** From the call to the first token; undefined if none came. */
      readonly firstTokenMs: number | undefined;
    }
  /** A request that ended with an error, also one that was never admitted. */
  | { readonly type: 'error'; readonly model: string; readonly code: ErrorCode }
  | { readonly type: 'queue'; readonly queuedRequests: number; readonly queuedTokens: number }
  | {
      readonly type: 'host';
      readonly event: 'ready' | 'crashed' | 'hung';
      /** How long loading took, or the host had lived. */
      readonly ms: number;
    };

export type EngineStatsListener = (stats: EngineStats) => void;

/** Who listens to an engine. */
export class StatsListeners {
  readonly #listeners = new Set<EngineStatsListener>();

  get isEmpty(): boolean {
    return this.#listeners.size === 0;
  }

  /** @returns a function that takes the listener off again */
  add(listener: EngineStatsListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  emit(stats: EngineStats): void {
    for (const listener of this.#listeners) listener(stats);
  }

  /** A request that ended as `end` says. */
  emitRequest(
    kind: 'generate' | 'score',
    { finishReason, usage, timings, model }: RequestEnd,
    firstTokenMs: number | undefined,
  ): void {
    this.emit({ type: 'request', model, kind, finishReason, usage, timings, firstTokenMs });
  }
}

type RequestEnd = Pick<
  Extract<EngineStats, { readonly type: 'request' }>,
  'finishReason' | 'usage' | 'timings' | 'model'
>;
