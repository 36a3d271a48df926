import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EngineCore } from '../../src/engine/core.ts';
import type { SequenceSpec } from '../../src/engine/messages.ts';
import { Rng } from '../../src/engine/rng.ts';
import type { CausalLM } from '../../src/models/causal-lm.ts';
import { loadCausalLM } from '../../src/models/load-causal-lm.ts';
import { prepareModel } from '../../src/models/prepare-model.ts';
import { spec } from '../support/engine-core-driver.ts';

/** Below this distance of the two best logits the order of additions may decide, and that depends on the batch. */
const CLEAR_MARGIN = 0.01;

interface Run {
  readonly tokens: number[];
  /** How far the best token was ahead of the second, in logits. */
  readonly margins: number[];
  cachedTokens: number;
}

/** Runs the sequences as they arrive (one list for each step) and checks the core after every step. */
function run(
  model: CausalLM,
  arrivals: readonly (readonly SequenceSpec[])[],
  reusePrefixes: boolean,
): Map<number, Run> {
  const core = new EngineCore(model, { chunkTokens: 13, reusePrefixes, minCopyTokens: 1 });
  const runs = new Map<number, Run>();
  for (let step = 0; step < arrivals.length || core.hasWork; step++) {
    for (const sequence of arrivals[step] ?? []) {
      runs.set(sequence.id, { tokens: [], margins: [], cachedTokens: 0 });
      core.add(sequence);
    }
    for (const output of core.step()?.outputs ?? []) {
      const got = runs.get(output.id) as Run; // added above
      got.tokens.push(...output.tokens);
      got.cachedTokens = output.started?.cachedTokens ?? got.cachedTokens;
      for (const { topLogprobs } of output.logprobs ?? []) {
        got.margins.push((topLogprobs[0] as number) - (topLogprobs[1] as number));
      }
      if (output.finish?.reason === 'error') throw new Error(output.finish.message);
    }
    core.checkIntegrity();
  }
  expect(core.numSlotsUsed).toBe(0);
  return runs;
}

describe.each(['tiny-llama', 'tiny-qwen2', 'tiny-qwen3'])('greedy tokens of %s', (name) => {
  const folder = mkdtempSync(join(tmpdir(), 'stv-batching-'));
  let model: CausalLM;
  beforeAll(async () => {
    const checkpoint = fileURLToPath(new URL(`../goldens/${name}`, import.meta.url));
    const { dir } = await prepareModel({ checkpoint, cacheDir: folder, weights: 'fp32' });
    model = loadCausalLM({ dir, numSlots: 6, maxLength: 128, maxLanes: 4, maxBatchedTokens: 40, threads: 1 });
  });
  afterAll(() => {
    model?.dispose();
    rmSync(folder, { recursive: true, force: true });
  });

  it.each([true, false])(
    'equal those of the request alone wherever the choice is clear (reuse %s)',
    (reusePrefixes) => {
      const rng = new Rng(42);
      const draw = (limit: number): number => rng.nextUint32() % limit;
      const stems = [0, 1].map(() => Array.from({ length: 50 }, () => 5 + draw(270)));
      const requests = Array.from({ length: 24 }, (_, id) => {
        const stem = (stems[draw(2)] as number[]).slice(0, draw(51));
        const own = Array.from({ length: 1 + draw(20) }, () => 5 + draw(270));
        return spec(id, [...stem, ...own], { maxTokens: 12 + draw(12), logprobs: 2 });
      });
      const arrivals = Array.from({ length: 40 }, (_, step) => requests.filter(({ id }) => (id * 7) % 40 === step));
      const together = run(model, arrivals, reusePrefixes);
      let numClear = 0;
      let numTokens = 0;
      for (const request of requests) {
        const alone = run(model, [[request]], false).get(request.id) as Run;
        const batched = together.get(request.id) as Run;
        expect(batched.tokens).toHaveLength(alone.tokens.length);
        numTokens += alone.tokens.length;
        for (const [i, token] of alone.tokens.entries()) {
          if ((alone.margins[i] as number) <= CLEAR_MARGIN) break;
          expect(batched.tokens[i], `token ${i} of request ${request.id}`).toBe(token);
          numClear++;
        }
      }
      expect(numClear / numTokens).toBeGreaterThan(0.5); // otherwise this test compared too little
      const cached = [...together.values()].reduce((sum, { cachedTokens }) => sum + cachedTokens, 0);
      if (reusePrefixes) expect(cached).toBeGreaterThan(100);
      else expect(cached).toBe(0);
    },
  );
});
