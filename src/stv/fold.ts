/**
 * The JSON answer of each route is a fold over its stream. The fold of a run is pure and takes one event at a time: it is
 * what `GET` shows of a running one, what a run is resumed from, and at last the answer.
 */
import { StvError } from '../errors.ts';
import { compareAttempts, compareLast, type RankedAttempt } from './best-attempt.ts';
import type { RefineEvent, RefinementAnswer } from './refine.ts';
import type {
  AttemptRef,
  ChainRecord,
  ChainStatus,
  RoundRecord,
  RunningSolve,
  RunSummary,
  SolveAnswer,
  SolveErrorRecord,
  SolveEvent,
  SolveStart,
  SolveStatus,
  StopReason,
} from './solve-events.ts';
import type { RoundHistory } from './stop-conditions.ts';
import { addRoleUsage, addTimings, chargeRole, noRoleUsage, noTimings, type RoleUsage } from './usage.ts';
import type { VerificationAnswer, VerifyEvent } from './verify.ts';

interface RoundState {
  readonly verifications: RoundHistory;
  readonly finished: boolean;
}

/** What is known of a run after some of its events. Plain data. */
export interface SolveState {
  readonly lastEventId: number;
  /** The answer once the run has ended, else what `GET` shows of it. */
  readonly answer: SolveAnswer | RunningSolve;
  readonly start: SolveStart;
  /** By chain and round, as in `answer.chains`. */
  readonly history: readonly (readonly RoundState[])[];
}

/** The state after `event`; `undefined` is the state before the first one. Throws StvError `internal` on a stream that is none. */
export function foldSolve(state: SolveState | undefined, event: SolveEvent): SolveState {
  if (state === undefined) {
    if (event.type !== 'solve-start') throw broken('no solve-start');
    return begin(event);
  }
  if (state.answer.status !== 'running') throw broken('an event after solve-end');
  if (event.id !== state.lastEventId + 1) throw broken('a gap in the event ids');
  const next = { ...state, lastEventId: event.id };
  switch (event.type) {
    case 'solve-start':
      throw broken('a second solve-start');
    case 'attempt-delta':
    case 'verification-delta':
      return next;
    case 'solve-end': {
      const { type: _, solveId, ...answer } = event;
      return { ...next, answer: { ...answer, id: solveId } };
    }
    case 'round-start':
      return startRound(next, event);
    case 'attempt-start':
      return updateRound(next, event, (round) => ({
        ...round,
        seeds: { ...round.seeds, attempt: event.seed },
        promptHashes: { ...round.promptHashes, attempt: event.promptHash },
      }));
    case 'attempt-end':
      return updateRound(next, event, (round) => ({
        ...round,
        attempt: event.attempt,
        answer: event.answer,
        finishReason: event.finishReason,
        ...(event.logprobs === undefined ? {} : { logprobs: event.logprobs }),
        usage: chargeRole(round.usage, 'generator', event.usage),
        timings: addTimings(round.timings, event.timings),
      }));
    case 'verification-start':
      return updateRound(next, event, (round) => ({
        ...round,
        promptHashes: { ...round.promptHashes, verification: event.promptHash },
      }));
    case 'verification-end':
      return addVerification(next, event);
    case 'round-end': {
      const ended = updateRound(next, event, (round) => ({
        ...round,
        accepted: event.accepted,
        usage: event.usage,
        timings: event.timings,
      }));
      return markFinished(ended, event);
    }
  }
}

function broken(what: string): StvError {
  return new StvError('internal', `The events of a run do not fit together: ${what}.`);
}

function begin(event: SolveEvent & { type: 'solve-start' }): SolveState {
  const { type: _, id, solveId, ...start } = event;
  const chains = Array.from({ length: start.limits.chains }, (__, chain) => chain);
  return {
    lastEventId: id,
    start,
    history: chains.map(() => []),
    answer: {
      id: solveId,
      object: 'solve',
      created: start.created,
      models: start.models,
      status: 'running',
      stopReason: null,
      solution: null,
      answer: null,
      score: null,
      chain: null,
      round: null,
      chains: chains.map((chain) => ({ chain, status: 'running', stopReason: null, error: null, rounds: [] })),
      usage: noRoleUsage,
      seed: start.seed,
      metadata: start.metadata,
      timings: { ...noTimings, totalMs: 0 },
      error: null,
    },
  };
}

