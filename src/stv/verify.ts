/**
 * One verification as a stream of events: feedback and verdict of each vote, then the answer. Knows no HTTP; `toWire` of the
 * routes turns these shapes into those of the contract key by key.
 */
import type { FinishReason } from '../engine/engine.ts';
import type { LoopCallOptions, LoopDeps, Priority, SamplingOptions } from './loop-deps.ts';
import type { StepSpan } from './steps.ts';
import type { RequestTimings, TokenUsage } from './usage.ts';
import type { Verdict } from './verdict.ts';

export interface VerifyRequest extends SamplingOptions {
  /** `vrf_…`; made by the caller. */
  readonly id: string;
  readonly problem: string;
  readonly solution: string;
  readonly reference?: string | undefined;
  readonly mode: 'full' | 'score';
  /** 1..64; 1 in mode `score`. */
  readonly votes: number;
  readonly earlyStop: boolean;
  readonly model: string;
  readonly seed?: number | undefined;
  readonly priority: Priority;
}

export type LeakFlag = 'none' | 'regenerated' | 'redacted';

/** One vote that was counted. A request with this `seed` and one vote repeats it. */
export interface VoteRecord {
  readonly verdict: Verdict;
  readonly score: number;
  readonly rawScore: number;
  readonly feedback: string;
  readonly finishReason: FinishReason;
  readonly seed: number;
}

export interface VerificationAnswer {
  readonly id: string;
  readonly object: 'verification';
  /** Unix seconds. */
  readonly created: number;
  readonly model: string;
  readonly verdict: Verdict;
  readonly score: number;
  readonly rawScore: number;
  readonly agreement: number;
  readonly leak: LeakFlag | null;
  readonly feedback: string;
  readonly firstError: StepSpan | null;
  readonly votes: readonly VoteRecord[];
  readonly usage: TokenUsage;
  readonly timings: RequestTimings;
}

/** Votes run side by side, so deltas of several votes alternate; `vote-end` comes in index order, only for votes that count. */
export type VerifyEvent =
  | { readonly type: 'verification-start'; readonly id: string; readonly created: number; readonly model: string }
  | { readonly type: 'verification-delta'; readonly vote: number; readonly text: string }
  | ({ readonly type: 'vote-end'; readonly vote: number } & VoteRecord)
  | ({ readonly type: 'verification-end' } & VerificationAnswer);

/**
 * Verifies one solution. A failure or an abort is thrown as StvError; otherwise the last event is `verification-end`, which
 * holds the whole answer. Leaving the iteration early cancels.
 */
export async function* verify(
  _request: VerifyRequest,
  _deps: LoopDeps,
  _options: LoopCallOptions = {},
): AsyncGenerator<VerifyEvent> {
  throw new Error('coming');
}
