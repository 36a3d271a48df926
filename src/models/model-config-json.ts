/** Reads `config.json` (and `generation_config.json`) of a Hugging Face folder into a `ModelConfig`. */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { checkpointInvalid } from './checkpoint-file.ts';
import { ConfigFields } from './config-fields.ts';
import {
  architectureUnsupported,
  CONFIG_LIMITS,
  checkModelConfig,
  MODEL_TYPES,
  type ModelConfig,
  type ModelType,
  type RopeScaling,
} from './model-config.ts';

const MAX_JSON_BYTES = 4 << 20;

/** The values that transformers takes for fields that are absent. */
const DEFAULTS = {
  llama: { maxPositionEmbeddings: 2048, headDim: undefined },
  qwen2: { maxPositionEmbeddings: 32768, headDim: undefined },
  qwen3: { maxPositionEmbeddings: 32768, headDim: 128 },
} as const;

/** `folder` holds `config.json`. Throws StvError `checkpoint_invalid` or `architecture_unsupported` that names the file. */
export function readModelConfig(folder: string): ModelConfig {
  const path = join(folder, 'config.json');
  const fields = readJsonFields(path);
  if (fields === undefined) throw checkpointInvalid(path, 'the file does not exist.');
  return modelConfigFromJson(fields, readJsonFields(join(folder, 'generation_config.json')));
}

/** Of parsed files. `generation` is `generation_config.json`, whose end-of-sequence ids are added to the config's. */
export function modelConfigFromJson(fields: ConfigFields, generation?: ConfigFields): ModelConfig {
  const { path } = fields;
  const modelType = readModelType(fields);
  refuseWhatTheGraphLacks(fields);
  const positive = (name: string, max: number, fallback?: number): number =>
    fields.integer(name, { min: 1, max, ...(fallback === undefined ? {} : { fallback }) });
  const hiddenSize = positive('hidden_size', CONFIG_LIMITS.hiddenSize);
  const numAttentionHeads = positive('num_attention_heads', CONFIG_LIMITS.heads);
  const numHiddenLayers = positive('num_hidden_layers', CONFIG_LIMITS.layers);
  const defaults = DEFAULTS[modelType];
  const positions = positive('max_position_embeddings', CONFIG_LIMITS.positions, defaults.maxPositionEmbeddings);
  const bias = modelType !== 'qwen2' && fields.boolean('attention_bias', false);
  const bosTokenId = tokenIds(fields, 'bos_token_id')[0];
  const eosTokenIds = new Set([
    ...(generation === undefined ? [] : tokenIds(generation, 'eos_token_id')),
    ...tokenIds(fields, 'eos_token_id'),
  ]);
  return checkModelConfig(path, {
    modelType,
    hiddenSize,
    intermediateSize: positive('intermediate_size', CONFIG_LIMITS.intermediateSize),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads: positive('num_key_value_heads', CONFIG_LIMITS.heads, numAttentionHeads),
    headDim: positive(
      'head_dim',
      CONFIG_LIMITS.headDim,
      defaults.headDim ?? Math.floor(hiddenSize / numAttentionHeads),
    ),
    vocabSize: positive('vocab_size', CONFIG_LIMITS.vocabSize),
    rmsNormEps: fields.number('rms_norm_eps', { min: 0, max: 1, fallback: 1e-6 }),
    ...readRope(fields, positions),
    maxPositionEmbeddings: Math.min(positions, slidingWindow(fields, modelType) ?? positions),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    attentionBias: modelType === 'qwen2' || bias,
    attentionOutputBias: bias,
    ...(bosTokenId === undefined ? {} : { bosTokenId }),
    eosTokenIds: [...eosTokenIds],
  });
}

/** Undefined when there is no such file. */
function readJsonFields(path: string): ConfigFields | undefined {
  const size = statSync(path, { throwIfNoEntry: false })?.size;
  if (size === undefined) return undefined;
  if (size > MAX_JSON_BYTES) throw checkpointInvalid(path, `it has ${size} bytes; the limit is ${MAX_JSON_BYTES}.`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw checkpointInvalid(path, 'it is not valid JSON.', error);
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw checkpointInvalid(path, 'it is not a JSON object.');
  }
  return new ConfigFields(path, new Map(Object.entries(parsed)));
}

function readModelType(fields: ConfigFields): ModelType {
  const named = fields.value('model_type');
  // Mistral is Llama with another name and, in its first version, a sliding window
  const modelType = named === 'mistral' ? 'llama' : named;
  const known = MODEL_TYPES.find((type) => type === modelType);
  if (known !== undefined) return known;
  const shown = typeof named === 'string' ? `its model_type is "${named.slice(0, 80)}".` : 'it has no model_type.';
  throw architectureUnsupported(fields.path, shown);
}

function refuseWhatTheGraphLacks(fields: ConfigFields): void {
  const { path } = fields;
  const activation = fields.value('hidden_act') ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') {
    throw architectureUnsupported(path, `its activation is ${JSON.stringify(activation)} instead of "silu".`);
  }
  if (fields.boolean('mlp_bias', false)) throw architectureUnsupported(path, 'its feed-forward layers have biases.');
  if (fields.has('quantization_config')) {
    throw architectureUnsupported(
      path,
      'its weights are quantized (quantization_config); take the original weights or a GGUF file.',
    );
  }
  if (fields.number('partial_rotary_factor', { fallback: 1 }) !== 1) {
    throw architectureUnsupported(path, 'only a part of its head is rotated (partial_rotary_factor).');
  }
}