function startRound(
  state: SolveState,
  { chain, round, carried, models }: SolveEvent & { type: 'round-start' },
): SolveState {
  const before = state.answer.chains[chain]?.rounds;
  // a round that begins again takes the place of what is known of it
  if (before === undefined || round > before.length) throw broken('a round out of order');
  const record: RoundRecord = {
    round,
    ...(models === undefined ? {} : { models }),
    attempt: null,
    answer: null,
    finishReason: null,
    verdict: null,
    score: null,
    rawScore: null,
    accepted: false,
    feedback: null,
    firstError: null,
    votes: [],
    seeds: { attempt: null, votes: [] },
    promptHashes: { attempt: null, verification: null },
    usage: carried ?? noRoleUsage,
    timings: noTimings,
  };
  return withChain(state, chain, [...before.slice(0, round), record], (history) => [
    ...history.slice(0, round),
    { verifications: [], finished: false },
  ]);
}

/** Replaces the rounds of one chain and computes anew what follows from them. */
function withChain(
  state: SolveState,
  chain: number,
  rounds: readonly RoundRecord[],
  update: (history: readonly RoundState[]) => readonly RoundState[],
): SolveState {
  const chains = state.answer.chains.map((record) =>
    record.chain === chain
      ? { ...record, rounds, status: rounds.at(-1)?.accepted === true ? ('accepted' as const) : ('running' as const) }
      : record,
  );
  const all = chains.flatMap((record) => record.rounds);
  const timings = all.reduce((sum, round) => addTimings(sum, round.timings), noTimings);
  return {
    ...state,
    history: state.history.map((history, index) => (index === chain ? update(history) : history)),
    answer: {
      ...state.answer,
      status: 'running',
      chains,
      usage: sumUsage(chains),
      timings: { ...timings, totalMs: state.answer.timings.totalMs },
      ...solutionOf(chains, pickAttempt(chains, compareAttempts)),
    },
  };
}

function updateRound(
  state: SolveState,
  { chain, round }: AttemptRef,
  update: (round: RoundRecord) => RoundRecord,
): SolveState {
  const rounds = state.answer.chains[chain]?.rounds;
  const current = rounds?.at(-1);
  if (rounds === undefined || current?.round !== round) throw broken('an event of a round that is not under way');
  return withChain(state, chain, [...rounds.slice(0, -1), update(current)], (history) => history);
}

function addVerification(state: SolveState, event: SolveEvent & { type: 'verification-end' }): SolveState {
  const verifications = state.history[event.chain]?.[event.round]?.verifications ?? [];
  const all = [
    ...verifications,
    {
      verdict: event.verdict,
      score: event.score,
      rawScore: event.rawScore,
      votes: event.votes.map((vote) => vote.verdict),
    },
  ];
  const mean = (pick: (verification: (typeof all)[number]) => number): number =>
    all.reduce((sum, verification) => sum + pick(verification), 0) / all.length;
  const updated = updateRound(state, event, (round) => ({
    ...round,
    verdict: event.verdict,
    score: mean(({ score }) => score),
    rawScore: mean(({ rawScore }) => rawScore),
    feedback: event.feedback,
    firstError: event.firstError,
    votes: [...round.votes, ...event.votes],
    seeds: { ...round.seeds, votes: [...round.seeds.votes, ...event.votes.map(({ seed }) => seed)] },
    usage: chargeRole(round.usage, 'verifier', event.usage),
    timings: addTimings(round.timings, event.timings),
  }));
  return withHistory(updated, event, { verifications: all, finished: false });
}

function markFinished(state: SolveState, event: SolveEvent & { type: 'round-end' }): SolveState {
  const verifications = state.history[event.chain]?.[event.round]?.verifications ?? [];
  const ended = withHistory(state, event, { verifications, finished: event.finished });
  const totalMs = Math.max(event.elapsedMs, ended.answer.timings.totalMs);
  return { ...ended, answer: { ...ended.answer, timings: { ...ended.answer.timings, totalMs } } };
}

