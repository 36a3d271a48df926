/** The leak guard on a set that it was not written against: forms by a computer algebra system, sentences around them. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createLeakGuard } from '../../../src/stv/leak-guard.ts';

interface LeakForms {
  readonly cases: readonly { readonly kind: string; readonly answer: string; readonly forms: readonly string[] }[];
  readonly stating: readonly string[];
  readonly harmless: readonly {
    readonly answer: string;
    readonly problem: string;
    readonly solution: string;
    readonly feedback: string;
  }[];
}

const { cases, stating, harmless } = JSON.parse(
  readFileSync(new URL('../../goldens/leak-forms.json', import.meta.url), 'utf8'),
) as LeakForms;

describe('leak guard on an independent set', () => {
  it('sees the answer in nearly every form and sentence', () => {
    const byKind = new Map<string, { seen: number; all: number; missed: string[] }>();
    for (const { kind, answer, forms } of cases) {
      const texts = { problem: 'Find what is asked for.', solution: 'I am stuck.', reference: `So \\boxed{${answer}}` };
      const guard = createLeakGuard(texts, { kind: 'boxed' });
      const count = byKind.get(kind) ?? { seen: 0, all: 0, missed: [] };
      byKind.set(kind, count);
      for (const form of forms) {
        for (const sentence of stating) {
          const feedback = sentence.replace('{}', () => form);
          count.all += 1;
          if (guard.leaks(feedback)) count.seen += 1;
          else count.missed.push(`${answer}: ${feedback}`);
        }
      }
    }
    const sum = (pick: 'seen' | 'all'): number => [...byKind.values()].reduce((total, count) => total + count[pick], 0);
    const shares = [...byKind].map(([kind, { seen, all }]) => `${kind} ${seen}/${all}`);
    console.info(`leak guard, independent set: ${sum('seen')} of ${sum('all')} seen (${shares.join(', ')})`);
    const missed = [...byKind.values()].flatMap((count) => count.missed.slice(0, 20));
    expect(sum('seen') / sum('all'), missed.join('\n')).toBeGreaterThan(0.97);
  });

  it('lets pass what gives nothing away', () => {
    const alarms = harmless.filter(({ answer, problem, solution, feedback }) =>
      createLeakGuard({ problem, solution, reference: `So \\boxed{${answer}}` }, { kind: 'boxed' }).leaks(feedback),
    );
    console.info(`leak guard, independent set: ${alarms.length} false alarms in ${harmless.length}`);
    const raised = alarms.map(({ answer, feedback }) => `${answer}: ${feedback}`);
    expect(alarms.length / harmless.length, raised.join('\n')).toBeLessThan(0.01);
  });
});
