/** The lane graph against `transformers` on tiny random checkpoints of every family, however the tokens are put into lanes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { measureScales, writeSequences } from '../../src/models/calibrate.ts';
import type { CausalLM, Lane } from '../../src/models/causal-lm.ts';
import { cacheScalesOf, type WeightFormat } from '../../src/models/lane-graph.ts';
import { type LoadCausalLMOptions, loadCausalLM } from '../../src/models/load-causal-lm.ts';
import { openCheckpoint } from '../../src/models/open-checkpoint.ts';
import { prepareModel } from '../../src/models/prepare-model.ts';
import { WEIGHTS_FILE } from '../../src/models/prepared-model.ts';
import { loadRuntime } from '../../src/runtime/runtime.ts';
import { goldenGgufPath, goldenPath, readGoldenPrompts, TINY_MODELS } from '../support/goldens.ts';
import { randomCheckpoint } from '../support/random-checkpoint.ts';
import { referenceForward } from '../support/reference-forward.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

interface LoadOptions extends Partial<LoadCausalLMOptions> {
  readonly weights?: WeightFormat;
  readonly calibrate?: boolean;
}

async function load(checkpoint: string, options: LoadOptions = {}): Promise<CausalLM> {
  const { weights = 'fp32', calibrate = false, ...limits } = options;
  const { dir } = await prepareModel({ checkpoint, cacheDir: temporaryFolder(), weights, calibrate });
  const model = loadCausalLM({
    dir,
    numSlots: 6,
    maxLength: 128,
    maxLanes: 5,
    maxBatchedTokens: 256,
    threads: 1,
    ...limits,
  });
  onTestFinished(() => model.dispose());
  return model;
}

/** Copies of the rows, which the next step overwrites. */
function forward(model: CausalLM, lanes: readonly Lane[]): readonly Float32Array[] {
  const logits = model.forward(lanes);
  return Array.from({ length: logits.numRows }, (_, row) => logits.row(row).slice());
}

function maxDifference(rows: readonly Float32Array[], expected: readonly Float32Array[]): number {
  expect(rows).toHaveLength(expected.length);
  let worst = 0;
  for (const [index, row] of rows.entries()) {
    const other = expected[index] ?? new Float32Array(0);
    expect(row).toHaveLength(other.length);
    // Math.max would swallow nothing here: NaN makes the result NaN, and every comparison with it fails
    for (const [token, value] of row.entries()) worst = Math.max(worst, Math.abs(value - (other[token] ?? Number.NaN)));
  }
  return worst;
}

/** Root of the squared differences over the root of the squares. */
function relativeError(rows: readonly Float32Array[], expected: readonly Float32Array[]): number {
  expect(rows).toHaveLength(expected.length);
  let squaredError = 0;
  let squares = 0;
  for (const [position, row] of rows.entries()) {
    for (const [token, value] of row.entries()) {
      const wanted = expected[position]?.[token] ?? Number.NaN;
      squaredError += (value - wanted) ** 2;
      squares += wanted ** 2;
    }
  }
  return Math.sqrt(squaredError / squares);
}

function wholePrompt(model: CausalLM, inputIds: readonly number[]): readonly Float32Array[] {
  return forward(model, [{ slot: 0, past: 0, tokens: inputIds, logitRows: upTo(inputIds.length) }]);
}

const upTo = (length: number): number[] => Array.from({ length }, (_, index) => index);

