/**
 * What the page knows of a run: the fold of its events. The state is changed in place, because a delta comes for every token;
 * who shows it is told which round has changed.
 */
import type { FirstError, SolveEvent } from '../src/client/client.ts';

type DataOf<N extends SolveEvent['event']> = Extract<SolveEvent, { readonly event: N }>['data'];

export type SolveStart = DataOf<'solve-start'>;
export type SolveEnd = DataOf<'solve-end'>;
export type VerificationEnd = DataOf<'verification-end'>;

/** One verification of a round. Rule `consecutive` makes several follow one another. */
export interface VerificationView {
  /** What each vote has written so far. */
  readonly texts: string[];
  end: VerificationEnd | undefined;
}

export interface RoundView {
  readonly chain: number;
  readonly round: number;
  /** The attempt came with the request and cost no generation. */
  isGiven: boolean;
  attempt: string;
  answer: string | null;
  isAttemptEnded: boolean;
  readonly verifications: VerificationView[];
  isEnded: boolean;
  isAccepted: boolean;
  tokens: number;
}

export interface RunView {
  id: string | undefined;
  start: SolveStart | undefined;
  /** By chain, then by round. */
  readonly chains: RoundView[][];
  best: { readonly chain: number; readonly round: number } | null;
  end: SolveEnd | undefined;
}

export function emptyRun(): RunView {
  return { id: undefined, start: undefined, chains: [], best: null, end: undefined };
}

/** A run's events: they come, they are being asked for again, or they are given up. */
export type StreamState = 'up' | 'down' | 'lost';

/** How the page stands to the run that it shows. */
export type Phase = 'connecting' | 'live' | 'reconnecting' | 'stopping' | 'ended' | 'lost';

export function phaseOf(run: RunView, stream: StreamState, isStopping: boolean): Phase {
  if (run.end !== undefined) return 'ended';
  if (stream !== 'up') return stream === 'down' ? 'reconnecting' : 'lost';
  if (run.start === undefined) return 'connecting';
  return isStopping ? 'stopping' : 'live';
}

/** Takes one event in; returns the round that it belongs to. */
export function applyEvent(run: RunView, { event, data }: SolveEvent): RoundView | undefined {
  switch (event) {
    case 'solve-start':
      run.id = data.solve_id;
      run.start = data;
      for (let chain = 0; chain < data.limits.chains; chain++) run.chains[chain] ??= [];
      return undefined;
    case 'solve-end':
      run.end = data;
      return undefined;
    case 'round-start': {
      // a round that repeats takes the place of what there was of it
      const round = newRound(data.chain, data.round, data.carried?.total_tokens ?? 0);
      run.chains[data.chain] ??= [];
      run.chains[data.chain]?.splice(data.round, Number.POSITIVE_INFINITY, round);
      return round;
    }
    default: {
      const round = run.chains[data.chain]?.[data.round];
      if (round !== undefined) applyToRound(run, round, event, data);
      return round;
    }
  }
}

type RoundEvent = Exclude<SolveEvent['event'], 'solve-start' | 'solve-end' | 'round-start'>;

function applyToRound(run: RunView, round: RoundView, event: RoundEvent, given: DataOf<RoundEvent>): void {
  const current = round.verifications.at(-1);
  switch (event) {
    case 'attempt-start':
      round.isGiven = (given as DataOf<typeof event>).prompt_hash === null;
      break;
    case 'attempt-delta':
      round.attempt += (given as DataOf<typeof event>).text;
      break;
    case 'attempt-end': {
      const data = given as DataOf<typeof event>;
      round.attempt = data.attempt;
      round.answer = data.answer;
      round.isAttemptEnded = true;
      round.tokens += data.usage.total_tokens;
      break;
    }
    case 'verification-start':
      round.verifications.push({ texts: [], end: undefined });
      break;
    case 'verification-delta': {
      const data = given as DataOf<typeof event>;
      if (current !== undefined) current.texts[data.vote] = (current.texts[data.vote] ?? '') + data.text;
      break;
    }
    case 'verification-end': {
      const data = given as DataOf<typeof event>;
      if (current !== undefined) current.end = data;
      round.tokens += data.usage.total_tokens;
      break;
    }
    case 'round-end': {
      const data = given as DataOf<typeof event>;
      round.isEnded = true;
      round.isAccepted = data.accepted;
      round.tokens = data.usage.total_tokens;
      run.best = data.best;
      break;
    }
  }
}

function newRound(chain: number, round: number, carriedTokens: number): RoundView {
  return {
    chain,
    round,
    isGiven: false,
    attempt: '',
    answer: null,
    isAttemptEnded: false,
    verifications: [],
    isEnded: false,
    isAccepted: false,
    tokens: carriedTokens,
  };
}

/** Tokens of both roles: exact at the end, of what has been reported until then. */
export function tokensOf(run: RunView): number {
  if (run.end !== undefined) return run.end.usage.total_tokens;
  return run.chains.flat().reduce((sum, round) => sum + round.tokens, 0);
}

/** Where a stopped run can be taken up: its best attempt, else the last whole one. */
export function attemptToResume(run: RunView): RoundView | undefined {
  const { best } = run;
  const isBlank = (round: RoundView): boolean => round.attempt.trim() === '';
  const found = best === null ? undefined : run.chains[best.chain]?.[best.round];
  const whole = run.chains.flat().filter((round) => round.isAttemptEnded && !isBlank(round));
  return found === undefined || isBlank(found) ? whole.at(-1) : found;
}

/** The pieces of an attempt around its first wrong step. Offsets count UTF-16 units, as in JavaScript. */
export function markedPieces(
  attempt: string,
  error: FirstError | null,
): { readonly before: string; readonly wrong: string; readonly after: string } {
  if (error === null || error.end > attempt.length || error.start >= error.end) {
    return { before: attempt, wrong: '', after: '' };
  }
  return {
    before: attempt.slice(0, error.start),
    wrong: attempt.slice(error.start, error.end),
    after: attempt.slice(error.end),
  };
}
