/** The plot of an evaluation: accuracy against acceptance by round, precision against coverage, reliability. Pure. */
import type { EvalReport } from './report.ts';
import type { Estimate } from './statistics.ts';
import { type Chart, type Line, renderCharts } from './svg.ts';

const colors = { right: '#1b6ac9', accepted: '#c2410c', precision: '#15803d', diagonal: '#999' } as const;

export function plotReport(report: EvalReport): string {
  const { overall, settings } = report;
  const title = `${overall.problems} problems, ${overall.chains} chains, ${report.models.map(({ generator }) => generator).join(', ')}`;
  const charts = [
    rounds(report),
    coverage(report),
    ...(overall.calibration === null ? [] : [reliability(overall.calibration)]),
  ];
  return renderCharts(`${title} (seed ${settings.seed})`, charts);
}

function rounds({ overall }: EvalReport): Chart {
  const line = (name: string, color: string, pick: (round: (typeof overall.rounds)[number]) => Estimate): Line => ({
    name,
    color,
    points: overall.rounds.flatMap((round) => {
      const { value, low, high } = pick(round);
      if (value === null) return [];
      return [{ x: round.round, y: value, ...(low === null || high === null ? {} : { low, high }) }];
    }),
  });
  const last = overall.rounds.length - 1;
  const step = Math.max(1, Math.ceil(last / 10));
  return {
    title: 'By round, 95 % intervals over problems',
    xLabel: 'refinements',
    yLabel: 'share of chains',
    x: [0, Math.max(1, last)],
    xTicks: overall.rounds.map(({ round }) => round).filter((round) => round % step === 0),
    lines: [
      line('pass@1', colors.right, (round) => round.pass_at_1),
      line('accepted', colors.accepted, (round) => round.accept_rate),
      line('precision', colors.precision, (round) => round.precision),
    ],
  };
}

const unit = { x: [0, 1], xTicks: [0, 0.25, 0.5, 0.75, 1] } as const;

function coverage({ overall }: EvalReport): Chart {
  const points = overall.precision_coverage.map((point) => ({ x: point.coverage, y: point.precision }));
  return {
    ...unit,
    title: 'Accepted answers, most certain first',
    xLabel: 'coverage (share of chains)',
    yLabel: 'precision',
    lines: [{ name: 'precision', color: colors.precision, points }],
  };
}

function reliability(calibration: NonNullable<EvalReport['overall']['calibration']>): Chart {
  const line = (name: 'raw' | 'served', color: string): Line => ({
    name,
    color,
    points: calibration[name].reliability.map((bin) => ({ x: bin.mean_score, y: bin.share_right })),
  });
  return {
    ...unit,
    title: 'Reliability of P(accept)',
    xLabel: 'P(accept)',
    yLabel: 'share right',
    lines: [
      {
        name: 'perfect',
        color: colors.diagonal,
        isDashed: true,
        points: [
          { x: 0, y: 0 },
          { x: 1, y: 1 },
        ],
      },
      line('raw', colors.accepted),
      line('served', colors.right),
    ],
  };
}
