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

/** Below this distance of the two best logits the order of additions may decide, and that depends on the rows of a step. */
const CLEAR_MARGIN = 0.01;

interface Run {
  readonly tokens: number[];
  /** How far the best token was ahead of the second, in logits. */
  readonly margins: number[];
}

function run(
  model: CausalLM,
  requests: readonly SequenceSpec[],
  isDrafting: boolean,
): { readonly runs: Map<number, Run>; readonly numSteps: number; readonly numAccepted: number } {
  let nowMs = 0;
  // A clock that counts its readings: how much is drafted depends on what steps cost, and a busy machine would decide that.
  const core = new EngineCore(model, { chunkTokens: 32, reusePrefixes: true, isDrafting, now: () => ++nowMs });
  const runs = new Map<number, Run>();
  let numSteps = 0;
  let numAccepted = 0;
  for (const request of requests) {
    runs.set(request.id, { tokens: [], margins: [] });
    core.add(request);
  }
  for (; core.hasWork; numSteps++) {
    const { outputs, stats } = core.step() ?? { outputs: [], stats: undefined };
    numAccepted += stats?.numAcceptedTokens ?? 0;
    for (const output of outputs) {
      const got = runs.get(output.id) as Run; // added above
      got.tokens.push(...output.tokens);
      for (const { topLogprobs } of output.logprobs ?? []) {
        got.margins.push((topLogprobs[0] as number) - (topLogprobs[1] as number));
      }
      if (output.finish?.reason === 'error') throw new Error(output.finish.message);
    }
    core.checkIntegrity();
  }
  return { runs, numSteps, numAccepted };
}

describe.each(['tiny-llama', 'tiny-qwen2', 'tiny-qwen3'])('drafting on %s', (name) => {
  const folder = mkdtempSync(join(tmpdir(), 'stv-drafting-'));
  let model: CausalLM;
  beforeAll(async () => {
    const checkpoint = fileURLToPath(new URL(`../goldens/${name}`, import.meta.url));
    const { dir } = await prepareModel({ checkpoint, cacheDir: folder, weights: 'fp32' });
    model = loadCausalLM({ dir, numSlots: 6, maxLength: 128, maxLanes: 4, maxBatchedTokens: 64, threads: 1 });
  });
  afterAll(() => {
    model?.dispose();
    rmSync(folder, { recursive: true, force: true });
  });

  it('writes the same greedy tokens in fewer steps, whatever of the prediction is wrong', () => {
    const rng = new Rng(7);
    const draw = (limit: number): number => rng.nextUint32() % limit;
    const requests = Array.from({ length: 10 }, (_, id) => {
      const prompt = Array.from({ length: 5 + draw(40) }, () => 5 + draw(270));
      return spec(id, prompt, { maxTokens: 50, logprobs: 2 });
    });
    const plain = run(model, requests, false);
    const predicted = requests.map((request) => {
      const prediction = Int32Array.from((plain.runs.get(request.id) as Run).tokens);
      for (let i = 0; i < 5; i++) prediction[draw(prediction.length)] = 5 + draw(270);
      return { ...request, prediction };
    });
    const drafted = run(model, predicted, true);
    expect(drafted.numAccepted).toBeGreaterThan(100);
    expect(drafted.numSteps).toBeLessThan(0.8 * plain.numSteps);
    let numClear = 0;
    for (const { id } of requests) {
      const [alone, guessed] = [plain.runs.get(id) as Run, drafted.runs.get(id) as Run];
      expect(guessed.tokens).toHaveLength(alone.tokens.length);
      for (const [i, token] of alone.tokens.entries()) {
        if ((alone.margins[i] as number) <= CLEAR_MARGIN) break;
        expect(guessed.tokens[i], `token ${i} of request ${id}`).toBe(token);
        numClear++;
      }
    }
    expect(numClear).toBeGreaterThan(200); // otherwise this test compared too little
  });
});
