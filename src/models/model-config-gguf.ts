/** Reads the metadata of a GGUF file into a `ModelConfig`. */
import { checkpointInvalid } from './checkpoint-file.ts';
import { ConfigFields } from './config-fields.ts';
import type { Gguf } from './gguf.ts';
import {
  architectureUnsupported,
  CONFIG_LIMITS,
  checkModelConfig,
  MODEL_TYPES,
  type ModelConfig,
  type RopeScaling,
} from './model-config.ts';

/** Factors on activations that other families use under the `llama` architecture; only their neutral value is served. */
const NEUTRAL_SCALES: Readonly<Record<string, number>> = {
  logit_scale: 1,
  residual_scale: 1,
  embedding_scale: 1,
  expert_count: 0,
};

/** `ropeFactors` is the content of `rope_freqs.weight`. Throws StvError that names the file and the field. */
export function modelConfigFromGguf(
  gguf: Gguf,
  { ropeFactors }: { readonly ropeFactors: Float32Array | undefined },
): ModelConfig {
  const { path, metadata, tensors } = gguf;
  const named = metadata.get('general.architecture');
  const modelType = MODEL_TYPES.find((type) => type === named);
  if (modelType === undefined) {
    const shown =
      typeof named === 'string' ? `its architecture is "${named.slice(0, 80)}".` : 'it names no architecture.';
    throw architectureUnsupported(path, shown);
  }
  if (Number(metadata.get('split.count') ?? 1) > 1) {
    throw checkpointInvalid(path, 'it is one part of a split GGUF; merge the parts into one file first.');
  }
  const fields = new ConfigFields(path, metadata, `${modelType}.`);
  const positive = (name: string, max: number, fallback?: number): number =>
    fields.integer(name, { min: 1, max, ...(fallback === undefined ? {} : { fallback }) });
  const hiddenSize = positive('embedding_length', CONFIG_LIMITS.hiddenSize);
  const numAttentionHeads = positive('attention.head_count', CONFIG_LIMITS.heads);
  const headDim = positive('attention.key_length', CONFIG_LIMITS.headDim, Math.floor(hiddenSize / numAttentionHeads));
  refuseWhatTheGraphLacks(fields, headDim);
  const positions = positive('context_length', CONFIG_LIMITS.positions);
  const window = fields.integer('attention.sliding_window', { min: 0, max: CONFIG_LIMITS.positions, fallback: 0 });
  const ropeScaling = readScaling(fields, { positions, ropeFactors });
  const tokenizer = new ConfigFields(path, metadata, 'tokenizer.ggml.');
  const bosTokenId = tokenId(tokenizer, 'bos_token_id');
  const eosTokenIds = ['eos_token_id', 'eot_token_id', 'eom_token_id'].map((name) => tokenId(tokenizer, name));
  return checkModelConfig(path, {
    modelType,
    hiddenSize,
    intermediateSize: positive('feed_forward_length', CONFIG_LIMITS.intermediateSize),
    numHiddenLayers: positive('block_count', CONFIG_LIMITS.layers),
    numAttentionHeads,
    numKeyValueHeads: positive('attention.head_count_kv', CONFIG_LIMITS.heads, numAttentionHeads),
    headDim,
    vocabSize: vocabSize(gguf),
    rmsNormEps: fields.number('attention.layer_norm_rms_epsilon', { min: 0, max: 1 }),
    ropeTheta: fields.number('rope.freq_base', { min: 1, max: 1e12, fallback: 10_000 }),
    ...(ropeScaling === undefined ? {} : { ropeScaling }),
    maxPositionEmbeddings: window === 0 ? positions : Math.min(positions, window),
    tieWordEmbeddings: !tensors.has('output.weight'),
    attentionBias: tensors.has('blk.0.attn_q.bias'),
    attentionOutputBias: tensors.has('blk.0.attn_output.bias'),
    ...(bosTokenId === undefined ? {} : { bosTokenId }),
    eosTokenIds: [...new Set(eosTokenIds.filter((id) => id !== undefined))],
  });
}

function tokenId(tokenizer: ConfigFields, name: string): number | undefined {
  return tokenizer.has(name) ? tokenizer.integer(name, { min: 0 }) : undefined;
}