describe.each(TINY_MODELS)('%s', (name) => {
  const prompts = readGoldenPrompts(name);
  const [first, second] = prompts as [(typeof prompts)[0], (typeof prompts)[0]]; // each golden has two

  it.each([
    ['safetensors', goldenPath(name)],
    ['GGUF', goldenGgufPath(name)],
  ])('gives the logits of transformers from %s', async (_, path) => {
    const model = await load(path);
    for (const { inputIds, logits } of prompts) {
      const rows = forward(model, [{ slot: 0, past: 0, tokens: inputIds, logitRows: upTo(inputIds.length) }]);
      expect(maxDifference(rows, logits)).toBeLessThan(1e-3);
    }
  });

  it('gives a prompt the same bits however it is cut into steps of two tokens and more', async () => {
    const model = await load(goldenPath(name), { weights: 'int8' });
    const { inputIds } = first;
    const whole = wholePrompt(model, inputIds);
    for (const size of [2, 3, 7, 19]) {
      const rows: Float32Array[] = [];
      for (let past = 0; past < inputIds.length; ) {
        const left = inputIds.length - past;
        const tokens = inputIds.slice(past, past + (left <= size + 1 ? left : size)); // never one token alone
        rows.push(...forward(model, [{ slot: 1, past, tokens, logitRows: upTo(tokens.length) }]));
        past += tokens.length;
      }
      expect(maxDifference(rows, whole), `steps of ${size}`).toBe(0);
    }
  });

  it('gives them token by token, also where another sequence was before', async () => {
    const model = await load(goldenPath(name));
    forward(model, [{ slot: 2, past: 0, tokens: second.inputIds, logitRows: [] }]);
    const rows = first.inputIds.flatMap((token, past) =>
      forward(model, [{ slot: 2, past, tokens: [token], logitRows: [0] }]),
    );
    expect(maxDifference(rows, first.logits)).toBeLessThan(1e-3);
  });

  it('gives them with chunks, single tokens and whole prompts mixed in one step', async () => {
    const model = await load(goldenPath(name));
    const { inputIds, logits } = first;
    forward(model, [
      { slot: 0, past: 0, tokens: inputIds.slice(0, 7), logitRows: [] },
      { slot: 1, past: 0, tokens: inputIds.slice(0, 20), logitRows: [] },
    ]);
    const rows = forward(model, [
      { slot: 3, past: 0, tokens: second.inputIds, logitRows: [4, second.inputIds.length - 1] },
      { slot: 1, past: 20, tokens: inputIds.slice(20, 21), logitRows: [0] },
      { slot: 0, past: 7, tokens: inputIds.slice(7), logitRows: [0, 30] },
    ]);
    const expected = [second.logits[4], second.logits.at(-1), logits[20], logits[7], logits[37]];
    expect(maxDifference(rows, expected as Float32Array[])).toBeLessThan(1e-3); // all positions exist
  });

  it('keeps every cache when the number of lanes goes up and down', async () => {
    const model = await load(goldenPath(name));
    const { inputIds, logits } = first;
    // step after step other slots take part, so lanes change places and spare ones appear
    const past = new Map<number, number>();
    for (let step = 0; step < 200; step++) {
      const slots = upTo(6)
        .filter((slot) => (step * (slot + 3)) % (slot + 4) < 2)
        .slice(0, 5);
      const lanes = slots.flatMap((slot) => {
        const start = past.get(slot) ?? 0;
        const tokens = inputIds.slice(start, start + 1 + ((step + slot) % 3));
        return tokens.length === 0 ? [] : [{ slot, past: start, tokens, logitRows: [tokens.length - 1] }];
      });
      if (lanes.length === 0) continue;
      const expected = lanes.map((lane) => logits[lane.past + lane.tokens.length - 1] as Float32Array); // inside the prompt
      expect(maxDifference(forward(model, lanes), expected)).toBeLessThan(1e-3);
      for (const lane of lanes) past.set(lane.slot, lane.past + lane.tokens.length);
    }
    expect([...past.values()].filter((length) => length === inputIds.length).length).toBeGreaterThan(3);
  });

  it('goes on from a copied prefix as from its own', async () => {
    const model = await load(goldenPath(name));
    const { inputIds, logits } = first;
    forward(model, [
      { slot: 4, past: 0, tokens: inputIds.slice(0, 25), logitRows: [] },
      { slot: 5, past: 0, tokens: second.inputIds, logitRows: [] },
    ]);
    model.copyPrefix(4, 5, 25);
    model.copyPrefix(4, 0, 10);
    const rows = forward(model, [
      { slot: 5, past: 25, tokens: inputIds.slice(25), logitRows: [14] },
      { slot: 0, past: 10, tokens: inputIds.slice(10, 30), logitRows: [19] },
      { slot: 4, past: 25, tokens: inputIds.slice(25, 26), logitRows: [0] },
    ]);
    const expected = [logits[39], logits[29], logits[25]];
    expect(maxDifference(rows, expected as Float32Array[])).toBeLessThan(1e-3); // the prompt has 40 tokens
  });

  it.each([
    ['int8', 0.05],
    ['int4', 0.3],
  ] as const)('stays close with %s weights', async (weights, relativeLimit) => {
    const model = await load(goldenPath(name), { weights });
    const relative = relativeError(wholePrompt(model, first.inputIds), first.logits);
    expect(relative).toBeLessThan(relativeLimit);
    expect(relative).toBeGreaterThan(0); // the weights really are quantized
  });

  it('is the same function with scales between channels', async () => {
    const plain = await load(goldenPath(name), { weights: 'int8' });
    const scaled = await load(goldenPath(name), { weights: 'int8', calibrate: true, kv: 'fp32' });
    const before = relativeError(wholePrompt(plain, first.inputIds), first.logits);
    const after = relativeError(wholePrompt(scaled, first.inputIds), first.logits);
    expect(after).toBeLessThan(0.05);
    expect(after).not.toBe(before); // the weights really are scaled
  });

  it('stays close with an int8 cache, token by token and from a copied prefix', async () => {
    const model = await load(goldenPath(name), { calibrate: true, kv: 'int8' });
    const { inputIds, logits } = first;
    const alone = inputIds.flatMap((token, past) =>
      forward(model, [{ slot: 1, past, tokens: [token], logitRows: [0] }]),
    );
    const loss = relativeError(alone, logits);
    expect(loss).toBeLessThan(0.05);
    expect(loss).toBeGreaterThan(0); // the cache really is quantized
    model.copyPrefix(1, 3, 20);
    const rest = forward(model, [
      { slot: 0, past: 0, tokens: second.inputIds, logitRows: [] },
      { slot: 3, past: 20, tokens: inputIds.slice(20), logitRows: upTo(inputIds.length - 20) },
    ]);
    expect(maxDifference(rest, alone.slice(20))).toBeLessThan(1e-2);
  });
});

