/** What a checkpoint's `config.json` (or GGUF metadata) says, in its own words camelCased, checked once. */
import { StvError } from '../errors.ts';
import { checkpointInvalid } from './checkpoint-file.ts';

export const MODEL_TYPES = ['llama', 'qwen2', 'qwen3'] as const;

export type ModelType = (typeof MODEL_TYPES)[number];

export type RopeScaling =
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    }
  | {
      readonly type: 'yarn';
      readonly factor: number;
      readonly originalMaxPositionEmbeddings: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** What cos and sin are multiplied by; from `factor` when absent. */
      readonly attentionFactor?: number;
      /** Round the ends of the ramp to whole dimensions. Default true. */
      readonly truncate?: boolean;
    }
  /** GGUF's spelling of `llama3`: what each frequency is divided by, `[headDim / 2]`. */
  | { readonly type: 'factors'; readonly factors: readonly number[] };

export interface ModelConfig {
  readonly modelType: ModelType;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling?: RopeScaling;
  /** Never more than a sliding window: up to its length it is the same as full attention. */
  readonly maxPositionEmbeddings: number;
  readonly tieWordEmbeddings: boolean;
  /** Bias on q, k and v (qwen2 always; llama and qwen3 when their config says so). */
  readonly attentionBias: boolean;
  /** Bias on o as well (llama and qwen3 with `attention_bias`; never qwen2). */
  readonly attentionOutputBias: boolean;
  readonly bosTokenId?: number;
  readonly eosTokenIds: readonly number[];
}

/** Sizes past these are damage, not models; they bound what later steps may allocate. */
export const CONFIG_LIMITS = {
  hiddenSize: 1 << 17,
  intermediateSize: 1 << 20,
  layers: 1024,
  heads: 1024,
  headDim: 1024,
  vocabSize: 1 << 22,
  positions: 1 << 26,
} as const;

export function architectureUnsupported(path: string, detail: string): StvError {
  return new StvError(
    'architecture_unsupported',
    `Checkpoint "${path}" cannot be served: ${detail} Supported are the architectures ${MODEL_TYPES.join(', ')}.`,
  );
}

/** The runtime's attention rotates heads of no other sizes. */
const HEAD_DIM_STEP = 16;

/**
 * The rules that hold between fields. Returns the config; throws StvError `checkpoint_invalid` or `architecture_unsupported` that
 * names the file.
 */
export function checkModelConfig(path: string, config: ModelConfig): ModelConfig {
  const { numAttentionHeads, numKeyValueHeads, headDim, vocabSize } = config;
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw checkpointInvalid(
      path,
      `its ${numAttentionHeads} attention heads are not a multiple of its ${numKeyValueHeads} key-value heads.`,
    );
  }
  if (headDim % 2 !== 0)
    throw checkpointInvalid(path, `its head size ${headDim} is odd; rotary embedding needs pairs.`);
  if (headDim % HEAD_DIM_STEP !== 0)
    throw architectureUnsupported(path, `its head_dim ${headDim} is not a multiple of ${HEAD_DIM_STEP}.`);
  const scaling = config.ropeScaling;
  if (scaling?.type === 'factors' && scaling.factors.length !== headDim / 2) {
    throw checkpointInvalid(
      path,
      `tensor "rope_freqs.weight" has ${scaling.factors.length} elements instead of ${headDim / 2}.`,
    );
  }
  for (const id of [...config.eosTokenIds, ...(config.bosTokenId === undefined ? [] : [config.bosTokenId])]) {
    if (id >= vocabSize)
      throw checkpointInvalid(path, `special token ${id} is outside its vocabulary of ${vocabSize}.`);
  }
  return config;
}
