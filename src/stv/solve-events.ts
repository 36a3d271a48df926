/** The shapes of a run: its request, its events, its answer. The answer is what `fold.ts` makes of the events. */

import type { FinishReason, Timings } from '../engine/engine.ts';
import type { ErrorCode } from '../errors.ts';
import type { SampledTokens } from './engine-call.ts';
import type { Priority, SamplingOptions } from './loop-deps.ts';
import type { StepSpan } from './steps.ts';
import type { RequestTimings, RoleUsage, TokenUsage } from './usage.ts';
import type { Verdict } from './verdict.ts';
import type { VoteRecord } from './verification.ts';

export type AcceptRule =
  | { readonly rule: 'single' }
  | { readonly rule: 'consecutive'; readonly k: number }
  | { readonly rule: 'votes'; readonly k: number; readonly n: number }
  | { readonly rule: 'score'; readonly threshold: number };

export interface RoleOptions extends SamplingOptions {
  readonly model: string;
}

/** What the loop is given. A `label` never gets here: what is not passed cannot be shown to a model. */
export interface SolveRequest {
  /** `slv_…`; made by the caller. */
  readonly id: string;
  readonly problem: string;
  readonly initialAttempt?: string | undefined;
  /** Refinements after the first attempt, 0..100. */
  readonly maxRounds: number;
  /** 1..64. */
  readonly chains: number;
  readonly accept: AcceptRule;
  readonly giveUp?: { readonly rejectsInARow: number } | undefined;
  readonly budget?: { readonly tokens?: number | undefined; readonly seconds?: number | undefined } | undefined;
  readonly onExhausted: 'best' | 'last' | 'abstain';
  readonly stopChains: 'first_accept' | 'all';
  readonly generator: RoleOptions;
  readonly verifier: RoleOptions;
  readonly seed?: number | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Keep the sampled tokens with their log-probabilities in rounds and traces. */
  readonly logprobs?: boolean | undefined;
  /** W3C trace context of the request, for whoever traces the run; the loop does not read it. */
  readonly traceparent?: string | undefined;
  readonly priority: Priority;
  /** Where the engine cannot serve for a while, wait for it and go on instead of ending; set for runs that are stored. */
  readonly outlastsEngine?: boolean | undefined;
}

export type SolveStatus = 'accepted' | 'exhausted' | 'abstained' | 'cancelled' | 'failed';

export type ChainStatus = 'accepted' | 'exhausted' | 'gave_up' | 'cancelled' | 'failed';

export type StopReason =
  | 'accepted'
  | 'max_rounds'
  | 'rejects_in_a_row'
  | 'token_budget'
  | 'deadline'
  | 'cancelled'
  | 'engine_error'
  | 'shutdown';

/** The routes add the wire's `type` to it; `code` decides which. */
export interface SolveErrorRecord {
  readonly message: string;
  readonly code: ErrorCode;
  readonly param: string | null;
  /** After how long trying again can help, where the failure told; a header, not part of the error object. */
  readonly retryAfterMs?: number;
}

/** Full names of the weights. */
export interface Models {
  readonly generator: string;
  readonly verifier: string;
}

/** The request as it is carried out: models by full name, every default filled in. */
export interface SolveStart {
  readonly created: number;
  readonly models: Models;
  readonly problem: string;
  readonly initialAttempt: string | null;
  readonly limits: {
    readonly maxRounds: number;
    readonly chains: number;
    readonly accept: AcceptRule;
    readonly giveUp: { readonly rejectsInARow: number } | null;
    readonly budget: { readonly tokens: number | null; readonly seconds: number | null };
    readonly onExhausted: 'best' | 'last' | 'abstain';
    readonly stopChains: 'first_accept' | 'all';
  };
  readonly generator: ResolvedSampling;
  readonly verifier: ResolvedSampling;
  readonly seed: number;
  readonly metadata: Readonly<Record<string, string>> | null;
}

export interface ResolvedSampling {
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly minP: number;
  readonly maxTokens: number;
}

/** Chain and round of an attempt. */
export interface AttemptRef {
  readonly chain: number;
  readonly round: number;
}

/** What one verification of a round says. Rule `consecutive` makes several follow one another. */
export interface VerificationRecord {
  readonly verdict: Verdict;
  readonly score: number;
  readonly rawScore: number;
  readonly agreement: number;
  readonly feedback: string;
  readonly firstError: StepSpan | null;
  readonly votes: readonly VoteRecord[];
}

