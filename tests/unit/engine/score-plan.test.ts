import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { collectScore, numPromptTokens, planScore } from '../../../src/engine/score-plan.ts';
import { CoreDriver, spec } from '../../support/engine-core-driver.ts';
import { fakeLogits } from '../../support/fake-causal-lm.ts';

function chain(encoding: readonly number[], from: number): number {
  let sum = 0;
  for (let position = from; position < encoding.length; position++) {
    const row = fakeLogits(encoding.slice(0, position));
    sum +=
      (row[encoding[position] as number] as number) -
      Math.log(row.reduce((total, logit) => total + Math.exp(logit), 0));
  }
  return sum;
}

describe('planScore', () => {
  it('needs one row for single tokens, and shares what candidates share', () => {
    const prompt = Int32Array.from([1, 2, 3]);
    const single = planScore(prompt, [Int32Array.from([1, 2, 3, 7]), Int32Array.from([1, 2, 3, 8])]);
    expect(single.sequences).toEqual([{ prompt, promptRows: [{ position: 2, targets: [7, 8], top: 0 }] }]);
    const nested = planScore(prompt, [
      Int32Array.from([1, 2, 3, 7]),
      Int32Array.from([1, 2, 3, 7, 9]),
      Int32Array.from([1, 2, 3, 8, 5]),
    ]);
    expect(nested.sequences).toHaveLength(2);
    // 1 2 3 once, then the 7 and the 8
    expect([single, nested].map(numPromptTokens)).toEqual([3, 5]);
    expect(nested.sequences.flatMap(({ promptRows }) => promptRows)).toHaveLength(3);
  });

  it('goes back to where the encodings part, if a candidate merges with the end of the prompt', () => {
    const plan = planScore(Int32Array.from([1, 2, 3]), [Int32Array.from([1, 2, 9]), Int32Array.from([1, 2, 3, 4])]);
    expect(plan.numShared).toBe(2);
  });

  it('gives the chain rule for any set of candidates, computed by the engine', () => {
    const suffix = fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(
        fc.uniqueArray(suffix, { minLength: 1, maxLength: 6, selector: String }),
        fc.boolean(),
        (suffixes, reusePrefixes) => {
          const prompt = [10, 11, 12, 13];
          const encodings = suffixes.map((tokens) => Int32Array.from([...prompt, ...tokens]));
          const plan = planScore(Int32Array.from(prompt), encodings);
          const driver = new CoreDriver({}, { reusePrefixes, minCopyTokens: 1 });
          for (const [id, path] of plan.sequences.entries()) {
            driver.add(spec(id, [...path.prompt], { maxTokens: 0, promptRows: path.promptRows }));
          }
          driver.run();
          const results = plan.sequences.map((_, id) =>
            driver.result(id).promptRows.map((row) => ({ ...row, topTokens: [], topLogprobs: [] })),
          );
          for (const [i, logprob] of collectScore(plan, encodings, results).entries()) {
            expect(logprob).toBeCloseTo(chain([...(encodings[i] as Int32Array)], prompt.length), 5);
          }
          const rows = plan.sequences.reduce((sum, { promptRows }) => sum + promptRows.length, 0);
          const inner = new Set(suffixes.flatMap((tokens) => tokens.map((_, i) => String(tokens.slice(0, i)))));
          expect(rows, 'every inner node of the tree is read once').toBe(inner.size);
        },
      ),
      { numRuns: 150 },
    );
  });
});
