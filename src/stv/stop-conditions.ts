/** When a chain stops: small predicates over its finished rounds, and the accept rules of the contract made of them. Pure. */
import type { AcceptRule, StopReason } from './solve-events.ts';
import type { Verdict } from './verdict.ts';
import { acceptsAtLeast, majority, type VoteRule } from './votes.ts';

export interface VerificationSummary {
  readonly verdict: Verdict;
  readonly score: number;
  readonly rawScore: number;
  /** Verdicts of the votes that were counted. */
  readonly votes: readonly Verdict[];
}

/** Verifications of the round's attempt, in order; at least one in a finished round. */
export type RoundHistory = readonly VerificationSummary[];

export interface ChainView {
  /** Finished rounds, from round 0 on. */
  readonly rounds: readonly RoundHistory[];
  readonly nowMs: number;
  /** Of the budget shared by all chains; Infinity without one. */
  readonly tokensLeft: number;
}

/** Why the chain stops, or undefined while it goes on. */
export type StopCondition = (view: ChainView) => StopReason | undefined;

function when(reason: StopReason, holds: (view: ChainView) => boolean): StopCondition {
  return (view) => (holds(view) ? reason : undefined);
}

/** The last verification of the last round. */
function latest({ rounds }: ChainView): VerificationSummary | undefined {
  return rounds.at(-1)?.at(-1);
}

export const accepted = (): StopCondition => when('accepted', (view) => latest(view)?.verdict === 'accept');

/** The same attempt has been accepted `k` times without another verdict between. */
export const acceptedInARow = (k: number): StopCondition =>
  when('accepted', ({ rounds }) => {
    const last = rounds.at(-1)?.slice(-k) ?? [];
    return last.length === k && last.every(({ verdict }) => verdict === 'accept');
  });

/** At least `k` of the votes of the last verification, `n` at most, accept. */
export const votes = (k: number, n: number): StopCondition =>
  when('accepted', (view) => {
    const cast = latest(view)?.votes.slice(0, n) ?? [];
    return cast.filter((verdict) => verdict === 'accept').length >= k;
  });

/** An undetermined verdict never accepts, however high its score. */
export const scoreAtLeast = (threshold: number): StopCondition =>
  when('accepted', (view) => {
    const verification = latest(view);
    return verification !== undefined && verification.verdict !== 'undetermined' && verification.score >= threshold;
  });

/** `undetermined` counts as a reject here: the chain goes on after it as after one. */
export const rejectedInARow = (n: number): StopCondition =>
  when('rejects_in_a_row', ({ rounds }) => {
    const last = rounds.slice(-n);
    return last.length === n && last.every((round) => round.at(-1)?.verdict !== 'accept');
  });

/** `n` refinements after the first attempt. */
export const maxRounds = (n: number): StopCondition => when('max_rounds', ({ rounds }) => rounds.length > n);

export const deadline = (atMs: number): StopCondition => when('deadline', ({ nowMs }) => nowMs >= atMs);

export const tokenBudget = (): StopCondition => when('token_budget', ({ tokensLeft }) => tokensLeft < 1);

/** The first of them that holds decides. */
export const firstOf =
  (...conditions: readonly StopCondition[]): StopCondition =>
  (view) => {
    for (const condition of conditions) {
      const reason = condition(view);
      if (reason !== undefined) return reason;
    }
    return undefined;
  };

/** How an accept rule is carried out: how many votes a verification casts, what they decide, and when the attempt is accepted. */
export interface AcceptPlan {
  readonly numVotes: number;
  readonly voteRule: VoteRule;
  /** Most verifications of the same attempt; they go on while each accepts. */
  readonly maxVerifications: number;
  readonly isAccepted: StopCondition;
}

export function planAccept(rule: AcceptRule): AcceptPlan {
  const plain: AcceptPlan = { numVotes: 1, voteRule: majority, maxVerifications: 1, isAccepted: accepted() };
  switch (rule.rule) {
    case 'single':
      return plain;
    case 'consecutive':
      return { ...plain, maxVerifications: rule.k, isAccepted: acceptedInARow(rule.k) };
    case 'votes':
      return { ...plain, numVotes: rule.n, voteRule: acceptsAtLeast(rule.k), isAccepted: votes(rule.k, rule.n) };
    case 'score':
      return { ...plain, isAccepted: scoreAtLeast(rule.threshold) };
  }
}
