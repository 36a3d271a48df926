/** The engine on WebGPU: the tokens of the CPU, through slots, chunks, reused prefixes and cancellation; and a device that is not there. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { LocalEngine, LocalEngineOptions, LocalModel } from '../../src/engine/local-engine.ts';
import { prepareModel } from '../../src/models/prepare-model.ts';
import { writeTokenizerFiles } from '../../src/models/tokenizer-write.ts';
import { importBuiltEngine } from '../support/built-engine.ts';
import { collect, request } from '../support/fake-engine.ts';

// SwiftShader, a Vulkan driver that needs no GPU, as Debian's chromium package brings it
const driver = process.env['VK_ICD_FILENAMES'] ?? '/usr/lib/chromium/vk_swiftshader_icd.json';
const checkpoint = fileURLToPath(new URL('../goldens/tiny-llama', import.meta.url));
const cacheDir = mkdtempSync(path.join(tmpdir(), 'stv-webgpu-'));
const environment = { ...process.env };
let startLocalEngine: (options: LocalEngineOptions) => Promise<LocalEngine>;
let model: LocalModel;
let engine: LocalEngine | undefined;

/** For the host that is forked next. */
function useDriver(file: string): void {
  process.env['VK_ICD_FILENAMES'] = file;
  process.env['VK_DRIVER_FILES'] = file;
  const folders = [path.dirname(file), environment['LD_LIBRARY_PATH']].filter((folder) => folder !== undefined);
  process.env['LD_LIBRARY_PATH'] = folders.join(':');
}

beforeAll(async () => {
  ({ startLocalEngine } = await importBuiltEngine());
  const { dir } = await prepareModel({
    checkpoint,
    cacheDir,
    weights: 'fp32',
    writeTokenizer: (folder) => writeTokenizerFiles({ path: checkpoint }, folder),
  });
  const limits = { numSlots: 16, maxLanes: 16, maxBatchedTokens: 64, chunkTokens: 40, threads: 1, drafting: false };
  model = { name: 'tiny@sha256:1', aliases: ['generator'], digest: 'sha256:1', dir, ...limits };
});
afterEach(async () => {
  await engine?.close();
  engine = undefined;
  process.env = { ...environment };
});
afterAll(() => rmSync(cacheDir, { recursive: true, force: true }));

const shared = Array.from({ length: 40 }, (_, i) => (i * 7 + 3) % 250);
const prompts = [shared, [...shared, 5, 6], [...shared.slice(0, 30), 9, 8, 7], [1, 2, 3], [...shared, 5, 6, 7, 8, 9]];

/** Each prompt's greedy tokens with the distance of the second best, three rounds of all at once, one reader leaving in each. */
async function play(started: LocalEngine) {
  const answers: { tokens: readonly number[]; margins: readonly number[]; cached: number }[] = [];
  for (let round = 0; round < 2; round++) {
    const leaver = (async () => {
      const endless = request('', {
        prompt: { kind: 'tokens', tokens: [9, 9, round] },
        maxTokens: 100,
        ignoreEos: true,
      });
      for await (const event of started.generate(endless)) if (event.type === 'delta') break;
    })();
    const all = await Promise.all(
      prompts.map(async (tokens) => {
        const fields = { prompt: { kind: 'tokens', tokens }, maxTokens: 6, ignoreEos: true, logprobs: 2 } as const;
        const { tokens: output, events } = await collect(started, request('', fields));
        const logprobs = events.flatMap((event) => (event.type === 'delta' ? (event.logprobs ?? []) : []));
        const end = events.at(-1);
        return {
          tokens: output,
          margins: logprobs.map(({ top: [best, second] }) => (best?.logprob ?? 0) - (second?.logprob ?? 0)),
          cached: end?.type === 'end' ? end.usage.cachedTokens : -1,
        };
      }),
    );
    await leaver;
    answers.push(...all);
  }
  expect(started.status()).toMatchObject({ running: 0, waiting: 0 });
  return answers;
}

describe('LocalEngine on WebGPU', () => {
  it('generates the tokens of the CPU', async (test) => {
    if (process.platform !== 'linux' || !existsSync(driver)) {
      test.skip(`No Vulkan driver at ${driver}: install Debian's chromium package, or name one in VK_ICD_FILENAMES.`);
    }
    engine = await startLocalEngine({ models: [model] });
    const expected = await play(engine);
    await engine.close();
    useDriver(driver);
    engine = await startLocalEngine({ models: [{ ...model, device: 'webgpu' }], hangAfterMs: 240_000 });
    expect(engine.models()[0]?.device).toBe('webgpu');
    const answers = await play(engine);
    let compared = 0;
    for (const [i, { tokens, cached }] of answers.entries()) {
      expect(tokens).toHaveLength(6);
      if (i >= prompts.length && prompts[i % prompts.length] !== prompts[3]) expect(cached).toBeGreaterThan(20);
      for (const [at, margin] of (expected[i]?.margins ?? []).entries()) {
        if (margin <= 0.01) break;
        expect(tokens[at]).toBe(expected[i]?.tokens[at]);
        compared++;
      }
    }
    expect(compared).toBeGreaterThan(30);
  });

  it('says that the device is not there, and `auto` needs none', async () => {
    useDriver('/nowhere.json');
    const named = startLocalEngine({ models: [{ ...model, device: 'webgpu' }] });
    await expect(named).rejects.toMatchObject({
      code: 'device_unavailable',
      message: expect.stringContaining('The device webgpu is not available: it needs a graphics driver'),
    });
    engine = await startLocalEngine({ models: [{ ...model, device: 'auto' }] });
    expect(engine.models()[0]).toMatchObject({ device: 'cpu', warning: undefined });
  });

  it('says that CUDA needs its libraries, and `auto` goes on without', async () => {
    const libraryPath = path.join(cacheDir, 'cuda');
    const { cpSync, mkdirSync, writeFileSync } = await import('node:fs');
    const { findPackagedLibrary } = await import('../../src/runtime/ort-library.ts');
    mkdirSync(libraryPath);
    cpSync(findPackagedLibrary(), path.join(libraryPath, 'libonnxruntime.so.1'));
    writeFileSync(path.join(libraryPath, 'libonnxruntime_providers_cuda.so'), 'not a library');
    const named = startLocalEngine({ models: [{ ...model, device: 'cuda', libraryPath }] });
    await expect(named).rejects.toMatchObject({
      code: 'device_unavailable',
      message: expect.stringContaining('The device cuda is not available'),
    });
    engine = await startLocalEngine({ models: [{ ...model, device: 'auto', libraryPath }] });
    expect(engine.models()[0]).toMatchObject({
      device: 'cpu',
      warning: expect.stringContaining('The models run on the CPU. The device cuda is not available'),
    });
  });
});