describe('a hidden size that quantization blocks do not divide', () => {
  const tokens = [1, 17, 96, 4, 130, 55, 2, 71];

  it.each([
    ['int8', true],
    ['int8', false],
    ['int4', true],
  ] as const)('is the same function with scales between channels: %s, tied %s', async (weights, isTied) => {
    const folder = randomCheckpoint({ hidden_size: 48, head_dim: 16, tie_word_embeddings: isTied });
    const checkpoint = openCheckpoint(folder);
    const truth = referenceForward(checkpoint, tokens);
    checkpoint.close();
    const plain = await load(folder, { weights });
    const scaled = await load(folder, { weights, calibrate: true, kv: 'fp32' });
    const before = relativeError(wholePrompt(plain, tokens), truth);
    const after = relativeError(wholePrompt(scaled, tokens), truth);
    expect(before).toBeLessThan(weights === 'int8' ? 0.05 : 0.3);
    // the head stays float here, so that scales can make it neither better nor worse
    expect(after).toBeLessThan(1.5 * before);
  });
});

describe('the scales of an int8 cache', () => {
  it('fit keys and values as they are cached, where int8 weights divide the values', async () => {
    // of another size in each channel, so that calibration scales them
    const checkpoint = randomCheckpoint({}, (name, row) => (name.includes('v_proj') ? (1 + (row % 16)) / 8 : 1));
    const options = { checkpoint, cacheDir: temporaryFolder(), weights: 'int8' } as const;
    const plain = await prepareModel(options);
    const scaled = await prepareModel({ ...options, calibrate: true });
    const runtime = loadRuntime();
    onTestFinished(() => runtime.dispose());
    // the text that the scales come from, as the finished model caches it
    const sequences = await writeSequences({ runtime, dir: plain.dir });
    const measured = await measureScales({ runtime, dir: scaled.dir }, sequences, () => false);
    const bytes = readFileSync(join(scaled.dir, WEIGHTS_FILE));
    for (const part of ['key', 'value'] as const) {
      for (let layer = 0; layer < scaled.manifest.config.numHiddenLayers; layer++) {
        const name = cacheScalesOf(layer, part);
        const offset = scaled.manifest.tensors.find((tensor) => tensor.name === name)?.offset ?? Number.NaN;
        for (const [channel, wanted] of (measured.weights.get(name) ?? []).entries()) {
          const share = bytes.readFloatLE(offset + 4 * channel) / wanted;
          expect(share, `${name}, channel ${channel}`).toBeGreaterThan(0.8);
          expect(share, `${name}, channel ${channel}`).toBeLessThan(1.25);
        }
      }
    }
  });
});