/** A number, a list of them or nothing. */
function tokenIds(fields: ConfigFields, name: string): readonly number[] {
  const value = fields.value(name);
  if (value === undefined) return [];
  const ids: readonly unknown[] = Array.isArray(value) ? value : [value];
  return ids.map((id) => {
    if (typeof id === 'number' && Number.isSafeInteger(id) && id >= 0) return id;
    throw checkpointInvalid(fields.path, `"${name}" must be a token id or a list of them.`);
  });
}

/** Undefined when every layer sees the whole context. */
function slidingWindow(fields: ConfigFields, modelType: ModelType): number | undefined {
  const layerTypes = fields.value('layer_types');
  if (Array.isArray(layerTypes)) {
    const strange = layerTypes.find((type) => type !== 'full_attention' && type !== 'sliding_attention');
    if (strange !== undefined) {
      throw architectureUnsupported(fields.path, `it has layers of type ${JSON.stringify(strange)?.slice(0, 40)}.`);
    }
    if (!layerTypes.includes('sliding_attention')) return undefined;
  } else if (
    modelType === 'llama' ? fields.value('model_type') !== 'mistral' : !fields.boolean('use_sliding_window', false)
  ) {
    return undefined;
  }
  if (!fields.has('sliding_window')) return undefined;
  return fields.integer('sliding_window', { min: 1, max: CONFIG_LIMITS.positions });
}

/** transformers 4 spells `rope_theta` and `rope_scaling`, transformers 5 puts both into `rope_parameters`. */
function readRope(fields: ConfigFields, positions: number): { ropeTheta: number; ropeScaling?: RopeScaling } {
  const rope = fields.object('rope_parameters') ?? fields.object('rope_scaling');
  const thetaRule = { min: 1, max: 1e12 };
  const outer = fields.number('rope_theta', { ...thetaRule, fallback: 10_000 });
  if (rope === undefined) return { ropeTheta: outer };
  const { path } = fields;
  if (rope.has('full_attention') || rope.has('sliding_attention')) {
    throw architectureUnsupported(path, 'its rotary embedding differs between layers.');
  }
  if (rope.number('partial_rotary_factor', { fallback: 1 }) !== 1) {
    throw architectureUnsupported(path, 'only a part of its head is rotated (partial_rotary_factor).');
  }
  const ropeTheta = rope.number('rope_theta', { ...thetaRule, fallback: outer });
  const type = rope.string('rope_type') ?? rope.string('type') ?? 'default';
  if (type === 'default') return { ropeTheta };
  return { ropeTheta, ropeScaling: readScaling({ type, rope, fields, positions }) };
}

function readScaling(given: {
  readonly type: string;
  readonly rope: ConfigFields;
  readonly fields: ConfigFields;
  readonly positions: number;
}): RopeScaling {
  const { type, rope, fields, positions } = given;
  const factorRule = { min: 1e-3, max: 1e6 };
  const original = (): number =>
    fields.has('original_max_position_embeddings')
      ? fields.integer('original_max_position_embeddings', { min: 1, max: CONFIG_LIMITS.positions })
      : rope.integer('original_max_position_embeddings', { min: 1, max: CONFIG_LIMITS.positions, fallback: positions });
  if (type === 'linear') return { type, factor: rope.number('factor', factorRule) };
  if (type === 'llama3') {
    const lowFreqFactor = rope.number('low_freq_factor', factorRule);
    const highFreqFactor = rope.number('high_freq_factor', factorRule);
    if (highFreqFactor <= lowFreqFactor) {
      throw checkpointInvalid(fields.path, 'its "high_freq_factor" must be larger than its "low_freq_factor".');
    }
    const factor = rope.number('factor', factorRule);
    return { type, factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: original() };
  }
  if (type === 'yarn') {
    const originalMaxPositionEmbeddings = original();
    const factor = rope.number('factor', { ...factorRule, fallback: positions / originalMaxPositionEmbeddings });
    const attentionFactor = yarnAttentionFactor(rope, factor);
    return {
      type,
      factor,
      originalMaxPositionEmbeddings,
      // 0 counts as absent, as in transformers
      betaFast: rope.number('beta_fast', { min: 0, fallback: 32 }) || 32,
      betaSlow: rope.number('beta_slow', { min: 0, fallback: 1 }) || 1,
      ...(attentionFactor === undefined ? {} : { attentionFactor }),
      ...(rope.boolean('truncate', true) ? {} : { truncate: false }),
    };
  }
  throw architectureUnsupported(
    fields.path,
    `its RoPE scaling is "${type.slice(0, 40)}"; linear, llama3 and yarn are known.`,
  );
}

function yarnAttentionFactor(rope: ConfigFields, factor: number): number | undefined {
  if (rope.has('attention_factor')) return rope.number('attention_factor', { min: 0, max: 1e3 });
  const magnitude = rope.number('mscale', { fallback: 0 });
  const magnitudeAllDim = rope.number('mscale_all_dim', { fallback: 0 });
  if (magnitude === 0 || magnitudeAllDim === 0 || factor <= 1) return undefined;
  return (0.1 * magnitude * Math.log(factor) + 1) / (0.1 * magnitudeAllDim * Math.log(factor) + 1);
}
