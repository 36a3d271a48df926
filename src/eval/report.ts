/** The whole report of an evaluation, as data and as text for a terminal. Pure. */
import { binsOf, groupsOf } from './bins.ts';
import type { GradedProblem } from './outcomes.ts';
import type { EvalSettings, ProblemRecord } from './record-types.ts';
import type { Estimate } from './statistics.ts';
import { type Summary, summarize } from './summary.ts';

export interface EvalReport {
  readonly object: 'evaluation';
  readonly settings: EvalSettings;
  readonly models: readonly { readonly generator: string; readonly verifier: string }[];
  readonly resamples: number;
  /** Problems for which nothing came back. */
  readonly missing: number;
  readonly overall: Summary;
  readonly groups: Readonly<Record<string, Summary>>;
  readonly bins: Readonly<Record<string, Summary>>;
  /** Bins come from the evaluated attempts themselves: round 0 of a bin is then given by its definition. */
  readonly bins_are_measured: boolean;
}

export interface ReportOptions {
  readonly settings: EvalSettings;
  readonly numProblems: number;
  readonly resamples: number;
}

export function makeReport(
  problems: readonly GradedProblem[],
  records: readonly ProblemRecord[],
  { settings, numProblems, resamples }: ReportOptions,
): EvalReport {
  const options = { maxRounds: settings.max_rounds, seed: settings.seed, resamples };
  const byName = (groups: ReadonlyMap<string, readonly GradedProblem[]>): Record<string, Summary> =>
    Object.fromEntries([...groups].map(([name, members]) => [name, summarize(members, options)]));
  const { bins, isMeasured } = binsOf(problems);
  const models = new Map(records.map(({ models }) => [JSON.stringify(models), models]));
  return {
    object: 'evaluation',
    settings,
    models: [...models.values()],
    resamples,
    missing: numProblems - problems.length,
    overall: summarize(problems, options),
    groups: byName(groupsOf(problems)),
    bins: byName(bins),
    bins_are_measured: isMeasured,
  };
}

export function formatReport(report: EvalReport): string {
  const { overall, settings } = report;
  const lines = [
    ...report.models.map(({ generator, verifier }) => `Generator ${generator}, verifier ${verifier}`),
    `${overall.problems} problems, ${overall.chains} chains, up to ${settings.max_rounds} refinements, seed ${settings.seed}; 95 % intervals over problems`,
  ];
  if (report.models.length > 1) lines.push('The models changed while this ran; the figures mix them.');
  if (report.missing > 0) lines.push(`Nothing came back for ${report.missing} problems; run it again to do them.`);
  lines.push(...formatSummary(overall));
  const parts = [
    ...Object.entries(report.groups).map(([name, summary]) => [`group ${name}`, summary] as const),
    ...Object.entries(report.bins).map(([name, summary]) => [`bin ${name}`, summary] as const),
  ];
  if (parts.length > 0) {
    lines.push('', row('', ['problems', 'pass@1 first', 'pass@1 final', 'accepted', 'precision']));
    for (const [name, summary] of parts) {
      const [first, last] = [summary.rounds[0], summary.rounds.at(-1)];
      lines.push(
        row(name, [
          String(summary.problems),
          percent(first?.pass_at_1),
          percent(last?.pass_at_1),
          percent(last?.accept_rate),
          percent(last?.precision),
        ]),
      );
    }
    if (report.bins_are_measured)
      lines.push('Bins come from these very attempts, so their first round is given by definition.');
  }
  return `${lines.join('\n')}\n`;
}

function formatSummary(summary: Summary): string[] {
  const { verdicts, calibration, first_error: firstError, equal_tokens: equal, tokens } = summary;
  const lines = ['', row('round', ['pass@1', 'accepted', 'inflation gap', 'precision', 'tokens'])];
  for (const one of summary.rounds) {
    lines.push(
      row(String(one.round), [
        percent(one.pass_at_1),
        percent(one.accept_rate),
        percent(one.inflation_gap),
        percent(one.precision),
        one.tokens.toFixed(0),
      ]),
    );
  }
  lines.push('');
  const ks = summary.pass_at_k.filter(({ k }) => k > 1);
  for (const { k, first, final } of ks)
    lines.push(line(`pass@${k}`, `first ${percent(first)}, final ${percent(final)}`));
  lines.push(
    line(
      'verdicts',
      `accepts right ${percent(verdicts.accept_when_right)}, rejects wrong ${percent(verdicts.reject_when_wrong)}, balanced ${percent(verdicts.balanced_accuracy)}`,
    ),
  );
  if (calibration !== null) {
    for (const name of ['raw', 'served', 'fitted'] as const) {
      const { ece, brier } = calibration[name];
      const temperature = name === 'fitted' ? ` (temperature ${calibration.fitted.temperature.toFixed(2)})` : '';
      lines.push(line(`calibration, ${name}`, `ECE ${fixed(ece)}, Brier ${fixed(brier)}${temperature}`));
    }
  }
  if (firstError !== null) {
    lines.push(
      line(
        'first error',
        `located ${percent(firstError.located_when_wrong)}, right accepted ${percent(firstError.accepted_when_right)}, F1 ${firstError.f1?.toFixed(3) ?? '-'}`,
      ),
    );
  }
  if (equal !== null) {
    lines.push(line('loop', `${percent(equal.loop.pass_at_1)} for ${equal.loop.tokens.toFixed(0)} tokens`));
    for (const [name, control] of [
      ['best of n', equal.best_of_n],
      ['resampling', equal.resample],
    ] as const) {
      const limit = control.limited_by_samples ? ', limited by the number of chains' : '';
      lines.push(
        line(
          name,
          `${percent(control.pass_at_1)} for ${control.tokens.toFixed(0)} tokens (n ${control.n}${limit}); the loop gains ${percent(control.loop_gain)}`,
        ),
      );
    }
  }
  lines.push(
    line(
      'refinements',
      `wrong to right ${percent(summary.flips.wrong_to_right)}, right to wrong ${percent(summary.flips.right_to_wrong)}`,
    ),
    line('feedback that leaks', percent(summary.answer_leaks)),
    line('without an answer', percent(summary.unanswered)),
    line('tokens per solved chain', tokens.per_solved_chain === null ? '-' : tokens.per_solved_chain.toFixed(0)),
  );
  return lines;
}

function line(name: string, text: string): string {
  return `${name.padEnd(24)}${text}`;
}

function row(name: string, cells: readonly string[]): string {
  return [name.padEnd(18), ...cells.map((cell) => cell.padStart(24))].join('').trimEnd();
}

/** `27.4 % [24.1, 30.9]`. */
function percent(estimate: Estimate | undefined): string {
  return show(estimate, (value) => (100 * value).toFixed(1), ' %');
}

function fixed(estimate: Estimate): string {
  return show(estimate, (value) => value.toFixed(3), '');
}

function show(estimate: Estimate | undefined, write: (value: number) => string, unit: string): string {
  if (estimate?.value == null) return '-';
  const { value, low, high } = estimate;
  const interval = low === null || high === null ? '' : ` [${write(low)}, ${write(high)}]`;
  return `${write(value)}${unit}${interval}`;
}
