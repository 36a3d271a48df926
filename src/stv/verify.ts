/**
 * One verification as a stream of events: feedback and verdict of each vote, then the answer. Knows no HTTP; these shapes are
 * those of the contract with camelCase keys.
 */
import { resolveRole } from './call-plan.ts';
import { findModel } from './engine-call.ts';
import { type Emit, eventStream } from './event-stream.ts';
import { createLeakGuard, type LeakFlag } from './leak-guard.ts';
import type { LoopCallOptions, LoopDeps, Priority, SamplingOptions } from './loop-deps.ts';
import { createPromptRenderer } from './prompts.ts';
import { QueuePatience } from './queue-patience.ts';
import { drawSeed, voteSeed } from './seeds.ts';
import { noSpan, type Span, type SpanAttributes, usageAttributes, withSpan } from './spans.ts';
import type { StepSpan } from './steps.ts';
import { TokenBudget } from './token-budget.ts';
import { addTimings, addUsage, noTimings, noUsage, type RequestTimings, type TokenUsage, tokenUsage } from './usage.ts';
import type { Verdict } from './verdict.ts';
import { type VoteRecord, verifySolution } from './verification.ts';
import { majority } from './votes.ts';

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
export function verify(
  request: VerifyRequest,
  deps: LoopDeps,
  options: LoopCallOptions = {},
): AsyncGenerator<VerifyEvent> {
  const { span = noSpan } = options;
  return eventStream<VerifyEvent>(
    (emit, signal) => withSpan(span, () => runVerify({ request, deps, emit, signal, span }), describeAnswer),
    options.signal,
  );
}

interface VerifyCall {
  readonly request: VerifyRequest;
  readonly deps: LoopDeps;
  readonly emit: Emit<VerifyEvent>;
  readonly signal: AbortSignal;
  readonly span: Span;
}

function describeAnswer({ verdict, score, votes, usage }: VerificationAnswer): SpanAttributes {
  return { ...usageAttributes(usage), 'stv.verdict': verdict, 'stv.score': score, 'stv.votes': votes.length };
}

async function runVerify({ request, deps, emit, signal, span }: VerifyCall): Promise<VerificationAnswer> {
  const now = deps.now ?? Date.now;
  const startedAt = now();
  const created = Math.floor(startedAt / 1000);
  const info = findModel(deps.engine, request.model, 'model');
  const { id, problem, solution, reference } = request;
  const seed = request.seed ?? (deps.drawSeed ?? drawSeed)();
  const prompts = createPromptRenderer(deps.pack, { verifier: info.contextLength });
  await emit({ type: 'verification-start', id, created, model: info.name });
  let usage = noUsage;
  let timings = noTimings;
  const outcome = await verifySolution(
    {
      id,
      problem,
      solution,
      reference,
      prompt: prompts.verify(request),
      mode: request.mode,
      numVotes: request.votes,
      earlyStop: request.earlyStop,
      rule: majority,
      seedOf: (vote) => voteSeed(seed, vote),
      model: request.model,
      contextLength: info.contextLength,
      role: resolveRole(deps.pack.defaults.verifier, request),
      priority: request.priority,
      scorePrefixes: true,
    },
    {
      deps,
      prompts,
      signal,
      budget: new TokenBudget(Number.POSITIVE_INFINITY),
      patience: new QueuePatience(),
      guard: reference === undefined ? undefined : createLeakGuard({ reference, problem, solution }, deps.pack.answer),
      account: (reported, callTimings) => {
        usage = addUsage(usage, tokenUsage(reported));
        timings = addTimings(timings, callTimings);
      },
      onDelta: (vote, text) => emit({ type: 'verification-delta', vote, text }),
      onVote: (vote, record) => emit({ type: 'vote-end', vote, ...record }),
      span,
    },
  );
  const answer: VerificationAnswer = {
    id,
    object: 'verification',
    created,
    ...outcome,
    usage,
    timings: { ...timings, totalMs: now() - startedAt },
  };
  await emit({ type: 'verification-end', ...answer });
  return answer;
}
