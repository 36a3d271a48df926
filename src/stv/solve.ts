/**
 * The verification-refinement loop as a stream of events: resolves the request, runs the chains side by side under the shared
 * budget and deadline, and ends with the fold of everything that was sent.
 */
import type { Engine } from '../engine/engine.ts';
import { runFailure, StvError } from '../errors.ts';
import { createAnswerExtractor } from './answer.ts';
import { type ResolvedRole, resolveRole } from './call-plan.ts';
import { AnotherAccepted, type ChainOutcome, type RunContext, runChain } from './chain.ts';
import { findModel } from './engine-call.ts';
import { isEngineAway } from './engine-return.ts';
import { type Emit, eventStream, linkAbort } from './event-stream.ts';
import { endedAnswer, foldSolve, type SolveEnding, type SolveState } from './fold.ts';
import type { LoopCallOptions, LoopDeps } from './loop-deps.ts';
import { createPromptRenderer } from './prompts.ts';
import { QueuePatience } from './queue-patience.ts';
import { drawSeed } from './seeds.ts';
import type {
  ResolvedSampling,
  SolveAnswer,
  SolveErrorRecord,
  SolveEvent,
  SolveEventBody,
  SolveRequest,
  SolveStart,
  StopReason,
} from './solve-events.ts';
import { noSpan, type Span, type SpanAttributes, withSpan } from './spans.ts';
import { deadline, firstOf, maxRounds, planAccept, rejectedInARow, tokenBudget } from './stop-conditions.ts';
import { TokenBudget } from './token-budget.ts';

export interface SolveOptions extends LoopCallOptions {
  /** Fold of the events that an interrupted run has already sent: it goes on after its finished rounds. */
  readonly resume?: SolveState | undefined;
}

/**
 * Runs the loop. Before `solve-start` a failure is thrown as StvError (unknown model, pack); after it the last event is always
 * one `solve-end`, whatever happens. Aborting the signal ends with status `cancelled`, and with stop reason `shutdown` if the
 * signal's reason is an StvError `draining`; leaving the iteration early cancels as well.
 */
export function solve(request: SolveRequest, deps: LoopDeps, options: SolveOptions = {}): AsyncGenerator<SolveEvent> {
  return eventStream<SolveEvent>((push, signal) => {
    const { resume, span = noSpan } = options;
    return withSpan(span, () => runSolve({ request, deps, resume, push, signal, span }), describeAnswer);
  }, options.signal);
}

interface SolveCall {
  readonly request: SolveRequest;
  readonly deps: LoopDeps;
  readonly resume: SolveState | undefined;
  readonly push: Emit<SolveEvent>;
  readonly signal: AbortSignal;
  readonly span: Span;
}

function describeAnswer({ status, stopReason, usage, chain, round, error }: Omit<SolveAnswer, 'id'>): SpanAttributes {
  return {
    'stv.status': status,
    'stv.stop_reason': stopReason ?? undefined,
    'stv.best.chain': chain ?? undefined,
    'stv.best.round': round ?? undefined,
    'stv.usage.total_tokens': usage.totalTokens,
    'error.type': error?.code,
  };
}

