/** What one reading of the verdict words says. The verdict is elicited by the server, never parsed out of a text. */
import type { VerdictFormat } from './loop-pack.ts';

export type Verdict = 'accept' | 'reject' | 'undetermined';

export interface VerdictReading {
  readonly verdict: Verdict;
  /** P(accept) among the verdict words; 0.5 when none of them has any probability. */
  readonly rawScore: number;
  /** Probability that the words hold together. */
  readonly mass: number;
}

/** The words to score, in the order that `readVerdict` expects. */
export function verdictCandidates({ words }: VerdictFormat): readonly string[] {
  return words.undetermined === undefined
    ? [words.accept, words.reject]
    : [words.accept, words.reject, words.undetermined];
}

/**
 * `logprobs` of the candidates, natural. `undetermined` when the words hold less than the format's minimum mass, when the
 * third word is the most likely one, or when two lead with equal probability.
 */
export function readVerdict({ minMass }: VerdictFormat, logprobs: readonly number[]): VerdictReading {
  const logs = logprobs.map((logprob) => (Number.isNaN(logprob) ? Number.NEGATIVE_INFINITY : logprob));
  const highest = Math.max(...logs);
  if (highest === Number.NEGATIVE_INFINITY) return { verdict: 'undetermined', rawScore: 0.5, mass: 0 };
  // relative to the highest, so that very unlikely words still compare
  const shares = logs.map((log) => Math.exp(log - highest));
  const total = shares.reduce((sum, share) => sum + share, 0);
  const mass = total * Math.exp(highest);
  const rawScore = (shares[0] ?? 0) / total;
  const leaders = logs.flatMap((log, index) => (log === highest ? [index] : []));
  const order: readonly Verdict[] = ['accept', 'reject', 'undetermined'];
  const verdict = leaders.length === 1 && mass >= minMass ? order[leaders[0] ?? 2] : 'undetermined';
  return { verdict: verdict ?? 'undetermined', rawScore, mass };
}
