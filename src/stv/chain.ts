/** One chain of a run: attempt, verify, stop?, refine. State is Markov: a prompt sees the last attempt and its feedback only. */
import type { Timings, Usage } from '../engine/engine.ts';
import { type ErrorCode, StvError } from '../errors.ts';
import type { AnswerExtractor } from './answer.ts';
import { writeAttempt } from './attempt.ts';
import { compareAttempts } from './best-attempt.ts';
import { BudgetExhausted, type ResolvedRole } from './call-plan.ts';
import { throwIfAborted } from './engine-call.ts';
import { engineBack, isEngineAway } from './engine-return.ts';
import { type ChainEnding, pickAttempt, type SolveState } from './fold.ts';
import type { LoopDeps, Priority } from './loop-deps.ts';
import { type PromptRenderer, promptHash, type RenderedPrompt } from './prompts.ts';
import type { QueuePatience } from './queue-patience.ts';
import { deriveSeed } from './seeds.ts';
import type { Models, RoundRecord, SolveEventBody, StopReason } from './solve-events.ts';
import { type Span, usageAttributes, withSpan } from './spans.ts';
import type { AcceptPlan, ChainView, RoundHistory, StopCondition, VerificationSummary } from './stop-conditions.ts';
import type { TokenBudget } from './token-budget.ts';
import {
  addTimings,
  addUsage,
  chargeRole,
  noRoleUsage,
  noTimings,
  noUsage,
  type Role,
  type RoleUsage,
  type TokenUsage,
  tokenUsage,
} from './usage.ts';
import { type VerificationOutcome, verifySolution } from './verification.ts';

/** A role of the run with everything filled in. */
interface RunRole extends ResolvedRole {
  readonly model: string;
  /** Full name of the weights. */
  readonly name: string;
  readonly contextLength: number;
}

/** What the chains of a run share. */
export interface RunContext {
  readonly id: string;
  readonly deps: LoopDeps;
  readonly prompts: PromptRenderer;
  readonly findAnswer: AnswerExtractor;
  readonly problem: string;
  readonly initialAttempt: string | undefined;
  readonly generator: RunRole;
  readonly verifier: RunRole;
  readonly accept: AcceptPlan;
  readonly stop: StopCondition;
  readonly seed: number;
  readonly withLogprobs: boolean;
  readonly span: Span;
  readonly priority: Priority;
  readonly budget: TokenBudget;
  readonly patience: QueuePatience;
  /** Whether a round that the engine's end broke off is played again when there is another engine. */
  readonly outlastsEngine: boolean;
  readonly now: () => number;
  /** Since the run was created, milliseconds. */
  readonly elapsedMs: () => number;
  readonly emit: (event: SolveEventBody) => Promise<void>;
  /** Fold of everything emitted so far: the chains keep no state of their own. */
  readonly state: () => SolveState;
}

/** How a chain ended, with what it failed by. */
export type ChainOutcome = Omit<ChainEnding, 'error'> & { readonly error?: unknown };

/** Why a chain is aborted when another one has been accepted. */
export class AnotherAccepted extends Error {}

/** Runs the chain from where the state leaves it to its end. Never throws for what the engine or a model does. */
export async function runChain(chain: number, run: RunContext, signal: AbortSignal): Promise<ChainOutcome> {
  try {
    for (;;) {
      const view = viewChain(chain, run);
      const reason = run.stop(view);
      if (reason !== undefined) return endFor(reason);
      throwIfAborted(signal);
      try {
        await playRound(chain, view, run, signal);
      } catch (error) {
        if (!run.outlastsEngine || signal.aborted || !isEngineAway(error)) throw error;
        await engineBack(run.deps.engine, signal);
      }
    }
  } catch (error) {
    if (signal.aborted) return endForAbort(signal.reason);
    if (error instanceof BudgetExhausted) return endFor('token_budget');
    return { status: 'failed', stopReason: 'engine_error', error };
  }
}

function endFor(stopReason: StopReason): ChainOutcome {
  const isAccepted = stopReason === 'accepted';
  return { status: isAccepted ? 'accepted' : stopReason === 'rejects_in_a_row' ? 'gave_up' : 'exhausted', stopReason };
}