async function runSolve({ request, deps, resume, push, signal, span }: SolveCall): Promise<Omit<SolveAnswer, 'id'>> {
  const now = deps.now ?? Date.now;
  if (resume !== undefined && resume.answer.status !== 'running') {
    throw new StvError('conflict', 'The run has already ended.');
  }
  let roles: RunRoles | undefined;
  let start: SolveStart;
  if (resume === undefined) {
    roles = rolesOf(request, deps);
    start = describeStart(request, roles, now(), deps);
  } else start = resume.start;
  // A resumed run goes on by the clock on the wall: its seconds include those in which nothing ran.
  const startedAt = resume === undefined ? now() : start.created * 1000;
  const { tokens, seconds } = start.limits.budget;
  const endsAt = seconds === null ? Number.POSITIVE_INFINITY : startedAt + seconds * 1000;
  const accept = planAccept(start.limits.accept);

  let state = resume;
  const emit = async (body: SolveEventBody): Promise<void> => {
    const event: SolveEvent = { ...body, id: (state?.lastEventId ?? 0) + 1, solveId: request.id };
    state = foldSolve(state, event);
    await push(event);
  };
  const currentState = (): SolveState => {
    if (state === undefined) throw new StvError('internal', 'A run has no state before its first event.');
    return state;
  };
  const elapsedMs = (): number => Math.max(0, now() - startedAt);
  const contextWith = ({ generator, verifier }: RunRoles): RunContext => ({
    id: request.id,
    deps,
    prompts: createPromptRenderer(deps.pack, {
      generator: generator.contextLength,
      verifier: verifier.contextLength,
    }),
    findAnswer: createAnswerExtractor(deps.pack.answer),
    problem: request.problem,
    initialAttempt: request.initialAttempt,
    generator,
    verifier,
    accept,
    stop: firstOf(
      accept.isAccepted,
      maxRounds(start.limits.maxRounds),
      ...(start.limits.giveUp === null ? [] : [rejectedInARow(start.limits.giveUp.rejectsInARow)]),
      tokenBudget(),
      deadline(endsAt),
    ),
    seed: start.seed,
    withLogprobs: request.logprobs === true,
    span,
    priority: request.priority,
    budget: new TokenBudget(tokens ?? Number.POSITIVE_INFINITY, resume?.answer.usage.totalTokens ?? 0),
    patience: new QueuePatience(request.outlastsEngine === true),
    outlastsEngine: request.outlastsEngine === true,
    now,
    elapsedMs,
    emit,
    state: currentState,
  });

  if (resume === undefined) await emit({ type: 'solve-start', ...start });
  let ending: SolveEnding;
  try {
    const run = contextWith(roles ?? resumedRoles(start, request, deps));
    ending = describeEnding(await runChains(run, endsAt, signal), elapsedMs(), start);
  } catch (error) {
    if (roles === undefined && isEngineAway(error)) throw error; // nothing of it is lost: it is taken over again
    const status = signal.aborted ? 'cancelled' : 'failed';
    const stopReason = signal.aborted ? 'cancelled' : 'engine_error';
    const failure = signal.aborted ? null : describeError(error);
    ending = {
      status,
      stopReason,
      chains: Array.from({ length: start.limits.chains }, () => ({ status, stopReason, error: failure })),
      error: failure,
      elapsedMs: elapsedMs(),
    };
  }
  const { id: _, ...answer } = endedAnswer(currentState(), ending);
  await emit({ type: 'solve-end', ...answer });
  return answer;
}

type RunRoles = Pick<RunContext, 'generator' | 'verifier'>;
type AskedRoles = Pick<SolveRequest, 'generator' | 'verifier'>;

/** Throws StvError where a run's models are not served: `model_not_found`, or `not_ready` for the moment. */
export function checkModels(request: AskedRoles, engine: Engine): void {
  for (const role of ['generator', 'verifier'] as const) findModel(engine, request[role].model, `${role}.model`);
}

function rolesOf(asked: AskedRoles, { engine, pack }: LoopDeps): RunRoles {
  const fill = (role: 'generator' | 'verifier'): RunContext['generator'] => {
    const { model } = asked[role];
    const { name, contextLength } = findModel(engine, model, `${role}.model`);
    return { ...resolveRole(pack.defaults[role], asked[role]), model, name, contextLength };
  };
  return { generator: fill('generator'), verifier: fill('verifier') };
}

/**
 * A run that goes on has the sampling that it began with, whatever the default is by now, and its models. Where these are not served
 * here, as after an upgrade that converts weights anew, it goes on with what its request's names mean by now rather than be lost.
 */
function resumedRoles(start: SolveStart, request: AskedRoles, deps: LoopDeps): RunRoles {
  const served = new Set(deps.engine.models().map(({ name }) => name));
  const asked = (role: 'generator' | 'verifier'): AskedRoles['generator'] => {
    const begun = start.models[role];
    return { ...start[role], model: served.has(begun) ? begun : request[role].model };
  };
  return rolesOf({ generator: asked('generator'), verifier: asked('verifier') }, deps);
}

