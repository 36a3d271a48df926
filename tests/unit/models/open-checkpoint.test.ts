import { copyFileSync, cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Checkpoint } from '../../../src/models/checkpoint.ts';
import { expectedTensors, validateCheckpoint } from '../../../src/models/expected-tensors.ts';
import { openCheckpoint } from '../../../src/models/open-checkpoint.ts';
import { dequantizeBlocks } from '../../../src/models/quantize-blocks.ts';
import { floatBytes, ggufFile, safetensorsFile } from '../../support/checkpoint-files.ts';
import { goldenGgufPath, goldenPath, TINY_MODELS, type TinyModel } from '../../support/goldens.ts';
import { expectStvError } from '../../support/stv-error.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

function open(path: string): Checkpoint {
  const checkpoint = openCheckpoint(path);
  onTestFinished(() => checkpoint.close());
  return checkpoint;
}

function sameBits(a: Float32Array, b: Float32Array): boolean {
  return Buffer.compare(new Uint8Array(a.buffer), new Uint8Array(b.buffer)) === 0;
}

/** A copy of a golden folder, to be damaged. */
function copyOf(model: TinyModel): string {
  const folder = temporaryFolder();
  cpSync(goldenPath(model), folder, { recursive: true });
  rmSync(join(folder, `${model}.gguf`));
  return folder;
}

function editJson(path: string, edit: (value: Record<string, unknown>) => void): void {
  const value = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  edit(value);
  writeFileSync(path, JSON.stringify(value));
}

describe.each(TINY_MODELS)('%s', (model) => {
  it('holds what its configuration asks for, in both formats', () => {
    for (const checkpoint of [open(goldenPath(model)), open(goldenGgufPath(model))]) {
      validateCheckpoint(checkpoint);
      const names = [...checkpoint.tensors.keys()].filter((name) => name !== 'rope_freqs.weight');
      expect(names.sort()).toEqual([...expectedTensors(checkpoint.config).keys()].sort());
    }
  });

  it('has equal tensors in safetensors and GGUF: names, shapes, row order', () => {
    const safetensors = open(goldenPath(model));
    const gguf = open(goldenGgufPath(model));
    expect([safetensors.format, gguf.format]).toEqual(['safetensors', 'gguf']);
    for (const [name, { shape }] of safetensors.tensors) {
      expect(gguf.tensors.get(name)?.shape).toEqual(shape);
      const expected = safetensors.readFloat32(name);
      const actual = gguf.readFloat32(name);
      expect(sameBits(actual, expected), `values of ${name} differ`).toBe(true);
    }
  });

  it('has equal configurations in safetensors and GGUF', () => {
    const { ropeScaling: scaling, rmsNormEps: eps, ...config } = open(goldenPath(model)).config;
    const { ropeScaling: ggufScaling, rmsNormEps: ggufEps, ...ggufConfig } = open(goldenGgufPath(model)).config;
    expect(ggufConfig).toEqual(config);
    expect(ggufEps).toBe(Math.fround(eps));
    if (scaling?.type === 'llama3') expect(ggufScaling?.type).toBe('factors');
    else expect(ggufScaling).toEqual(scaling);
  });
});