/** The embedding has as many rows as there are tokens; metadata repeat it only sometimes. */
function vocabSize(gguf: Gguf): number {
  const embedding = gguf.tensors.get('token_embd.weight');
  if (embedding === undefined) throw checkpointInvalid(gguf.path, 'tensor "token_embd.weight" is missing.');
  const [rows = 0] = embedding.shape;
  if (embedding.shape.length !== 2 || rows < 1 || rows > CONFIG_LIMITS.vocabSize) {
    throw checkpointInvalid(gguf.path, `tensor "token_embd.weight" has the impossible shape [${embedding.shape}].`);
  }
  return rows;
}

function refuseWhatTheGraphLacks(fields: ConfigFields, headDim: number): void {
  const { path } = fields;
  for (const [name, neutral] of Object.entries(NEUTRAL_SCALES)) {
    const value = fields.number(name, { fallback: neutral });
    if (value !== neutral) throw architectureUnsupported(path, `its "${name}" is ${value} instead of ${neutral}.`);
  }
  const scale = fields.number('attention.scale', { fallback: 0 });
  if (scale !== 0 && Math.abs(scale * Math.sqrt(headDim) - 1) > 1e-5) {
    throw architectureUnsupported(
      path,
      `its attention scale is ${scale} instead of one over the root of the head size.`,
    );
  }
  for (const name of ['attention.value_length', 'rope.dimension_count']) {
    const value = fields.integer(name, { fallback: headDim });
    if (value !== headDim) {
      throw architectureUnsupported(path, `its "${name}" is ${value}, different from its head size ${headDim}.`);
    }
  }
}

/** 1 scales nothing, and so does 0, which stands for a factor that is not set. */
function readFactor(fields: ConfigFields): number {
  const name = ['rope.scaling.factor', 'rope.scale_linear'].find((each) => fields.has(each));
  if (name === undefined || fields.value(name) === 0) return 1;
  return fields.number(name, { min: 1e-3, max: 1e6 });
}

function readScaling(
  fields: ConfigFields,
  given: { readonly positions: number; readonly ropeFactors: Float32Array | undefined },
): RopeScaling | undefined {
  const { positions, ropeFactors } = given;
  const factor = readFactor(fields);
  // llama.cpp's default
  const type = fields.string('rope.scaling.type') ?? (factor === 1 ? 'none' : 'linear');
  if (ropeFactors !== undefined) {
    if (type !== 'none') {
      throw architectureUnsupported(
        fields.path,
        `it has both rope_freqs.weight and RoPE scaling "${type.slice(0, 40)}".`,
      );
    }
    if (ropeFactors.some((factor) => !(factor > 0 && factor < Number.POSITIVE_INFINITY))) {
      throw checkpointInvalid(fields.path, 'tensor "rope_freqs.weight" holds values that are not positive.');
    }
    return { type: 'factors', factors: [...ropeFactors] };
  }
  if (type === 'none') return undefined;
  if (type === 'linear') return { type, factor };
  if (type !== 'yarn') {
    throw architectureUnsupported(
      fields.path,
      `its RoPE scaling is "${type.slice(0, 40)}"; linear and yarn are known.`,
    );
  }
  const attention = fields.number('rope.scaling.attn_factor', { min: 0, max: 1e3, fallback: 1 });
  const yarnAttention = fields.number('rope.scaling.yarn_attn_factor', { min: 0, max: 1e3, fallback: 1 });
  const multiplier = attention * yarnAttention;
  return {
    type,
    factor,
    originalMaxPositionEmbeddings: fields.integer('rope.scaling.original_context_length', {
      min: 1,
      max: CONFIG_LIMITS.positions,
      fallback: positions,
    }),
    betaFast: fields.number('rope.scaling.yarn_beta_fast', { min: 0, fallback: 32 }) || 32,
    betaSlow: fields.number('rope.scaling.yarn_beta_slow', { min: 0, fallback: 1 }) || 1,
    ...(multiplier === 1 ? {} : { attentionFactor: multiplier * (factor > 1 ? 0.1 * Math.log(factor) + 1 : 1) }),
  };
}