function describeStart(
  request: SolveRequest,
  { generator, verifier }: RunRoles,
  now: number,
  deps: LoopDeps,
): SolveStart {
  return {
    created: Math.floor(now / 1000),
    models: { generator: generator.name, verifier: verifier.name },
    problem: request.problem,
    initialAttempt: request.initialAttempt ?? null,
    limits: {
      maxRounds: request.maxRounds,
      chains: request.chains,
      accept: request.accept,
      giveUp: request.giveUp ?? null,
      budget: { tokens: request.budget?.tokens ?? null, seconds: request.budget?.seconds ?? null },
      onExhausted: request.onExhausted,
      stopChains: request.stopChains,
    },
    generator: describeSampling(generator),
    verifier: describeSampling(verifier),
    seed: request.seed ?? (deps.drawSeed ?? drawSeed)(),
    metadata: request.metadata ?? null,
  };
}

function describeSampling({ sampling, maxTokens }: ResolvedRole): ResolvedSampling {
  const { temperature, topP, topK, minP } = sampling;
  return { temperature, topP, topK, minP, maxTokens };
}

/** Longest delay that a timer takes. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** All chains side by side, each with a signal of its own; returns when all of them have ended. */
async function runChains(run: RunContext, endsAt: number, signal: AbortSignal): Promise<readonly ChainOutcome[]> {
  const { chains, stopChains } = run.state().start.limits;
  const all = linkAbort(signal);
  const remaining = endsAt - run.now();
  const timer =
    remaining > MAX_TIMER_MS
      ? undefined
      : setTimeout(
          () => all.abort(new StvError('deadline_exceeded', 'The time budget of the run is used up.')),
          Math.max(0, remaining),
        );
  const aborts = Array.from({ length: chains }, () => linkAbort(all.signal));
  try {
    return await Promise.all(
      aborts.map(async (abort, chain) => {
        const outcome = await runChain(chain, run, abort.signal);
        if (outcome.status === 'accepted' && stopChains === 'first_accept') {
          for (const other of aborts) if (other !== abort) other.abort(new AnotherAccepted());
        }
        return outcome;
      }),
    );
  } finally {
    clearTimeout(timer);
    for (const abort of aborts) abort.dispose();
    all.dispose();
  }
}

/** Of several reasons the one that says most about why no chain went on. */
const reasonsByWeight: readonly StopReason[] = ['deadline', 'token_budget', 'max_rounds', 'rejects_in_a_row'];

function describeEnding(outcomes: readonly ChainOutcome[], elapsedMs: number, start: SolveStart): SolveEnding {
  const ending = {
    chains: outcomes.map(({ status, stopReason, error }) => ({
      status,
      stopReason,
      error: status === 'failed' ? describeError(error) : null,
    })),
    error: null,
    elapsedMs,
  };
  const isAccepted = outcomes.some(({ status }) => status === 'accepted');
  const cancelled = outcomes.find(({ status }) => status === 'cancelled');
  // with `all`, a run that was cancelled from outside did not do what was asked, even if one of its chains was accepted
  if (isAccepted && (cancelled === undefined || start.limits.stopChains === 'first_accept')) {
    return { ...ending, status: 'accepted', stopReason: 'accepted' };
  }
  if (cancelled !== undefined) return { ...ending, status: 'cancelled', stopReason: cancelled.stopReason };
  if (outcomes.every(({ status }) => status === 'failed')) {
    return { ...ending, status: 'failed', stopReason: 'engine_error', error: ending.chains[0]?.error ?? null };
  }
  const stopReason = reasonsByWeight.find((reason) => outcomes.some((outcome) => outcome.stopReason === reason));
  const status = start.limits.onExhausted === 'abstain' ? 'abstained' : 'exhausted';
  return { ...ending, status, stopReason: stopReason ?? 'max_rounds' };
}

function describeError(error: unknown): SolveErrorRecord {
  const { message, code, param = null, retryAfterMs } = runFailure(error);
  return { message, code, param, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
}