describe('readBlocks', () => {
  it('gives the stored blocks of Q8_0 without loss, rows of q and k in order', () => {
    const gguf = open(goldenGgufPath('tiny-llama'));
    for (const [name, { dtype, shape }] of gguf.tensors) {
      const blocks = gguf.readBlocks(name);
      if (shape.length !== 2) {
        expect(blocks).toBeUndefined();
        continue;
      }
      expect(dtype).toBe('Q8_0');
      expect(blocks?.bits).toBe(8);
      expect(blocks && sameBits(dequantizeBlocks(blocks), gguf.readFloat32(name)), name).toBe(true);
    }
  });

  it('gives the stored blocks of Q4_0 without loss, with neighbours in one byte', () => {
    const { config, rows } = tinyQ4();
    const gguf = open(join(temporaryFolder({ 'm.gguf': config }), 'm.gguf'));
    for (const name of ['model.embed_tokens.weight', 'model.layers.0.self_attn.q_proj.weight']) {
      const blocks = gguf.readBlocks(name);
      expect(blocks).toMatchObject({ bits: 4, blockSize: 32 });
      expect(blocks?.quants).toHaveLength(rows * 32);
      expect(blocks && sameBits(dequantizeBlocks(blocks), gguf.readFloat32(name)), name).toBe(true);
    }
  });

  it('has none for floats, K-quants and 5 bits, and no tensor that is not there', () => {
    const safetensors = open(goldenPath('tiny-llama'));
    expect(safetensors.readBlocks('model.embed_tokens.weight')).toBeUndefined();
    expect(open(goldenGgufPath('tiny-qwen2')).readBlocks('model.embed_tokens.weight')).toBeUndefined();
    expectStvError(() => safetensors.readBlocks('nope'), 'checkpoint_invalid', '"nope" is missing', safetensors.path);
    expectStvError(() => safetensors.readFloat32('nope'), 'checkpoint_invalid', '"nope" is missing');
  });

  /** 64 x 64 matrices of Q4_0 with different nibbles everywhere, a negative scale among them. */
  function tinyQ4(): { config: Uint8Array; rows: number } {
    const rows = 64;
    const bytes = new Uint8Array(rows * 2 * 18).map((_, i) => (i * 37 + (i >> 3)) & 255);
    for (let block = 0; block < rows * 2; block++) bytes.set([block & 255, block % 3 === 0 ? 0xb0 : 0x30], block * 18);
    const integer = (value: number) => ({ type: 'uint32', value }) as const;
    const config = ggufFile({
      metadata: {
        'general.architecture': { type: 'string', value: 'llama' },
        'llama.embedding_length': integer(64),
        'llama.block_count': integer(1),
        'llama.feed_forward_length': integer(64),
        'llama.attention.head_count': integer(4),
        'llama.context_length': integer(64),
        'llama.attention.layer_norm_rms_epsilon': { type: 'float32', value: 1e-5 },
      },
      tensors: ['token_embd.weight', 'blk.0.attn_q.weight'].map((name) => ({ name, dims: [64, 64], type: 2, bytes })),
    });
    return { config, rows };
  }
});

describe('openCheckpoint', () => {
  it('opens a folder that holds exactly one GGUF file', () => {
    const folder = temporaryFolder();
    copyFileSync(goldenGgufPath('tiny-llama'), join(folder, 'any-name.gguf'));
    expect(open(folder).path).toBe(join(folder, 'any-name.gguf'));
    copyFileSync(goldenGgufPath('tiny-llama'), join(folder, 'other.gguf'));
    expectStvError(() => openCheckpoint(folder), 'checkpoint_invalid', folder, '2 GGUF files');
  });

  it.each([
    ['nothing', {}, 'neither safetensors nor a GGUF file'],
    ['a config alone', { 'config.json': '{}' }, 'no safetensors or GGUF file'],
    ['weights without a config', { 'model.safetensors': '' }, 'config.json'],
    ['a broken config', { 'model.safetensors': '', 'config.json': '{' }, 'not valid JSON'],
  ])('refuses a folder with %s', (_, files, message) => {
    const folder = temporaryFolder(files);
    expectStvError(() => openCheckpoint(folder), 'checkpoint_invalid', folder, message);
  });

  it('refuses a path that is not there and a file of another kind', () => {
    const folder = temporaryFolder({ 'model.bin': 'x' });
    expectStvError(() => openCheckpoint(join(folder, 'nope')), 'checkpoint_invalid', 'no such file');
    expectStvError(() => openCheckpoint(join(folder, 'model.bin')), 'checkpoint_invalid', 'neither a folder nor');
  });

  it('takes a single safetensors file of any name, but not several without an index', () => {
    const folder = copyOf('tiny-qwen2');
    rmSync(join(folder, 'model.safetensors.index.json'));
    expectStvError(() => openCheckpoint(folder), 'checkpoint_invalid', '2 safetensors files');
    rmSync(join(folder, 'model-00002-of-00002.safetensors'));
    expect(open(folder).tensors.size).toBeGreaterThan(0);
  });

  it.each([
    ['a path out of the folder', '../x.safetensors', 'not a safetensors file of this folder'],
    ['a file that is not there', 'model-00003.safetensors', 'model-00003.safetensors" cannot be used'],
    ['a file that lacks the tensor', 'model-00002-of-00002.safetensors', 'model.embed_tokens.weight'],
  ])('refuses an index that names %s', (_, file, message) => {
    const folder = copyOf('tiny-qwen2');
    editJson(join(folder, 'model.safetensors.index.json'), ({ weight_map: weightMap }) => {
      (weightMap as Record<string, string>)['model.embed_tokens.weight'] = file;
    });
    expectStvError(() => openCheckpoint(folder), 'checkpoint_invalid', message);
  });

  it.each(['{', '[]', '{"weight_map": []}', '{"weight_map": {}}', 'null'])('refuses the index %s', (content) => {
    const folder = copyOf('tiny-qwen2');
    writeFileSync(join(folder, 'model.safetensors.index.json'), content);
    expectStvError(() => openCheckpoint(folder), 'checkpoint_invalid', 'model.safetensors.index.json');
  });

  it('names file and architecture when it does not know the model', () => {
    const folder = copyOf('tiny-llama');
    editJson(join(folder, 'config.json'), (config) => {
      config['model_type'] = 'gemma3_text';
    });
    expectStvError(
      () => openCheckpoint(folder),
      'architecture_unsupported',
      folder,
      'gemma3_text',
      'llama, qwen2, qwen3',
    );
    const bytes = Buffer.from(readFileSync(goldenGgufPath('tiny-llama')));
    const at = bytes.indexOf('general.architecture') + 'general.architecture'.length + 12;
    expect(bytes.toString('utf8', at, at + 5)).toBe('llama');
    bytes.write('gemma', at);
    const path = join(temporaryFolder({ 'm.gguf': bytes }), 'm.gguf');
    expectStvError(() => openCheckpoint(path), 'architecture_unsupported', path, 'gemma', 'llama, qwen2, qwen3');
  });
});

