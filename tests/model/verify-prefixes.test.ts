/** The search for the first wrong step over a real engine: prefixes of the solution, scored side by side. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Engine, ScoreRequest, ScoreResult } from '../../src/engine/engine.ts';
import type { LocalEngine } from '../../src/engine/local-engine.ts';
import { prepareModel } from '../../src/models/prepare-model.ts';
import { writeTokenizerFiles } from '../../src/models/tokenizer-write.ts';
import { locateByPrefixes } from '../../src/stv/first-error.ts';
import { foldVerify } from '../../src/stv/fold.ts';
import { splitSteps } from '../../src/stv/steps.ts';
import { readVerdict } from '../../src/stv/verdict.ts';
import { verify } from '../../src/stv/verify.ts';
import { importBuiltEngine } from '../support/built-engine.ts';
import { createLoopPack } from '../support/loop-pack.ts';
import { ScriptedEngine } from '../support/scripted-engine.ts';

const pack = createLoopPack();
const solution = ['4x - 12 + 5 = 2x + 9', '4x - 7 = 2x + 9', '2x = 2', 'x = 1', 'so x is 1', 'and we are done'].join(
  '\n',
);

describe('the first error by prefixes', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'stv-prefixes-'));
  let real: LocalEngine;

  beforeAll(async () => {
    const checkpoint = fileURLToPath(new URL('../goldens/tiny-llama', import.meta.url));
    const { dir, manifest } = await prepareModel({
      checkpoint,
      cacheDir: folder,
      weights: 'fp32',
      writeTokenizer: (target) => writeTokenizerFiles({ path: checkpoint }, target),
    });
    const { startLocalEngine } = await importBuiltEngine();
    const model = { name: 'tiny', aliases: ['verifier'], digest: manifest.digest, dir, numSlots: 24, maxLength: 512 };
    real = await startLocalEngine({ models: [model] });
  });

  afterAll(async () => {
    await real?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it('comes from one batch that shares the cache of the solution', async () => {
    // feedback and verdict are scripted, so that a reject that names no step is certain; the prefixes are the real engine's
    const script = new ScriptedEngine({ generate: () => 'This does not work out.', score: () => [0.1, 0.9] });
    const scored: { readonly request: ScoreRequest; readonly result: ScoreResult }[] = [];
    const engine: Engine = new Proxy<Engine>(real, {
      get: (target, name) => {
        if (name === 'generate') return script.generate.bind(script);
        if (name === 'score') {
          return async (request: ScoreRequest, options: object) => {
            if (request.id.endsWith('-s')) return script.score(request, options);
            const result = await real.score(request, options);
            scored.push({ request, result });
            return result;
          };
        }
        const value: unknown = target[name as keyof Engine];
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const request = {
      id: 'vrf_1',
      problem: '4(x - 3) + 5 = 2x + 9',
      solution,
      mode: 'full',
      model: 'verifier',
    } as const;
    const answer = await foldVerify(
      verify({ ...request, votes: 1, earlyStop: true, seed: 1, priority: 'interactive' }, { engine, pack }),
    );
    expect(scored.map(({ request: { id } }) => id).sort()).toEqual([1, 2, 3, 4, 5, 6].map((cut) => `vrf_1-p${cut}`));

    const prompt = scored.reduce((sum, { result }) => sum + result.usage.promptTokens, 0);
    const cached = scored.reduce((sum, { result }) => sum + result.usage.cachedTokens, 0);
    expect(cached / prompt, `${cached} of ${prompt} prompt tokens came from the cache`).toBeGreaterThan(0.4);

    // what sharing a batch and a cache gives is what each prefix gives alone
    const alone = new Map<number, number>();
    for (const { request: asked, result } of scored) {
      const again = await real.score({ ...asked, id: `${asked.id}-alone` });
      for (const [index, logprob] of again.logprobs.entries()) {
        expect(logprob).toBeCloseTo(result.logprobs[index] as number, 3);
      }
      alone.set(Number(/-p(\d+)$/.exec(asked.id)?.[1]), readVerdict(pack.verdict, again.logprobs).rawScore);
    }
    const expected = await locateByPrefixes(splitSteps(solution), async (cuts) =>
      cuts.map((cut) => alone.get(cut) ?? 0),
    );
    expect(answer.firstError).toEqual(expected);
    expect(answer.firstError?.quote).toBe(solution.slice(answer.firstError?.start, answer.firstError?.end));
  });
});
