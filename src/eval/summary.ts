/**
 * The figures of an evaluation. Round r stands for the state of a chain after r refinements: what has been accepted is frozen.
 * Every figure is over problems (chains are averaged first) unless its name says otherwise. Pure.
 */
import {
  binSums,
  calibrationError,
  type Forecast,
  fitTemperature,
  type ReliabilityBin,
  reliability,
  withTemperature,
} from './calibration.ts';
import { compareAtEqualTokens, type EqualTokens } from './equal-tokens.ts';
import { type GradedProblem, type GradedRound, isAcceptedBy, stateAt, tokensBy } from './outcomes.ts';
import {
  type Draws,
  drawProblems,
  type Estimate,
  estimate,
  estimateRatio,
  passAtK,
  reflect,
  type Share,
} from './statistics.ts';

export interface RoundFigures {
  readonly round: number;
  readonly pass_at_1: Estimate;
  /** Share of chains that have been accepted by this round. */
  readonly accept_rate: Estimate;
  /** accept_rate - pass_at_1: what the verifier accepts beyond what is right. */
  readonly inflation_gap: Estimate;
  /** Share of the accepted chains that are right. */
  readonly precision: Estimate;
  /** Tokens of both roles up to this round, mean of the chains. */
  readonly tokens: number;
}

interface CalibrationFigures {
  readonly ece: Estimate;
  readonly brier: Estimate;
  readonly reliability: readonly ReliabilityBin[];
}

export interface Summary {
  readonly problems: number;
  readonly chains: number;
  readonly rounds: readonly RoundFigures[];
  readonly pass_at_k: readonly { readonly k: number; readonly first: Estimate; readonly final: Estimate }[];
  /** Over all verifications, by whether the attempt was right. */
  readonly verdicts: {
    readonly verifications: number;
    readonly accept_when_right: Estimate;
    readonly reject_when_wrong: Estimate;
    readonly undetermined_when_right: Estimate;
    readonly undetermined_when_wrong: Estimate;
    readonly balanced_accuracy: Estimate;
  };
  /** `raw`: P(accept) as read; `served`: with the pack's calibration; `fitted`: raw with a temperature from the other half. */
  readonly calibration: {
    readonly raw: CalibrationFigures;
    readonly served: CalibrationFigures;
    readonly fitted: CalibrationFigures & { readonly temperature: number };
  } | null;
  /** Of accepted chains in order of their score: how many are kept, and how many of those are right. */
  readonly precision_coverage: readonly {
    readonly threshold: number;
    readonly coverage: number;
    readonly precision: number;
  }[];
  /** On given attempts whose first wrong step is known. */
  readonly first_error: {
    readonly located_when_wrong: Estimate;
    readonly accepted_when_right: Estimate;
    /** Harmonic mean of the two. */
    readonly f1: number | null;
  } | null;
  readonly equal_tokens: EqualTokens | null;
  /** Per refinement of a wrong (right) attempt. */
  readonly flips: { readonly wrong_to_right: Estimate; readonly right_to_wrong: Estimate };
  /** Share of the feedback on wrong attempts that states the right answer. */
  readonly answer_leaks: Estimate;
  /** Share of the attempts in which no final answer was found. */
  readonly unanswered: Estimate;
  readonly tokens: {
    readonly generator: number;
    readonly verifier: number;
    /** Tokens of all chains for each chain that ends right. */
    readonly per_solved_chain: number | null;
  };
}

export interface SummaryOptions {
  readonly maxRounds: number;
  readonly seed: number;
  /** Draws of the bootstrap. */
  readonly resamples: number;
}

