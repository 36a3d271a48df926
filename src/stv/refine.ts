/** One refinement as a stream of events: problem, attempt and feedback go in, a new attempt comes out. */
import type { FinishReason } from '../engine/engine.ts';
import { createAnswerExtractor } from './answer.ts';
import { writeAttempt } from './attempt.ts';
import { resolveRole } from './call-plan.ts';
import { findModel } from './engine-call.ts';
import { type Emit, eventStream } from './event-stream.ts';
import type { LoopCallOptions, LoopDeps, Priority, SamplingOptions } from './loop-deps.ts';
import { createPromptRenderer } from './prompts.ts';
import { QueuePatience } from './queue-patience.ts';
import { drawSeed } from './seeds.ts';
import { noSpan, type SpanAttributes, usageAttributes, withSpan } from './spans.ts';
import { TokenBudget } from './token-budget.ts';
import { addTimings, addUsage, noTimings, noUsage, type RequestTimings, type TokenUsage, tokenUsage } from './usage.ts';
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
  /** Unix seconds. */
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

/**
 * Refines once. A failure or an abort is thrown as StvError; otherwise the last event is `refinement-end`, which holds the
 * whole answer. Leaving the iteration early cancels.
 */
export function refine(
  request: RefineRequest,
  deps: LoopDeps,
  options: LoopCallOptions = {},
): AsyncGenerator<RefineEvent> {
  const { span = noSpan } = options;
  return eventStream<RefineEvent>(
    (emit, signal) => withSpan(span, () => runRefine({ request, deps, emit, signal }), describeAnswer),
    options.signal,
  );
}

interface RefineCall {
  readonly request: RefineRequest;
  readonly deps: LoopDeps;
  readonly emit: Emit<RefineEvent>;
  readonly signal: AbortSignal;
}

function describeAnswer({ usage, finishReason }: RefinementAnswer): SpanAttributes {
  return { ...usageAttributes(usage), 'stv.finish_reason': finishReason };
}

async function runRefine({ request, deps, emit, signal }: RefineCall): Promise<RefinementAnswer> {
  const now = deps.now ?? Date.now;
  const startedAt = now();
  const created = Math.floor(startedAt / 1000);
  const info = findModel(deps.engine, request.model, 'model');
  const { id } = request;
  const seed = request.seed ?? (deps.drawSeed ?? drawSeed)();
  const prompt = createPromptRenderer(deps.pack, { generator: info.contextLength }).refine({
    problem: request.problem,
    attempt: request.attempt,
    feedback: request.feedback.text,
    verdict: request.feedback.verdict,
  });
  await emit({ type: 'refinement-start', id, created, model: info.name });
  let usage = noUsage;
  let timings = noTimings;
  const attempt = await writeAttempt(
    {
      id,
      prompt,
      model: request.model,
      contextLength: info.contextLength,
      role: resolveRole(deps.pack.defaults.generator, request),
      seed,
      priority: request.priority,
      previous: request.attempt,
    },
    {
      deps,
      findAnswer: createAnswerExtractor(deps.pack.answer),
      signal,
      budget: new TokenBudget(Number.POSITIVE_INFINITY),
      patience: new QueuePatience(),
      account: (reported, callTimings, reasoningTokens) => {
        usage = addUsage(usage, tokenUsage(reported, reasoningTokens));
        timings = addTimings(timings, callTimings);
      },
      onDelta: (text) => emit({ type: 'attempt-delta', text }),
    },
  );
  const answer: RefinementAnswer = {
    id,
    object: 'refinement',
    created,
    model: attempt.model,
    attempt: attempt.text,
    answer: attempt.answer,
    reasoning: attempt.reasoning,
    finishReason: attempt.finishReason,
    seed,
    usage,
    timings: { ...timings, totalMs: now() - startedAt },
  };
  await emit({ type: 'refinement-end', ...answer });
  return answer;
}
