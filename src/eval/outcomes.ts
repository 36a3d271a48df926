/** From what a run wrote to what was right in it: each attempt graded, and the state of a chain at any round. Pure. */
import { findFinalAnswer } from '../stv/final-answer.ts';
import { createLeakGuard } from '../stv/leak-guard.ts';
import { isRightAnswer } from './grade.ts';
import type { EvalProblem } from './problems.ts';
import type { ProblemRecord, RoundRecord, Verdict } from './record-types.ts';

export interface GradedRound {
  readonly isRight: boolean;
  readonly isAnswered: boolean;
  readonly verdict: Verdict | null;
  readonly score: number | null;
  readonly rawScore: number | null;
  readonly isAccepted: boolean;
  /** Whether the feedback on a wrong attempt states the right answer; null where there is no such feedback. */
  readonly leaks: boolean | null;
  /** Step that the verifier found wrong, from 1. */
  readonly firstError: number | null;
  readonly generatorTokens: number;
  readonly verifierTokens: number;
}

export interface GradedProblem {
  readonly id: string;
  readonly group: string | undefined;
  readonly bin: string | undefined;
  /** Whether the file gave the first attempt, so that round 0 says nothing about the generator. */
  readonly isGiven: boolean;
  /** The step that is wrong in a given attempt; null where none is; undefined where nobody has looked. */
  readonly firstError: number | null | undefined;
  /** Chains that made at least one attempt. */
  readonly chains: readonly (readonly GradedRound[])[];
}

/** Problems without a record are left out. */
export function gradeAll(problems: readonly EvalProblem[], records: readonly ProblemRecord[]): GradedProblem[] {
  const byId = groupById(records);
  return problems.flatMap((problem) => {
    const chains = (byId.get(problem.id) ?? []).flatMap((record) => record.chains);
    const graded = chains
      .map(({ rounds }) => rounds.map((round, index) => gradeRound(withAnswer(round, index, problem), problem)))
      .filter((rounds) => rounds.length > 0);
    if (graded.length === 0) return [];
    const { id, group, bin, attempt, firstError } = problem;
    const isGiven = attempt !== undefined;
    return [{ id, group, bin, isGiven, firstError: isGiven ? firstError : undefined, chains: graded }];
  });
}

function groupById(records: readonly ProblemRecord[]): Map<string, ProblemRecord[]> {
  const groups = new Map<string, ProblemRecord[]>();
  for (const record of records) groups.set(record.id, [...(groups.get(record.id) ?? []), record]);
  return groups;
}

/** A given attempt was not written for the pack, so its answer may stand anywhere. */
function withAnswer(round: RoundRecord, index: number, { attempt }: EvalProblem): RoundRecord {
  if (index > 0 || attempt === undefined || round.answer !== null) return round;
  return { ...round, answer: findFinalAnswer(attempt, { kind: 'boxed' }) ?? null };
}

function gradeRound(round: RoundRecord, problem: EvalProblem): GradedRound {
  const isRight = isRightAnswer(round.answer, problem.answer);
  return {
    isRight,
    isAnswered: round.answer !== null,
    verdict: round.verdict,
    score: round.score,
    rawScore: round.raw_score,
    isAccepted: round.accepted,
    leaks: isRight || (round.feedback ?? '') === '' ? null : leaksAnswer(round, problem),
    firstError: round.first_error,
    generatorTokens: round.generator_tokens,
    verifierTokens: round.verifier_tokens,
  };
}

function leaksAnswer({ attempt, feedback }: RoundRecord, { problem, answer }: EvalProblem): boolean {
  const guard = createLeakGuard({ reference: `\\boxed{${answer}}`, problem, solution: attempt }, { kind: 'boxed' });
  return guard.leaks(feedback ?? '');
}

/** The round that stands at `round`: what has been accepted or given up stays. */
export function stateAt(chain: readonly GradedRound[], round: number): GradedRound {
  // chains are never empty
  return chain[Math.min(round, chain.length - 1)] as GradedRound;
}

/** Whether the chain has been accepted by `round`. */
export function isAcceptedBy(chain: readonly GradedRound[], round: number): boolean {
  return chain.slice(0, round + 1).some(({ isAccepted }) => isAccepted);
}

/** Tokens of both roles up to and with `round`. */
export function tokensBy(chain: readonly GradedRound[], round: number): number {
  return chain
    .slice(0, round + 1)
    .reduce((sum, { generatorTokens, verifierTokens }) => sum + generatorTokens + verifierTokens, 0);
}