describe('validateCheckpoint', () => {
  it('names the tensor that is missing', () => {
    const folder = copyOf('tiny-llama');
    editJson(join(folder, 'config.json'), (config) => {
      config['num_hidden_layers'] = 3;
    });
    const checkpoint = open(folder);
    const error = () => validateCheckpoint(checkpoint);
    expectStvError(error, 'checkpoint_invalid', folder, '"model.layers.2.input_layernorm.weight" is missing');
  });

  it('names the tensor of wrong shape', () => {
    const folder = copyOf('tiny-llama');
    editJson(join(folder, 'config.json'), (config) => {
      config['intermediate_size'] = 96;
    });
    const checkpoint = open(folder);
    const error = () => validateCheckpoint(checkpoint);
    expectStvError(error, 'checkpoint_invalid', '"model.layers.0.mlp.gate_proj.weight" has shape [128,64]', '[96,64]');
  });

  it.each([
    ['a layer too many', 'num_hidden_layers', 1, 'model.layers.1.'],
    ['a bias that its config denies', 'attention_bias', false, 'self_attn.'],
  ])('refuses %s instead of leaving it out', (_, field, value, message) => {
    const folder = copyOf(field === 'attention_bias' ? 'tiny-llama-biased' : 'tiny-llama');
    editJson(join(folder, 'config.json'), (config) => {
      config[field] = value;
    });
    const checkpoint = open(folder);
    expectStvError(() => validateCheckpoint(checkpoint), 'checkpoint_invalid', message, 'has no place');
  });

  it('leaves alone what is not a layer of the model, and rotary frequencies that old checkpoints carry', () => {
    const checkpoint = open(goldenPath('tiny-llama'));
    const tensors = new Map(checkpoint.tensors);
    for (const name of ['model.layers.0.self_attn.rotary_emb.inv_freq', 'lm_head.weight', 'value_head.weight']) {
      tensors.set(name, { name, dtype: 'F32', shape: [8] });
    }
    expect(() => validateCheckpoint(Object.assign(Object.create(checkpoint), { tensors }))).not.toThrow();
  });
});

it('closes its files: a closed checkpoint reads nothing more', () => {
  const header = { w: { dtype: 'F32', shape: [1], data_offsets: [0, 4] } };
  const folder = copyOf('tiny-llama');
  writeFileSync(join(folder, 'model.safetensors'), safetensorsFile(header, floatBytes(1)));
  const checkpoint = openCheckpoint(folder);
  expect([...checkpoint.readFloat32('w')]).toEqual([1]);
  checkpoint.close();
  expectStvError(() => checkpoint.readFloat32('w'), 'checkpoint_invalid', 'closed');
});