export function summarize(problems: readonly GradedProblem[], options: SummaryOptions): Summary {
  const draws = drawProblems(problems.length, options.resamples, options.seed);
  const rounds = Array.from({ length: options.maxRounds + 1 }, (_, round) => roundFigures(problems, round, draws));
  const chains = problems.flatMap((problem) => problem.chains);
  const all = chains.flat();
  const numSolved = chains.filter((chain) => stateAt(chain, options.maxRounds).isRight).length;
  const sum = (pick: (round: GradedRound) => number): number => all.reduce((total, one) => total + pick(one), 0);
  const [generator, verifier] = [sum((one) => one.generatorTokens), sum((one) => one.verifierTokens)];
  const perRound = (select: (round: GradedRound) => boolean, counts: (round: GradedRound) => boolean): Estimate =>
    estimateRatio(
      problems.map((problem) => shareOf(problem.chains.flat().filter(select), counts)),
      draws,
    );
  return {
    problems: problems.length,
    chains: chains.length,
    rounds,
    pass_at_k: passAtKFigures(problems, options.maxRounds, draws),
    verdicts: verdictFigures(problems, draws),
    calibration: calibrationFigures(problems, draws),
    precision_coverage: precisionCoverage(chains, options.maxRounds),
    first_error: firstErrorFigures(problems, draws),
    equal_tokens: compareAtEqualTokens(problems, options.maxRounds, draws),
    flips: { wrong_to_right: flips(problems, false, draws), right_to_wrong: flips(problems, true, draws) },
    answer_leaks: perRound(
      ({ leaks }) => leaks !== null,
      ({ leaks }) => leaks === true,
    ),
    unanswered: perRound(
      () => true,
      ({ isAnswered }) => !isAnswered,
    ),
    tokens: { generator, verifier, per_solved_chain: numSolved === 0 ? null : (generator + verifier) / numSolved },
  };
}

function shareOf<T>(of: readonly T[], counts: (one: T) => boolean): Share {
  return [of.filter(counts).length, of.length];
}

/** Mean over the chains of each problem. */
function overChains(
  problems: readonly GradedProblem[],
  value: (chain: readonly GradedRound[]) => number,
  draws: Draws,
): Estimate {
  return estimateRatio(
    problems.map(({ chains }): Share => [chains.reduce((sum, chain) => sum + value(chain), 0) / chains.length, 1]),
    draws,
  );
}

function roundFigures(problems: readonly GradedProblem[], round: number, draws: Draws): RoundFigures {
  const right = (chain: readonly GradedRound[]): number => Number(stateAt(chain, round).isRight);
  const accepted = (chain: readonly GradedRound[]): number => Number(isAcceptedBy(chain, round));
  const chains = problems.flatMap((problem) => problem.chains);
  return {
    round,
    pass_at_1: overChains(problems, right, draws),
    accept_rate: overChains(problems, accepted, draws),
    inflation_gap: overChains(problems, (chain) => accepted(chain) - right(chain), draws),
    precision: estimateRatio(
      problems.map((problem) =>
        shareOf(
          problem.chains.filter((chain) => isAcceptedBy(chain, round)),
          (chain) => stateAt(chain, round).isRight,
        ),
      ),
      draws,
    ),
    tokens: chains.reduce((sum, chain) => sum + tokensBy(chain, round), 0) / Math.max(1, chains.length),
  };
}

function passAtKFigures(problems: readonly GradedProblem[], maxRounds: number, draws: Draws): Summary['pass_at_k'] {
  const fewest = Math.min(...problems.map(({ chains }) => chains.length));
  const ks: number[] = [];
  for (let k = 1; k <= fewest && problems.length > 0; k *= 2) ks.push(k);
  const at = (k: number, round: number): Estimate =>
    estimateRatio(
      problems.map(({ chains }): Share => {
        const numRight = chains.filter((chain) => stateAt(chain, round).isRight).length;
        return [passAtK(chains.length, numRight, k), 1];
      }),
      draws,
    );
  return ks.map((k) => ({ k, first: at(k, 0), final: at(k, maxRounds) }));
}

function verdictFigures(problems: readonly GradedProblem[], draws: Draws): Summary['verdicts'] {
  const verified = problems.map(({ chains }) => chains.flat().filter(({ verdict }) => verdict !== null));
  const shares = (isRight: boolean, wanted: GradedRound['verdict']): Share[] =>
    verified.map((rounds) =>
      shareOf(
        rounds.filter((round) => round.isRight === isRight),
        ({ verdict }) => verdict === wanted,
      ),
    );
  const [accepts, rejects] = [shares(true, 'accept'), shares(false, 'reject')];
  const ratio = (of: readonly Share[], at: ArrayLike<number>): number => {
    let [numerator, denominator] = [0, 0];
    for (let index = 0; index < at.length; index++) {
      const share = of[at[index] as number];
      numerator += share?.[0] ?? 0;
      denominator += share?.[1] ?? 0;
    }
    return numerator / denominator;
  };
  return {
    verifications: verified.flat().length,
    accept_when_right: estimateRatio(accepts, draws),
    reject_when_wrong: estimateRatio(rejects, draws),
    undetermined_when_right: estimateRatio(shares(true, 'undetermined'), draws),
    undetermined_when_wrong: estimateRatio(shares(false, 'undetermined'), draws),
    balanced_accuracy: estimate((at) => (ratio(accepts, at) + ratio(rejects, at)) / 2, problems, draws),
  };
}