function endForAbort(reason: unknown): ChainOutcome {
  const code: ErrorCode | undefined = reason instanceof StvError ? reason.code : undefined;
  if (code === 'deadline_exceeded') return endFor('deadline');
  return { status: 'cancelled', stopReason: code === 'draining' ? 'shutdown' : 'cancelled' };
}

/** Rounds of the chain that are finished; one that was broken off is played again. */
function viewChain(chain: number, run: RunContext): ChainView {
  const rounds = (run.state().history[chain] ?? []).filter(({ finished }) => finished);
  return {
    rounds: rounds.map(({ verifications }) => verifications),
    nowMs: run.now(),
    tokensLeft: run.budget.left,
  };
}

/** Counts what a round costs, whatever becomes of it. */
class RoundLedger {
  usage: RoleUsage;
  timings: Timings = noTimings;

  constructor(carried: RoleUsage | null) {
    this.usage = carried ?? noRoleUsage;
  }

  add(role: Role, usage: TokenUsage, timings: Timings): void {
    this.usage = chargeRole(this.usage, role, usage);
    this.timings = addTimings(this.timings, timings);
  }
}

async function playRound(chain: number, view: ChainView, run: RunContext, signal: AbortSignal): Promise<void> {
  const round = view.rounds.length;
  const records = run.state().answer.chains[chain]?.rounds ?? [];
  const carried = records[round]?.usage ?? null;
  const ledger = new RoundLedger(carried);
  let isFinished = false;
  let isAccepted = false;
  let failure: unknown;
  const span = run.span.child('round', { 'stv.chain': chain, 'stv.round': round });
  await run.emit({ type: 'round-start', chain, round, carried, ...otherModels(run) });
  try {
    const attempt = await makeAttempt({ chain, round, last: records[round - 1], run, signal, ledger, span });
    const verifications = await verifyAttempt({ chain, round, attempt, view, run, signal, ledger, span });
    isFinished = true;
    isAccepted = run.accept.isAccepted({ ...view, rounds: [...view.rounds, verifications] }) !== undefined;
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    span.end({ 'stv.accepted': isAccepted, 'stv.usage.total_tokens': ledger.usage.totalTokens }, failure);
    const chains = run.state().answer.chains.map((record) =>
      record.chain !== chain
        ? record
        : {
            ...record,
            rounds: record.rounds.map((other) => (other.round === round ? { ...other, accepted: isAccepted } : other)),
          },
    );
    await run.emit({
      type: 'round-end',
      chain,
      round,
      finished: isFinished,
      accepted: isAccepted,
      best: pickAttempt(chains, compareAttempts),
      usage: ledger.usage,
      timings: ledger.timings,
      elapsedMs: run.elapsedMs(),
    });
  }
}

/** A run that was taken over may go on with others than it began with. */
function otherModels({ generator, verifier, state }: RunContext): { readonly models?: Models } {
  const begun = state().start.models;
  const models = { generator: generator.name, verifier: verifier.name };
  return begun.generator === models.generator && begun.verifier === models.verifier ? {} : { models };
}

interface RoundPart {
  readonly chain: number;
  readonly round: number;
  readonly run: RunContext;
  readonly signal: AbortSignal;
  readonly ledger: RoundLedger;
  readonly span: Span;
}

/** Attempt y_r: the caller's own, the first, or one refined from the last round's. */
async function makeAttempt({
  chain,
  round,
  last,
  run,
  signal,
  ledger,
  span,
}: RoundPart & { last: RoundRecord | undefined }): Promise<string> {
  const { emit, generator } = run;
  if (round === 0 && run.initialAttempt !== undefined) {
    const attempt = run.initialAttempt;
    const answer = run.findAnswer(attempt) ?? null;
    await emit({ type: 'attempt-start', chain, round, seed: null, promptHash: null });
    await emit({
      type: 'attempt-end',
      chain,
      round,
      attempt,
      answer,
      finishReason: 'stop',
      usage: noUsage,
      timings: noTimings,
    });
    return attempt;
  }
  const prompt = firstOrRefine(run, last);
  const seed = deriveSeed(run.seed, { chain, round, role: 'generator', vote: 0 });
  await emit({ type: 'attempt-start', chain, round, seed, promptHash: promptHash(prompt) });
  let usage = noUsage;
  let timings = noTimings;
  const write = () =>
    writeAttempt(
      {
        ...generator,
        role: generator,
        id: `${run.id}-c${chain}-r${round}-a`,
        prompt,
        seed,
        priority: run.priority,
        previous: last?.attempt ?? undefined,
        withLogprobs: run.withLogprobs,
      },
      {
        deps: run.deps,
        findAnswer: run.findAnswer,
        signal,
        budget: run.budget,
        patience: run.patience,
        account: (reported: Usage, callTimings, reasoningTokens) => {
          usage = addUsage(usage, tokenUsage(reported, reasoningTokens));
          timings = addTimings(timings, callTimings);
          ledger.add('generator', tokenUsage(reported, reasoningTokens), callTimings);
        },
        onDelta: (text) => emit({ type: 'attempt-delta', chain, round, text }),
      },
    );
  const { text, answer, finishReason, tokens } = await withSpan(
    span.child('generate', { 'gen_ai.request.model': generator.name }),
    write,
    (attempt) => ({ ...usageAttributes(usage), 'stv.finish_reason': attempt.finishReason }),
  );
  const logprobs = tokens === undefined ? {} : { logprobs: tokens };
  await emit({ type: 'attempt-end', chain, round, attempt: text, answer, finishReason, ...logprobs, usage, timings });
  return text;
}

