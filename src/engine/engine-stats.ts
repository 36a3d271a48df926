/** What the engine tells about itself, as plain objects. Who counts them (Prometheus, a log, a test) is not its business. */
import type { ErrorCode } from '../errors.ts';
import type { FinishReason, Timings, Usage } from './engine.ts';
import type { StepStats } from './messages.ts';

export type EngineStats =
  | ({ readonly type: 'step'; readonly model: string } & StepStats)
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