function calibrationFigures(problems: readonly GradedProblem[], draws: Draws): Summary['calibration'] {
  const forecastsOf = (pick: (round: GradedRound) => number | null): Forecast[][] =>
    problems.map(({ chains }) =>
      chains.flat().flatMap((round) => {
        const score = pick(round);
        return score === null ? [] : [{ score, isRight: round.isRight }];
      }),
    );
  const raw = forecastsOf(({ rawScore }) => rawScore);
  if (raw.flat().length === 0) return null;
  // each half gets the temperature of the other, so that none is judged by what it was fitted on
  const halves = [0, 1].map((half) => raw.filter((_, index) => index % 2 === half).flat());
  const temperatures = halves.map(fitTemperature);
  const fitted = raw.map((forecasts, index) =>
    forecasts.map(({ score, isRight }) => ({
      score: withTemperature(score, temperatures[(index + 1) % 2] ?? 1),
      isRight,
    })),
  );
  const figures = (byProblem: readonly (readonly Forecast[])[]): CalibrationFigures => {
    const sums = byProblem.map(binSums);
    const error = (at: ArrayLike<number>): number =>
      calibrationError(Array.from(at, (index) => sums[index] as (typeof sums)[0])); // there for every problem
    return {
      ece: reflect(estimate(error, sums, draws)),
      brier: estimateRatio(
        byProblem.map((forecasts): Share => {
          const errors = forecasts.map(({ score, isRight }) => (score - Number(isRight)) ** 2);
          return [errors.reduce((sum, error) => sum + error, 0), errors.length];
        }),
        draws,
      ),
      reliability: reliability(byProblem.flat()),
    };
  };
  return {
    raw: figures(raw),
    served: figures(forecastsOf(({ score }) => score)),
    fitted: { temperature: fitTemperature(raw.flat()), ...figures(fitted) },
  };
}

function precisionCoverage(
  chains: readonly (readonly GradedRound[])[],
  maxRounds: number,
): Summary['precision_coverage'] {
  const accepted = chains
    .filter((chain) => isAcceptedBy(chain, maxRounds))
    .map((chain) => stateAt(chain, maxRounds))
    .sort((a, b) => (b.score ?? 0) - (a.score ?? 0));
  const points: Summary['precision_coverage'][number][] = [];
  let numRight = 0;
  accepted.forEach((state, index) => {
    numRight += Number(state.isRight);
    // equal scores cannot be told apart by a threshold
    if (accepted[index + 1]?.score === state.score) return;
    points.push({
      threshold: state.score ?? 0,
      coverage: (index + 1) / chains.length,
      precision: numRight / (index + 1),
    });
  });
  const maxPoints = 200;
  const step = Math.ceil(points.length / maxPoints);
  return points.filter((_, index) => index % step === 0 || index === points.length - 1);
}

function firstErrorFigures(problems: readonly GradedProblem[], draws: Draws): Summary['first_error'] {
  const labelled = problems.map(({ chains, firstError }) =>
    firstError === undefined
      ? []
      : chains.flatMap(([round]) => (round?.verdict == null ? [] : [{ ...round, step: firstError }])),
  );
  if (labelled.flat().length === 0) return null;
  const located = estimateRatio(
    labelled.map((rounds) =>
      shareOf(
        rounds.filter(({ step }) => step !== null),
        ({ verdict, firstError, step }) => verdict === 'reject' && firstError === step,
      ),
    ),
    draws,
  );
  const accepted = estimateRatio(
    labelled.map((rounds) =>
      shareOf(
        rounds.filter(({ step }) => step === null),
        ({ verdict }) => verdict === 'accept',
      ),
    ),
    draws,
  );
  const [a, b] = [located.value, accepted.value];
  const f1 = a === null || b === null ? null : a + b === 0 ? 0 : (2 * a * b) / (a + b);
  return { located_when_wrong: located, accepted_when_right: accepted, f1 };
}

function flips(problems: readonly GradedProblem[], from: boolean, draws: Draws): Estimate {
  return estimateRatio(
    problems.map(({ chains }) =>
      shareOf(
        chains.flatMap((chain) =>
          chain.slice(1).flatMap((next, index) => (chain[index]?.isRight === from ? [next.isRight] : [])),
        ),
        (isRight) => isRight !== from,
      ),
    ),
    draws,
  );
}
