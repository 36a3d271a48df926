/** One refinement as a stream of events: problem, attempt and feedback go in, a new attempt comes out. */
import type { FinishReason } from '../engine/engine.ts';
import type { LoopCallOptions, LoopDeps, Priority, SamplingOptions } from './loop-deps.ts';
import type { RequestTimings, TokenUsage } from './usage.ts';
import type { Verdict } from './verdict.ts';

export interface RefineRequest extends SamplingOptions {
  /** `ref_…`; made by the caller. */
  readonly id: string;
  readonly problem: string;
  readonly attempt: string;
  /** `verdict` is `reject` unless the caller says otherwise. */
  readonly feedback: { readonly verdict: Verdict; readonly text: string };
  readonly model: string;
  readonly seed?: number | undefined;
  readonly priority: Priority;
}

export interface RefinementAnswer {
  readonly id: string;
  readonly object: 'refinement';
  readonly created: number;
  readonly model: string;
  readonly attempt: string;
  readonly answer: string | null;
  readonly reasoning: string | null;
  readonly finishReason: FinishReason;
  readonly seed: number;
  readonly usage: TokenUsage;
  readonly timings: RequestTimings;
}

export type RefineEvent =
  | { readonly type: 'refinement-start'; readonly id: string; readonly created: number; readonly model: string }
  | { readonly type: 'attempt-delta'; readonly text: string }
  | ({ readonly type: 'refinement-end' } & RefinementAnswer);

/** Refines once. A failure or an abort is thrown as StvError; otherwise the last event is `refinement-end`. */
export async function* refine(
  _request: RefineRequest,
  _deps: LoopDeps,
  _options: LoopCallOptions = {},
): AsyncGenerator<RefineEvent> {
  throw new Error('coming');
}