export type SolveEventBody =
  | ({ readonly type: 'solve-start' } & SolveStart)
  /**
   * `carried`: tokens of an earlier try of this round whose events a fold drops; none on the first try. `models`: as in
   * `solve-start`, where a run that goes on has others by now.
   */
  | ({ readonly type: 'round-start'; readonly carried: RoleUsage | null; readonly models?: Models } & AttemptRef)
  /** Both null for an attempt that the caller gave. */
  | ({ readonly type: 'attempt-start'; readonly seed: number | null; readonly promptHash: string | null } & AttemptRef)
  | ({ readonly type: 'attempt-delta'; readonly text: string } & AttemptRef)
  | ({
      readonly type: 'attempt-end';
      readonly attempt: string;
      readonly answer: string | null;
      readonly finishReason: FinishReason;
      /** Where they were asked for; not of an attempt that the caller gave. */
      readonly logprobs?: SampledTokens;
      readonly usage: TokenUsage;
      readonly timings: Timings;
    } & AttemptRef)
  | ({ readonly type: 'verification-start'; readonly promptHash: string } & AttemptRef)
  | ({ readonly type: 'verification-delta'; readonly vote: number; readonly text: string } & AttemptRef)
  | ({
      readonly type: 'verification-end';
      readonly usage: TokenUsage;
      readonly timings: Timings;
    } & VerificationRecord &
      AttemptRef)
  /** Ends every round that was started, also one that was broken off; `usage` is then all that it has cost. */
  | ({
      readonly type: 'round-end';
      /** Whether the attempt has been verified to the end; a round that was not is repeated when the run is resumed. */
      readonly finished: boolean;
      readonly accepted: boolean;
      readonly best: AttemptRef | null;
      readonly usage: RoleUsage;
      readonly timings: Timings;
      /** Since the run was created. */
      readonly elapsedMs: number;
    } & AttemptRef)
  | ({ readonly type: 'solve-end' } & Omit<SolveAnswer, 'id'>);

/** `id` grows by 1 from 1; it is the `id:` of the stream, not part of its data. The run's own id is `solveId`. */
export type SolveEvent = SolveEventBody & { readonly id: number; readonly solveId: string };

/** What is missing in a round that is under way or was broken off is null. */
export interface RoundRecord {
  readonly round: number;
  /** What wrote it, where these are others than the run began with. */
  readonly models?: Models;
  readonly attempt: string | null;
  readonly answer: string | null;
  /** Of the attempt; `stop` for one that the caller gave. */
  readonly finishReason: FinishReason | null;
  /** Of the attempt's sampled tokens, where they were asked for. */
  readonly logprobs?: SampledTokens;
  readonly verdict: Verdict | null;
  readonly score: number | null;
  readonly rawScore: number | null;
  readonly accepted: boolean;
  readonly feedback: string | null;
  readonly firstError: StepSpan | null;
  readonly votes: readonly VoteRecord[];
  readonly seeds: { readonly attempt: number | null; readonly votes: readonly number[] };
  readonly promptHashes: { readonly attempt: string | null; readonly verification: string | null };
  readonly usage: RoleUsage;
  readonly timings: Timings;
}

export interface ChainRecord {
  readonly chain: number;
  readonly status: ChainStatus | 'running';
  readonly stopReason: StopReason | null;
  /** Why it failed, and only then. */
  readonly error: SolveErrorRecord | null;
  readonly rounds: readonly RoundRecord[];
}

export interface SolveAnswerOf<Status> {
  readonly id: string;
  readonly object: 'solve';
  readonly created: number;
  /** What it began with. */
  readonly models: Models;
  readonly status: Status;
  readonly stopReason: StopReason | null;
  readonly solution: string | null;
  readonly answer: string | null;
  readonly score: number | null;
  readonly chain: number | null;
  readonly round: number | null;
  readonly chains: readonly ChainRecord[];
  readonly usage: RoleUsage;
  readonly seed: number;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly timings: RequestTimings;
  readonly error: SolveErrorRecord | null;
}

export type SolveAnswer = SolveAnswerOf<SolveStatus>;

/** What is known of a run that has not ended. */
export type RunningSolve = SolveAnswerOf<'running'>;

/** The answer or what is known so far without the rounds, as lists show it. */
export type RunSummary = Omit<SolveAnswer | RunningSolve, 'chains'>;