function withHistory(state: SolveState, { chain, round }: AttemptRef, entry: RoundState): SolveState {
  const history = state.history.map((rounds, index) => (index === chain ? rounds.with(round, entry) : rounds));
  return { ...state, history };
}

function sumUsage(chains: readonly ChainRecord[]): RoleUsage {
  return chains.flatMap(({ rounds }) => rounds).reduce((sum, { usage }) => addRoleUsage(sum, usage), noRoleUsage);
}

/** The best of all attempts that were written to their end, by `compare`. */
export function pickAttempt(
  chains: readonly ChainRecord[],
  compare: (a: RankedAttempt, b: RankedAttempt) => number,
): AttemptRef | null {
  const ranked = chains.flatMap(({ chain, rounds }) =>
    rounds
      .filter(({ attempt }) => attempt !== null)
      .map(({ round, accepted, score }): RankedAttempt => ({ chain, round, accepted, score })),
  );
  const [best] = ranked.sort(compare);
  return best === undefined ? null : { chain: best.chain, round: best.round };
}

function solutionOf(
  chains: readonly ChainRecord[],
  ref: AttemptRef | null,
): Pick<SolveAnswer, 'solution' | 'answer' | 'score' | 'chain' | 'round'> {
  const round = ref === null ? undefined : chains[ref.chain]?.rounds[ref.round];
  if (ref === null || round === undefined)
    return { solution: null, answer: null, score: null, chain: null, round: null };
  return { solution: round.attempt, answer: round.answer, score: round.score, chain: ref.chain, round: ref.round };
}

export interface ChainEnding {
  readonly status: ChainStatus;
  readonly stopReason: StopReason;
  /** Null but of a chain that failed. */
  readonly error: SolveErrorRecord | null;
}

export interface SolveEnding {
  readonly status: SolveStatus;
  readonly stopReason: StopReason;
  /** By chain. */
  readonly chains: readonly ChainEnding[];
  readonly error: SolveErrorRecord | null;
  readonly elapsedMs: number;
}

/** The answer of a run that ends so in `state`. */
export function endedAnswer(state: SolveState, ending: SolveEnding): SolveAnswer {
  const { answer, start } = state;
  const chains = answer.chains.map((record) => ({ ...record, ...ending.chains[record.chain] }));
  const isLast = ending.status === 'exhausted' && start.limits.onExhausted === 'last';
  const ref = ending.status === 'abstained' ? null : pickAttempt(chains, isLast ? compareLast : compareAttempts);
  return {
    ...answer,
    status: ending.status,
    stopReason: ending.stopReason,
    chains,
    ...solutionOf(chains, ref),
    timings: { ...answer.timings, totalMs: ending.elapsedMs },
    error: ending.error,
  };
}

/** What lists show once `events` have come; undefined where they change nothing of it. `state` is the fold of those before. */
export function summaryAfter(state: SolveState | undefined, events: readonly SolveEvent[]): RunSummary | undefined {
  if (!events.some(({ type }) => type === 'solve-start' || type === 'round-end' || type === 'solve-end'))
    return undefined;
  const after = events.reduce<SolveState | undefined>(foldSolve, state);
  if (after === undefined) return undefined;
  const { chains: _, ...summary } = after.answer;
  return summary;
}

/** Reads a verification to its end. Throws what the stream throws. */
export async function foldVerify(events: AsyncIterable<VerifyEvent>): Promise<VerificationAnswer> {
  for await (const event of events) {
    if (event.type !== 'verification-end') continue;
    const { type: _, ...answer } = event;
    return answer;
  }
  throw new StvError('internal', 'The verification ended without an answer.');
}

/** Reads a refinement to its end. Throws what the stream throws. */
export async function foldRefine(events: AsyncIterable<RefineEvent>): Promise<RefinementAnswer> {
  for await (const event of events) {
    if (event.type !== 'refinement-end') continue;
    const { type: _, ...answer } = event;
    return answer;
  }
  throw new StvError('internal', 'The refinement ended without an answer.');
}
