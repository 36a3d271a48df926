import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createMetrics } from '../../src/metrics.ts';

const file = (name: string): string => readFileSync(new URL(`../../deploy/${name}`, import.meta.url), 'utf8');

/** Every metric that the server exposes, with the three that a histogram gives. */
async function exposed(): Promise<ReadonlySet<string>> {
  const { text } = await createMetrics().expose();
  return new Set(
    [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].flatMap(([, name, type]) =>
      type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name as string],
    ),
  );
}

describe.each(['grafana/dashboard.json', 'prometheus/alerts.yaml'])('%s', (name) => {
  it('names metrics that the server has, and no others', async () => {
    const known = await exposed();
    const named = new Set(file(name).match(/\bstv_[a-z_]+/g));
    expect(named.size).toBeGreaterThan(5);
    expect([...named].filter((metric) => !known.has(metric))).toEqual([]);
  });
});

it('the dashboard is JSON whose panels do not overlap', () => {
  const { panels } = JSON.parse(file('grafana/dashboard.json')) as {
    readonly panels: readonly { readonly id: number; readonly gridPos: Record<'x' | 'y' | 'w' | 'h', number> }[];
  };
  expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, index) => `${x + (index % w)} ${y + Math.floor(index / w)}`),
  );
  expect(new Set(cells).size).toBe(cells.length);
});

it.each([
  ['rounds to acceptance', 'stv_solve_rounds_bucket'],
  ['accept rate by round', 'stv_solve_round_verdicts_total'],
  ['undetermined rate', 'stv_verdicts_total'],
  ['disagreement of votes', 'stv_verifier_agreement_ratio_sum'],
  ['tokens by role', 'stv_tokens_total'],
  ['queue', 'stv_sequences_waiting'],
  ['time in the queue', 'stv_queue_duration_seconds_bucket'],
  ['batch width', 'stv_step_sequences_bucket'],
  ['prefix hits', 'stv_prefix_cache_hit_tokens_total'],
  ['drafted and accepted tokens', 'stv_prediction_tokens_total'],
  ['errors by type', 'stv_errors_total'],
])('the dashboard shows %s', (_, metric) => {
  const { panels } = JSON.parse(file('grafana/dashboard.json')) as { readonly panels: readonly object[] };
  expect(panels.some((panel) => JSON.stringify(panel).includes(metric))).toBe(true);
});
