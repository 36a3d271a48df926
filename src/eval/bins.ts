/** Groups of problems that are looked at apart: the file's own, and bins of difficulty. Pure. */
import { type GradedProblem, stateAt } from './outcomes.ts';

export interface Bins {
  readonly bins: ReadonlyMap<string, readonly GradedProblem[]>;
  /**
   * Whether bins come from the very attempts that are evaluated. Then pass@1 of round 0 within a bin is what the bin was
   * chosen by, and says nothing.
   */
  readonly isMeasured: boolean;
}

/** `hardest`: never right; `hard`: right, but less than one time in five; else `easy`. */
function measuredBin({ chains }: GradedProblem): string {
  const rate = chains.filter((chain) => stateAt(chain, 0).isRight).length / chains.length;
  return rate === 0 ? 'hardest' : rate < 0.2 ? 'hard' : 'easy';
}

export function binsOf(problems: readonly GradedProblem[]): Bins {
  const isMeasured = problems.some(({ bin }) => bin === undefined);
  return { isMeasured, bins: groupBy(problems, (problem) => problem.bin ?? measuredBin(problem)) };
}

/** Empty where no problem names a group. */
export function groupsOf(problems: readonly GradedProblem[]): ReadonlyMap<string, readonly GradedProblem[]> {
  if (problems.every(({ group }) => group === undefined)) return new Map();
  return groupBy(problems, ({ group }) => group ?? 'none');
}

function groupBy(
  problems: readonly GradedProblem[],
  key: (problem: GradedProblem) => string,
): Map<string, GradedProblem[]> {
  const groups = new Map<string, GradedProblem[]>();
  for (const problem of problems) {
    const name = key(problem);
    const members = groups.get(name);
    if (members === undefined) groups.set(name, [problem]);
    else members.push(problem);
  }
  return new Map([...groups].sort(([a], [b]) => (a < b ? -1 : 1)));
}
