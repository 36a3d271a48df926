import { describe, expect, it } from 'vitest';
import { ConfigFields } from '../../../src/models/config-fields.ts';
import type { Gguf } from '../../../src/models/gguf.ts';
import type { ModelConfig } from '../../../src/models/model-config.ts';
import { modelConfigFromGguf } from '../../../src/models/model-config-gguf.ts';
import { modelConfigFromJson } from '../../../src/models/model-config-json.ts';
import { expectStvError } from '../../support/stv-error.ts';

const LLAMA = {
  model_type: 'llama',
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  vocab_size: 49152,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-5,
  bos_token_id: 1,
  eos_token_id: 2,
  tie_word_embeddings: true,
  rope_theta: 100000,
};

function fields(value: object, path = '/m/config.json'): ConfigFields {
  return new ConfigFields(path, new Map(Object.entries(value)));
}

function parse(change: object = {}, generation?: object): ModelConfig {
  return modelConfigFromJson(
    fields({ ...LLAMA, ...change }),
    generation === undefined ? undefined : fields(generation, '/m/generation_config.json'),
  );
}

describe('modelConfigFromJson', () => {
  it('reads a llama configuration in the old spelling', () => {
    expect(parse()).toEqual({
      modelType: 'llama',
      hiddenSize: 576,
      intermediateSize: 1536,
      numHiddenLayers: 30,
      numAttentionHeads: 9,
      numKeyValueHeads: 3,
      headDim: 64,
      vocabSize: 49152,
      rmsNormEps: 1e-5,
      ropeTheta: 100000,
      maxPositionEmbeddings: 8192,
      tieWordEmbeddings: true,
      attentionBias: false,
      attentionOutputBias: false,
      bosTokenId: 1,
      eosTokenIds: [2],
    });
  });

  it('takes the defaults of transformers for what is absent', () => {
    const absent = {
      max_position_embeddings: undefined,
      rms_norm_eps: undefined,
      rope_theta: undefined,
      num_key_value_heads: null,
      tie_word_embeddings: undefined,
      bos_token_id: null,
      eos_token_id: null,
    };
    const config = parse(absent);
    expect(config).toMatchObject({
      maxPositionEmbeddings: 2048,
      rmsNormEps: 1e-6,
      ropeTheta: 10000,
      numKeyValueHeads: 9,
      tieWordEmbeddings: false,
      eosTokenIds: [],
    });
    expect(config.bosTokenId).toBeUndefined();
    expect(parse({ ...absent, model_type: 'qwen2' }).maxPositionEmbeddings).toBe(32768);
    expect(parse({ model_type: 'qwen3' }).headDim).toBe(128);
    expect(parse({ model_type: 'qwen3', head_dim: 96 }).headDim).toBe(96);
    expect(parse({ head_dim: null }).headDim).toBe(64);
  });

  it.each([
    ['llama', false, { attentionBias: false, attentionOutputBias: false }],
    ['llama', true, { attentionBias: true, attentionOutputBias: true }],
    ['qwen2', false, { attentionBias: true, attentionOutputBias: false }],
    ['qwen3', true, { attentionBias: true, attentionOutputBias: true }],
  ])('knows the biases of %s with attention_bias %s', (modelType, bias, expected) => {
    expect(parse({ model_type: modelType, attention_bias: bias })).toMatchObject(expected);
  });

  it('joins the end-of-sequence ids of both files, those of generation first', () => {
    expect(parse({ eos_token_id: [7, 8] }).eosTokenIds).toEqual([7, 8]);
    expect(parse({ eos_token_id: 2 }, { eos_token_id: [5, 2] }).eosTokenIds).toEqual([5, 2]);
    expect(parse({ eos_token_id: null }, { eos_token_id: 9 }).eosTokenIds).toEqual([9]);
    expectStvError(() => parse({ eos_token_id: 'end' }), 'checkpoint_invalid', '"eos_token_id"');
    expectStvError(() => parse({}, { eos_token_id: [-1] }), 'checkpoint_invalid', 'generation_config.json');
    expectStvError(() => parse({ eos_token_id: 49152 }), 'checkpoint_invalid', 'outside its vocabulary of 49152');
  });

  const llama3 = { factor: 32, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
  const llama3Parsed = {
    type: 'llama3',
    factor: 32,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 8192,
  };
  it.each([
    ['rope_scaling, rope_type', { rope_scaling: { rope_type: 'llama3', ...llama3 } }, 100000, llama3Parsed],
    ['rope_scaling, type', { rope_scaling: { type: 'linear', factor: 2 } }, 100000, { type: 'linear', factor: 2 }],
    ['rope_parameters', { rope_parameters: { rope_type: 'llama3', rope_theta: 5e5, ...llama3 } }, 5e5, llama3Parsed],
    ['rope_parameters without scaling', { rope_parameters: { rope_type: 'default', rope_theta: 5e5 } }, 5e5, undefined],
    ['rope_scaling null', { rope_scaling: null }, 100000, undefined],
    ['an empty rope_scaling', { rope_scaling: {} }, 100000, undefined],
  ])('reads %s', (_, change, theta, scaling) => {
    const config = parse(change);
    expect(config.ropeTheta).toBe(theta);
    expect(config.ropeScaling).toEqual(scaling);
  });

  it('reads yarn with its defaults, its own attention factor, and one from mscale', () => {
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 2048 };
    expect(parse({ rope_scaling: yarn }).ropeScaling).toEqual({
      type: 'yarn',
      factor: 4,
      originalMaxPositionEmbeddings: 2048,
      betaFast: 32,
      betaSlow: 1,
    });
    const scaling = parse({ rope_scaling: { ...yarn, attention_factor: 1.25, truncate: false } }).ropeScaling;
    expect(scaling).toMatchObject({ attentionFactor: 1.25, truncate: false });
    const fromMscale = parse({ rope_scaling: { ...yarn, mscale: 1, mscale_all_dim: 0.5 } }).ropeScaling;
    const expected = (0.1 * Math.log(4) + 1) / (0.05 * Math.log(4) + 1);
    expect(fromMscale?.type === 'yarn' && fromMscale.attentionFactor).toBeCloseTo(expected, 12);
    const bare = parse({ rope_scaling: { rope_type: 'yarn' }, original_max_position_embeddings: 1024 }).ropeScaling;
    expect(bare).toMatchObject({ factor: 8, originalMaxPositionEmbeddings: 1024 });
  });

  it('serves a sliding window up to its length, where it equals full attention', () => {
    const window = { sliding_window: 4096 };
    expect(parse({ model_type: 'qwen2', ...window, use_sliding_window: false }).maxPositionEmbeddings).toBe(8192);
    expect(parse({ model_type: 'qwen2', ...window, use_sliding_window: true }).maxPositionEmbeddings).toBe(4096);
    expect(parse({ model_type: 'mistral', ...window })).toMatchObject({
      modelType: 'llama',
      maxPositionEmbeddings: 4096,
    });
    expect(parse({ model_type: 'mistral', sliding_window: null }).maxPositionEmbeddings).toBe(8192);
    const layers = { ...window, layer_types: ['full_attention', 'sliding_attention'] };
    expect(parse({ model_type: 'qwen3', ...layers }).maxPositionEmbeddings).toBe(4096);
  });

  it.each([
    ['another activation', { hidden_act: 'gelu' }, '"gelu"'],
    ['biases in the feed-forward layers', { mlp_bias: true }, 'feed-forward'],
    ['quantized weights', { quantization_config: { quant_method: 'gptq' } }, 'quantization_config'],
    ['partial rotation', { partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
    ['linear attention layers', { layer_types: ['linear_attention'] }, '"linear_attention"'],
    ['another scaling', { rope_scaling: { rope_type: 'longrope', factor: 2 } }, '"longrope"'],
    ['rotation by layer type', { rope_parameters: { full_attention: {} } }, 'differs between layers'],
    ['no model type', { model_type: undefined }, 'no model_type'],
    ['a head that attention cannot rotate', { head_dim: 40 }, 'head_dim 40 is not a multiple of 16'],
  ])('refuses %s as unsupported', (_, change, message) => {
    expectStvError(() => parse(change), 'architecture_unsupported', '/m/config.json', message, 'llama, qwen2, qwen3');
  });

  it.each([
    ['hidden_size', undefined, 'lacks "hidden_size"'],
    ['hidden_size', 'wide', '"hidden_size" must be a number, but it is "wide"'],
    ['num_hidden_layers', 2.5, '"num_hidden_layers" must be an integer, but it is 2.5'],
    ['num_hidden_layers', 1e9, 'between 1 and 1024, but it is 1000000000'],
    ['vocab_size', 0, '"vocab_size" must be between 1'],
    ['num_key_value_heads', 2, 'not a multiple of its 2 key-value heads'],
    ['head_dim', 63, 'head size 63 is odd'],
    ['tie_word_embeddings', 'yes', '"tie_word_embeddings" must be true or false'],
    ['rope_scaling', 'linear', '"rope_scaling" must be an object'],
    ['rope_scaling', { type: 'linear' }, 'lacks "rope_scaling.factor"'],
    ['rope_scaling', { type: 'linear', factor: 0 }, '"rope_scaling.factor" must be between'],
    ['rope_scaling', { type: 'llama3', ...llama3, high_freq_factor: 1 }, '"high_freq_factor" must be larger'],
  ])('refuses %s = %j', (name, value, message) => {
    expectStvError(() => parse({ [name]: value }), 'checkpoint_invalid', '/m/config.json', message);
  });
});

describe('modelConfigFromGguf', () => {
  const METADATA = {
    'general.architecture': 'llama',
    'llama.embedding_length': 64,
    'llama.block_count': 2,
    'llama.feed_forward_length': 128,
    'llama.attention.head_count': 4,
    'llama.context_length': 512,
    'llama.attention.layer_norm_rms_epsilon': 1e-5,
    'tokenizer.ggml.eos_token_id': 2,
    'tokenizer.ggml.eot_token_id': 7,
  };

  interface ScalingFields {
    readonly type?: string;
    readonly factor?: number;
    readonly linear?: number;
  }

  function parseGguf(
    change: object = {},
    { ropeFactors, tensors = [] }: { ropeFactors?: Float32Array; tensors?: readonly string[] } = {},
  ): ModelConfig {
    const names = ['token_embd.weight', ...tensors];
    const gguf: Gguf = {
      path: '/m/x.gguf',
      version: 3,
      metadata: new Map(Object.entries({ ...METADATA, ...change }).filter(([, value]) => value !== undefined)),
      tensors: new Map(
        names.map((name) => [name, { name, type: 'F32', shape: [100, 64], numElements: 6400, offset: 0, numBytes: 0 }]),
      ),
    };
    return modelConfigFromGguf(gguf, { ropeFactors });
  }

  it('reads the metadata and what the tensors tell', () => {
    expect(parseGguf()).toMatchObject({
      headDim: 16,
      numKeyValueHeads: 4,
      vocabSize: 100,
      ropeTheta: 10000,
      tieWordEmbeddings: true,
      attentionBias: false,
      eosTokenIds: [2, 7],
    });
    const tensors = ['output.weight', 'blk.0.attn_q.bias'];
    expect(parseGguf({}, { tensors })).toMatchObject({ tieWordEmbeddings: false, attentionBias: true });
  });

  it('honours rope_freqs.weight', () => {
    const ropeFactors = Float32Array.of(1, 1, 1, 1, 2, 4, 8, 8);
    expect(parseGguf({}, { ropeFactors }).ropeScaling).toEqual({ type: 'factors', factors: [1, 1, 1, 1, 2, 4, 8, 8] });
    const wrong = () => parseGguf({}, { ropeFactors: Float32Array.of(1, 2) });
    expectStvError(wrong, 'checkpoint_invalid', '"rope_freqs.weight" has 2 elements instead of 8');
    const zero = () => parseGguf({}, { ropeFactors: new Float32Array(8) });
    expectStvError(zero, 'checkpoint_invalid', 'not positive');
  });

  it('reads yarn and multiplies its attention factor', () => {
    const yarn = {
      'llama.rope.scaling.type': 'yarn',
      'llama.rope.scaling.factor': 4,
      'llama.rope.scaling.original_context_length': 128,
    };
    expect(parseGguf(yarn).ropeScaling).toEqual({
      type: 'yarn',
      factor: 4,
      originalMaxPositionEmbeddings: 128,
      betaFast: 32,
      betaSlow: 1,
    });
    const scaled = parseGguf({ ...yarn, 'llama.rope.scaling.attn_factor': 0.5 }).ropeScaling;
    expect(scaled?.type === 'yarn' && scaled.attentionFactor).toBeCloseTo(0.5 * (0.1 * Math.log(4) + 1), 12);
  });

  it.each([
    ['no type', { factor: 4 }, { type: 'linear', factor: 4 }],
    ['no type and the old name of the factor', { linear: 2 }, { type: 'linear', factor: 2 }],
    ['both names of the factor', { type: 'linear', factor: 4, linear: 2 }, { type: 'linear', factor: 4 }],
    ['the old name of the factor and a type', { type: 'yarn', linear: 2 }, { type: 'yarn', factor: 2 }],
    ['factors that scale nothing', { factor: 1, linear: 2 }, undefined],
    ['a factor that is not set', { linear: 0 }, undefined],
    ['the type none', { type: 'none', factor: 4 }, undefined],
  ] as const)('takes RoPE scaling as llama.cpp does: %s', (_, { type, factor, linear }: ScalingFields, expected) => {
    const change = {
      'llama.rope.scaling.type': type,
      'llama.rope.scaling.factor': factor,
      'llama.rope.scale_linear': linear,
    };
    const { ropeScaling } = parseGguf(change);
    if (expected === undefined) expect(ropeScaling).toBeUndefined();
    else expect(ropeScaling).toMatchObject(expected);
  });

  it('refuses a linear factor beside rope_freqs.weight, though no type is named', () => {
    const both = () => parseGguf({ 'llama.rope.scaling.factor': 4 }, { ropeFactors: new Float32Array(8).fill(1) });
    expectStvError(both, 'architecture_unsupported', '"linear"');
  });

  it('serves a sliding window up to its length', () => {
    expect(parseGguf({ 'llama.attention.sliding_window': 100 }).maxPositionEmbeddings).toBe(100);
  });

  it.each([
    ['architecture_unsupported', 'general.architecture', 'gemma3', '"gemma3"'],
    ['architecture_unsupported', 'general.architecture', undefined, 'no architecture'],
    ['architecture_unsupported', 'llama.expert_count', 8, '"expert_count" is 8'],
    ['architecture_unsupported', 'llama.logit_scale', 0.5, '"logit_scale"'],
    ['architecture_unsupported', 'llama.attention.scale', 0.5, 'attention scale is 0.5'],
    ['architecture_unsupported', 'llama.rope.dimension_count', 8, '"rope.dimension_count" is 8'],
    ['architecture_unsupported', 'llama.rope.scaling.type', 'longrope', '"longrope"'],
    ['checkpoint_invalid', 'split.count', 3, 'split GGUF'],
    ['checkpoint_invalid', 'llama.block_count', undefined, 'lacks "llama.block_count"'],
    [
      'checkpoint_invalid',
      'llama.feed_forward_length',
      Int32Array.of(1, 2),
      '"llama.feed_forward_length" must be a number',
    ],
    ['checkpoint_invalid', 'llama.context_length', 2n ** 60n, '"llama.context_length" must be a number'],
  ] as const)('answers %s to %s = %s', (code, key, value, message) => {
    expectStvError(() => parseGguf({ [key]: value }), code, '/m/x.gguf', message);
  });
});
