/** Ready-made ONNX decoders: the same numbers as the lane graph of the same weights, alone and under the engine. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EngineCore } from '../../src/engine/core.ts';
import type { SequenceSpec } from '../../src/engine/messages.ts';
import type { CausalLM } from '../../src/models/causal-lm.ts';
import { loadCausalLM } from '../../src/models/load-causal-lm.ts';
import { prepareAny } from '../../src/models/prepare-any.ts';
import { spec } from '../support/engine-core-driver.ts';
import { goldenPath, readGoldenPrompts } from '../support/goldens.ts';
import { writeOnnxDecoder } from '../support/onnx-decoder.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const checkpoint = goldenPath('tiny-llama');
const LIMITS = { numSlots: 4, maxLength: 160, maxLanes: 3, maxBatchedTokens: 200, threads: 1 };
const folder = (): string => mkdtempSync(join(tmpdir(), 'stv-onnx-'));
const folders = { ready: folder(), cache: folder() };
let ready: CausalLM;
let lanes: CausalLM;

beforeAll(async () => {
  writeOnnxDecoder({ checkpoint, folder: folders.ready, file: 'onnx/model.onnx' });
  const options = { cacheDir: folders.cache, weights: 'fp32' } as const;
  ready = loadCausalLM({ dir: (await prepareAny({ ...options, checkpoint: folders.ready })).dir, ...LIMITS });
  lanes = loadCausalLM({ dir: (await prepareAny({ ...options, checkpoint })).dir, ...LIMITS });
});
afterAll(() => {
  ready?.dispose();
  lanes?.dispose();
  for (const folder of Object.values(folders)) rmSync(folder, { recursive: true, force: true });
});

/** Runs sequences that arrive at steps of their own; `cancelled` ones leave after some steps. */
function generate(model: CausalLM, specs: readonly SequenceSpec[], cancelled: ReadonlyMap<number, number>) {
  const core = new EngineCore(model, { chunkTokens: 24, reusePrefixes: true, minCopyTokens: 1 });
  const results = specs.map(() => ({ tokens: [] as number[], cached: 0 }));
  for (let step = 0; step < specs.length || core.hasWork; step++) {
    const arriving = specs[step];
    if (arriving !== undefined) core.add(arriving);
    for (const [id, at] of cancelled) if (at === step) core.abort(id);
    for (const output of core.step()?.outputs ?? []) {
      if (output.finish?.reason === 'error') throw new Error(output.finish.message);
      const result = results[output.id] as (typeof results)[number]; // ids are positions
      result.tokens.push(...output.tokens);
      result.cached = output.started?.cachedTokens ?? result.cached;
    }
    core.checkIntegrity();
  }
  expect(core.numSlotsUsed).toBe(0);
  return results;
}

describe('a ready-made decoder', () => {
  const prompts = readGoldenPrompts('tiny-llama');
  const [first] = prompts as [(typeof prompts)[0]];

  it('gives the logits of transformers, whole and in pieces, also from a copied or shortened prefix', () => {
    const { inputIds, logits } = first;
    const check = (rows: ReturnType<CausalLM['forward']>, positions: readonly number[]): void => {
      expect(rows.numRows).toBe(positions.length);
      for (const [index, position] of positions.entries()) {
        const worst = rows
          .row(index)
          .reduce((most, value, token) => Math.max(most, Math.abs(value - (logits[position]?.[token] as number))), 0);
        expect(worst).toBeLessThan(1e-3);
      }
    };
    const all = inputIds.map((_, position) => position);
    check(ready.forward([{ slot: 0, past: 0, tokens: inputIds, logitRows: all }]), all);
    ready.copyPrefix(0, 2, 11);
    const steps = ready.forward([
      { slot: 2, past: 11, tokens: inputIds.slice(11, 14), logitRows: [0, 2] },
      { slot: 0, past: 20, tokens: inputIds.slice(20, 30), logitRows: [9] },
    ]);
    check(steps, [11, 13, 29]);
    expect(() => ready.forward([{ slot: 2, past: 15, tokens: [1], logitRows: [0] }])).toThrow(/holds 14 tokens/);
  });

  it('gives more tokens at once than one of its runs takes', () => {
    const tokens = Array.from({ length: 150 }, (_, index) => 5 + ((index * 37) % 250));
    const row = (model: CausalLM): Float32Array =>
      model
        .forward([{ slot: 1, past: 0, tokens, logitRows: [0, 63, 64, 149] }])
        .row(3)
        .slice();
    const [expected, actual] = [row(lanes), row(ready)];
    const worst = expected.reduce(
      (most, value, token) => Math.max(most, Math.abs(value - (actual[token] as number))),
      0,
    );
    expect(worst).toBeLessThan(1e-3);
  });

  it('writes the tokens of the lane graph under the engine, with batches, shared prefixes and cancelled requests', () => {
    const stem = first.inputIds.slice(0, 30);
    const specs = Array.from({ length: 8 }, (_, id) => {
      const own = [5 + id * 7, 40 + id];
      return spec(id, [...stem.slice(0, 10 + 5 * (id % 5)), ...own], { maxTokens: 10 });
    });
    const cancelled = new Map([
      [2, 5],
      [5, 9],
    ]);
    const expected = generate(lanes, specs, new Map());
    const actual = generate(ready, specs, cancelled);
    for (const [id, { tokens }] of actual.entries()) {
      const whole = expected[id]?.tokens ?? [];
      expect(whole).toHaveLength(10);
      // how far a cancelled one comes depends on what drafts were worth
      expect(tokens).toEqual(cancelled.has(id) ? whole.slice(0, tokens.length) : whole);
    }
    expect([2, 5].every((id) => (actual[id]?.tokens.length ?? 10) < 10)).toBe(true);
    expect(actual.some(({ cached }) => cached > 0)).toBe(true);
  });

  it('is found again while nothing changed, and is another model with other weights', async () => {
    const prepare = () => prepareAny({ checkpoint: folders.ready, cacheDir: folders.cache, weights: 'int8' });
    const before = await prepare();
    expect(before.isReused).toBe(true);
    const changed = temporaryFolder();
    writeOnnxDecoder({ checkpoint, folder: changed });
    const same = await prepareAny({ checkpoint: changed, cacheDir: folders.cache, weights: 'int8' });
    expect(same.manifest.sourceDigest).toBe(before.manifest.sourceDigest);
    const data = join(changed, 'model.onnx_data');
    const bytes = readFileSync(data);
    bytes[bytes.length - 2] = (bytes[bytes.length - 2] as number) ^ 1;
    writeFileSync(data, bytes);
    const after = await prepareAny({ checkpoint: changed, cacheDir: folders.cache, weights: 'int8' });
    expect(after.manifest.sourceDigest).not.toBe(before.manifest.sourceDigest);
  });

  it('is refused by what it asks for, or for a cache that it does not have', async () => {
    const folder = temporaryFolder();
    writeOnnxDecoder({ checkpoint, folder, extraInput: 'use_cache_branch' });
    const { dir } = await prepareAny({ checkpoint: folder, cacheDir: folders.cache, weights: 'fp32' });
    expect(() => loadCausalLM({ dir, ...LIMITS })).toThrow(/asks for use_cache_branch/);
    expect(() => loadCausalLM({ dir, ...LIMITS, kv: 'int8' })).toThrow(/kv must be auto/);
    writeFileSync(join(folder, 'config.json'), '{}');
    await expect(prepareAny({ checkpoint: folder, cacheDir: folders.cache, weights: 'fp32' })).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining('vocab_size'),
    });
  });
});