describe('limits', () => {
  it('refuses a step that would leave the cache, the vocabulary or the batch', async () => {
    const model = await load(goldenPath('tiny-llama'), {
      numSlots: 2,
      maxLength: 8,
      maxLanes: 2,
      maxBatchedTokens: 10,
    });
    const lane = { slot: 0, past: 0, tokens: [1, 2], logitRows: [1] };
    const wrong: readonly (readonly Lane[])[] = [
      [],
      [lane, { ...lane, slot: 1 }, { ...lane, slot: 1 }],
      [lane, lane],
      [{ ...lane, slot: 2 }],
      [{ ...lane, slot: -1 }],
      [{ ...lane, past: 7 }],
      [{ ...lane, past: -1 }],
      [{ ...lane, tokens: [] }],
      [{ ...lane, tokens: [288, 0] }],
      [{ ...lane, tokens: [-1, 0] }],
      [{ ...lane, tokens: [0.5, 0] }],
      [{ ...lane, logitRows: [2] }],
      [
        { ...lane, tokens: upTo(8) },
        { ...lane, slot: 1, tokens: upTo(3) },
      ],
    ];
    const [before] = forward(model, [lane]);
    for (const lanes of wrong)
      expect(() => model.forward(lanes)).toThrow(expect.objectContaining({ code: 'internal' }));
    expect(() => model.copyPrefix(0, 2, 1)).toThrow(expect.objectContaining({ code: 'internal' }));
    expect(() => model.copyPrefix(0, 1, 9)).toThrow(expect.objectContaining({ code: 'internal' }));
    expect(forward(model, [lane])[0]).toEqual(before);
  });

  it('takes as many tokens as a slot holds, and rows of logits for all of them', async () => {
    const model = await load(goldenPath('tiny-qwen3'), { maxLength: 40, maxLanes: 1 });
    const [{ inputIds, logits }] = readGoldenPrompts('tiny-qwen3') as [ReturnType<typeof readGoldenPrompts>[0]];
    const rows = forward(model, [{ slot: 5, past: 0, tokens: inputIds, logitRows: upTo(40) }]);
    expect(maxDifference(rows, logits)).toBeLessThan(1e-3);
  });

  it('never promises more than the model was made for', async () => {
    const model = await load(goldenPath('tiny-llama'), { maxLength: 100_000 });
    expect(model.limits.maxLength).toBe(256);
  });

  it('refuses an int8 cache without the scales for it', async () => {
    await expect(load(goldenPath('tiny-llama'), { kv: 'int8' })).rejects.toThrow(/prepared without calibration/);
  });

  it('names the limit that is wrong', async () => {
    await expect(load(goldenPath('tiny-llama'), { maxLanes: 17 })).rejects.toThrow(
      'maxLanes must be an integer from 1 to 16, not 17.',
    );
  });
});
