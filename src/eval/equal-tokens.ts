/**
 * What the same tokens buy without refinement: the first rounds of the chains are independent samples, so both controls are
 * exact expectations over subsets of them and cost no further generation. Pure.
 */
import { type GradedProblem, type GradedRound, stateAt, tokensBy } from './outcomes.ts';
import { bestOfN, type Draws, type Estimate, estimateRatio, resampleUntilAccepted, type Share } from './statistics.ts';

export interface EqualTokens {
  /** The refinement loop: one chain, mean of the chains. */
  readonly loop: { readonly pass_at_1: Estimate; readonly tokens: number };
  /** n samples, each verified once; the one with the highest score. */
  readonly best_of_n: Control;
  /** Fresh samples instead of refinements until one is accepted, n at most. */
  readonly resample: Control;
}

export interface Control {
  readonly n: number;
  readonly pass_at_1: Estimate;
  readonly tokens: number;
  /** pass@1 of the loop less that of the control, on the same problems. */
  readonly loop_gain: Estimate;
  /** The loop's tokens would have paid for more samples than there are chains. */
  readonly limited_by_samples: boolean;
}

/** Problems whose first attempt was given are left out; null where none is left. */
export function compareAtEqualTokens(
  all: readonly GradedProblem[],
  maxRounds: number,
  draws: Draws,
): EqualTokens | null {
  const sampled = all.filter(({ isGiven }) => !isGiven);
  if (sampled.length === 0) return null;
  const problems = all.map((problem) => (problem.isGiven ? undefined : toSamples(problem, maxRounds)));
  const present = problems.filter((problem) => problem !== undefined);
  const mean = (pick: (problem: Samples) => number): number =>
    present.reduce((sum, problem) => sum + pick(problem), 0) / present.length;
  const ratio = (value: (problem: Samples) => number): Estimate =>
    estimateRatio(
      problems.map((problem): Share => (problem === undefined ? [0, 0] : [value(problem), 1])),
      draws,
    );
  const fewest = Math.min(...present.map(({ samples }) => samples.length));
  const loopTokens = mean((problem) => problem.loopTokens);
  const control = (rightOf: (problem: Samples, n: number) => number, tokensOf: (n: number) => number): Control => {
    let n = 1;
    while (n < fewest && tokensOf(n + 1) <= loopTokens) n++;
    return {
      n,
      pass_at_1: ratio((problem) => rightOf(problem, n)),
      tokens: tokensOf(n),
      loop_gain: ratio((problem) => problem.loopRight - rightOf(problem, n)),
      // one sample more, if there were one, would cost as much again as the last
      limited_by_samples: n === fewest && tokensOf(n) + (tokensOf(n) - (n > 1 ? tokensOf(n - 1) : 0)) <= loopTokens,
    };
  };
  return {
    loop: { pass_at_1: ratio((problem) => problem.loopRight), tokens: loopTokens },
    best_of_n: control(
      ({ samples }, n) => bestOfN(samples, n),
      (n) => n * mean((problem) => problem.sampleTokens),
    ),
    resample: control(
      ({ samples }, n) => resampleUntilAccepted(samples, n).isRight,
      (n) => mean(({ samples, sampleTokens }) => sampleTokens * resampleUntilAccepted(samples, n).draws),
    ),
  };
}

interface Samples {
  readonly samples: readonly { readonly score: number; readonly isRight: boolean; readonly isAccepted: boolean }[];
  /** Mean tokens of one sample with its verification. */
  readonly sampleTokens: number;
  readonly loopTokens: number;
  readonly loopRight: number;
}

function toSamples({ chains }: GradedProblem, maxRounds: number): Samples {
  const mean = (pick: (chain: readonly GradedRound[]) => number): number =>
    chains.reduce((sum, chain) => sum + pick(chain), 0) / chains.length;
  return {
    samples: chains.map((chain) => {
      const { score, isRight, isAccepted } = stateAt(chain, 0);
      return { score: score ?? 0, isRight, isAccepted };
    }),
    sampleTokens: mean((chain) => tokensBy(chain, 0)),
    loopTokens: mean((chain) => tokensBy(chain, maxRounds)),
    loopRight: mean((chain) => Number(stateAt(chain, maxRounds).isRight)),
  };
}