function firstOrRefine({ prompts, problem }: RunContext, last: RoundRecord | undefined): RenderedPrompt {
  if (last === undefined) return prompts.attempt(problem);
  return prompts.refine({
    problem,
    attempt: last.attempt ?? '',
    feedback: last.feedback ?? '',
    verdict: last.verdict ?? 'undetermined',
  });
}

/** Verifies the attempt as often as the accept rule wants it; each but the last verification accepts. */
async function verifyAttempt({
  chain,
  round,
  attempt,
  view,
  run,
  signal,
  ledger,
  span,
}: RoundPart & { attempt: string; view: ChainView }): Promise<RoundHistory> {
  const { accept, deps, emit, verifier } = run;
  const verifications: VerificationSummary[] = [];
  const prompt = run.prompts.verify({ problem: run.problem, solution: attempt });
  const hash = promptHash(prompt);
  for (let firstVote = 0; ; firstVote += accept.numVotes) {
    await emit({ type: 'verification-start', chain, round, promptHash: hash });
    let usage = noUsage;
    let timings = noTimings;
    const part = span.child('verify', { 'gen_ai.request.model': verifier.name });
    const verifyOnce = () =>
      verifySolution(
        {
          ...verifier,
          role: verifier,
          id: `${run.id}-c${chain}-r${round}-n${firstVote}`,
          problem: run.problem,
          solution: attempt,
          prompt,
          mode: 'full',
          numVotes: accept.numVotes,
          earlyStop: true,
          rule: accept.voteRule,
          seedOf: (vote) => deriveSeed(run.seed, { chain, round, role: 'verifier', vote: firstVote + vote }),
          priority: run.priority,
          // it costs a prompt per step: with a token budget the attempts are worth more
          scorePrefixes: !run.budget.isLimited,
          withLogprobs: run.withLogprobs,
        },
        {
          deps,
          prompts: run.prompts,
          signal,
          budget: run.budget,
          patience: run.patience,
          account: (reported, callTimings) => {
            usage = addUsage(usage, tokenUsage(reported));
            timings = addTimings(timings, callTimings);
            ledger.add('verifier', tokenUsage(reported), callTimings);
          },
          onDelta: (vote, text) => emit({ type: 'verification-delta', chain, round, vote: firstVote + vote, text }),
          onVote: async () => undefined,
          span: part,
        },
      );
    const outcome: VerificationOutcome = await withSpan(part, verifyOnce, ({ verdict, score, votes }) => ({
      ...usageAttributes(usage),
      'stv.verdict': verdict,
      'stv.score': score,
      'stv.votes': votes.length,
    }));
    const { leak: _, model: __, ...record } = outcome;
    await emit({ type: 'verification-end', chain, round, ...record, usage, timings });
    verifications.push({
      verdict: outcome.verdict,
      score: outcome.score,
      rawScore: outcome.rawScore,
      votes: outcome.votes.map(({ verdict }) => verdict),
    });
    const rounds = [...view.rounds, verifications];
    const isSettled = outcome.verdict !== 'accept' || verifications.length >= accept.maxVerifications;
    if (isSettled || accept.isAccepted({ ...view, rounds }) !== undefined) return verifications;
  }
}
