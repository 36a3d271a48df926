/** The local engine as it runs in earnest: built files, a forked host on ONNX Runtime, a text worker. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { GenerateRequest } from '../../src/engine/engine.ts';
import type { LocalEngine, LocalEngineOptions } from '../../src/engine/local-engine.ts';
import { prepareModel } from '../../src/models/prepare-model.ts';
import { writeTokenizerFiles } from '../../src/models/tokenizer-write.ts';
import { builtEngineEntry, importBuiltEngine } from '../support/built-engine.ts';
import { collect, request } from '../support/fake-engine.ts';

const checkpoint = fileURLToPath(new URL('../goldens/tiny-llama', import.meta.url));
const cacheDir = mkdtempSync(join(tmpdir(), 'stv-engine-'));
let startLocalEngine: (options: LocalEngineOptions) => Promise<LocalEngine>;
let models: LocalEngineOptions['models'];
let engine: LocalEngine | undefined;

beforeAll(async () => {
  ({ startLocalEngine } = await importBuiltEngine());
  const { dir } = await prepareModel({
    checkpoint,
    cacheDir,
    weights: 'fp32',
    writeTokenizer: (folder) => writeTokenizerFiles({ path: checkpoint }, folder),
  });
  const limits = { dir, numSlots: 4, maxLanes: 4, maxBatchedTokens: 64, chunkTokens: 16, threads: 1 };
  models = [
    { name: 'tiny/generator@sha256:1', aliases: ['generator'], digest: 'sha256:1', ...limits },
    { name: 'tiny/verifier@sha256:1', aliases: ['verifier'], digest: 'sha256:1', ...limits },
  ];
});
afterEach(async () => {
  await engine?.close();
  engine = undefined;
});
afterAll(() => rmSync(cacheDir, { recursive: true, force: true }));

const long: Partial<GenerateRequest> = { maxTokens: 200, ignoreEos: true };

async function untilReady(started: LocalEngine): Promise<void> {
  const end = Date.now() + 60_000;
  while (started.status().state !== 'ready') {
    if (Date.now() > end) throw new Error(`The engine is ${started.status().state} after a minute.`);
    await sleep(10);
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe('LocalEngine with a forked host', () => {
  it('generates what transformers generates, for both models at once', async () => {
    engine = await startLocalEngine({ models });
    expect(engine.models().map(({ contextLength }) => contextLength)).toEqual([256, 256]);
    const { prompts } = JSON.parse(readFileSync(join(checkpoint, 'golden.json'), 'utf8')) as {
      prompts: { inputIds: number[]; greedyIds: number[] }[];
    };
    const runs = prompts.flatMap(({ inputIds, greedyIds }) =>
      ['generator', 'verifier'].map(async (model) => {
        const prompt = { kind: 'tokens', tokens: inputIds } as const;
        const maxTokens = greedyIds.length;
        const { tokens, events } = await collect(
          engine as LocalEngine,
          request('', { model, prompt, maxTokens, ignoreEos: true, logprobs: 2 }),
        );
        const logprobs = events.flatMap((event) => (event.type === 'delta' ? (event.logprobs ?? []) : []));
        let compared = 0;
        for (const [i, id] of greedyIds.entries()) {
          const [best, second] = logprobs[i]?.top ?? [];
          if (best === undefined || second === undefined || best.logprob - second.logprob <= 0.01) break;
          expect(tokens[i]).toBe(id);
          compared++;
        }
        return compared;
      }),
    );
    const compared = await Promise.all(runs);
    expect(compared.reduce((sum, count) => sum + count, 0)).toBeGreaterThan(16);
    const { inputIds = [] } = prompts[0] ?? {};
    const text = await engine.detokenize('verifier', inputIds);
    expect(text).toMatch(/^A verifier reads/);
    expect(await engine.tokenize('generator', text)).toEqual(inputIds);
  });

  it('ends open requests within a second of a kill -9, starts another host and serves on', async () => {
    engine = await startLocalEngine({ models });
    const started = engine;
    const firstPid = started.hostPid as number;
    let killedAt = 0;
    const open = Array.from({ length: 6 }, (_, i) => collect(started, request(`request ${i}`, long)));
    const ends = open.map((promise) =>
      promise.then(
        () => ({ code: 'ended', afterMs: performance.now() - killedAt }),
        (error: { code: string; retryAfterMs: number }) => ({
          ...error,
          code: error.code,
          afterMs: performance.now() - killedAt,
        }),
      ),
    );
    while (started.status().running === 0) await sleep(1);
    killedAt = performance.now();
    process.kill(firstPid, 'SIGKILL');
    for (const end of await Promise.all(ends)) {
      expect(end.code).toBe('engine_crashed');
      expect(end.afterMs).toBeLessThan(1000);
    }
    await untilReady(started);
    expect(started.hostPid).not.toBe(firstPid);
    expect((await collect(started, request('again', { maxTokens: 3, ignoreEos: true }))).tokens).toHaveLength(3);
  });

  it('notices a host that hangs, kills it and starts another', async () => {
    engine = await startLocalEngine({ models, hangAfterMs: 500 });
    const pid = engine.hostPid as number;
    process.kill(pid, 'SIGSTOP');
    await expect(collect(engine, request('hello', long))).rejects.toMatchObject({ code: 'engine_crashed' });
    await untilReady(engine);
    expect(isAlive(pid)).toBe(false);
    await collect(engine, request('again', { maxTokens: 2, ignoreEos: true }));
  });

  it('frees the lanes of readers that leave', async () => {
    engine = await startLocalEngine({ models });
    const started = engine;
    let slotsUsed = -1;
    started.onStats((stats) => {
      if (stats.type === 'step') slotsUsed = stats.slotsUsed;
    });
    await Promise.all(
      Array.from({ length: 6 }, async (_, i) => {
        for await (const event of started.generate(request(`leaver ${i}`, long))) if (event.type === 'delta') break;
      }),
    );
    await collect(started, request('last', { maxTokens: 4, ignoreEos: true }));
    expect(slotsUsed).toBe(0);
    expect(started.status()).toMatchObject({ running: 0, waiting: 0 });
  });

  it('says why it cannot start', async () => {
    const broken = models.map((model) => ({ ...model, maxBatchedTokens: 64, maxLanes: 99 }));
    await expect(startLocalEngine({ models: broken })).rejects.toMatchObject({ code: 'config_invalid' });
    const missing = models.map((model) => ({ ...model, dir: join(cacheDir, 'nothing') }));
    await expect(startLocalEngine({ models: missing })).rejects.toHaveProperty('code');
  });

  it('leaves no host behind when its own process is killed', async () => {
    const script = `
      const { startLocalEngine } = await import(${JSON.stringify(builtEngineEntry)});
      const engine = await startLocalEngine({ models: ${JSON.stringify(models)} });
      console.log(engine.hostPid);
      setInterval(() => {}, 1000);
    `;
    const parent = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 2] });
    const hostPid = await new Promise<number>((resolve) => parent.stdout?.on('data', (data) => resolve(Number(data))));
    expect(isAlive(hostPid)).toBe(true);
    parent.kill('SIGKILL');
    const killedAt = performance.now();
    while (isAlive(hostPid) && performance.now() - killedAt < 5000) await sleep(20);
    expect(isAlive(hostPid)).toBe(false);
  });
});
