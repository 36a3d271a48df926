/**
 * The decoder as a lane graph: linear layers run once over the tokens of all lanes packed into `[1, T, hidden]`; only attention
 * sees lanes, each with a cache of its own. Here: what a layer is given to write into, and the names that cross to the session.
 * What the layers of a family are is said in `llama.ts`, `qwen2.ts`, `qwen3.ts`; `build-lane-graph.ts` puts it together.
 */
import type { GraphBuilder, Initializer } from './graph-builder.ts';
import type { ModelConfig } from './model-config.ts';

export type WeightFormat = 'int8' | 'int4' | 'fp32';
/** How keys and values are cached: int8 has a scale per channel, found by calibration. */
export type KvFormat = 'fp32' | 'int8';
/** CUDA has attention kernels for float16 only. */
export type AttentionType = 'float32' | 'float16';

/** A tensor of the checkpoint that becomes rows of a weight. */
export interface WeightSource {
  readonly name: string;
  readonly rows: number;
  /** Site (`ActivationSite`) whose scales divide these rows. */
  readonly over?: string;
}

/**
 * A place where a linear layer takes its input. Its scales divide the input's channels where they are made and multiply the
 * layer's columns, so that the product is the same and the input is easier to quantize. All of them are 1 before calibration.
 */
export interface ActivationSite {
  readonly name: string;
  /** Channels that have a scale of their own. */
  readonly width: number;
  /** Value of the graph that shows the input, float32 `[1, T, sum of groups]`. */
  readonly value: string;
  /** Consecutive runs of this many channels share their scales `repeat` times: heads of attention that read the same values. */
  readonly run: number;
  readonly repeat: number;
}

/** One weight of the graph and the checkpoint tensors, stacked along the rows, that it is made of. */
export type WeightSpec =
  | { readonly kind: 'vector'; readonly name: string; readonly sources: readonly WeightSource[] }
  /** Made by calibration; ones before. */
  | { readonly kind: 'scales'; readonly name: string; readonly length: number }
  | {
      readonly kind: 'matrix';
      readonly name: string;
      readonly sources: readonly WeightSource[];
      readonly columns: number;
      readonly format: WeightFormat;
      /** Site whose scales multiply the columns. */
      readonly times?: string;
    };

/** What the layers write into. */
export interface LaneGraph {
  readonly builder: GraphBuilder;
  readonly config: ModelConfig;
  readonly numLanes: number;
  readonly format: WeightFormat;
  readonly kv: KvFormat;
  /** What attention computes in and a cache that is not int8 holds; everything else is float32. */
  readonly attention: AttentionType;
  /** Declares a weight; the same name is declared once. */
  weight(spec: WeightSpec): void;
  /** Declares where a linear layer takes its input. */
  site(site: ActivationSite): void;
  /** A second initializer over the bytes of a declared one. */
  alias(initializer: Initializer, stored: string): string;
}

/** Names of a session's inputs and outputs. */
export const laneNames = {
  /** int32 `[1, T]` */
  inputIds: 'input_ids',
  /** int64 `[numLanes]`: tokens of each lane, 1 for a spare one. This and the next two only with several lanes. */
  laneLengths: 'lane_lengths',
  /** int64 `[2]`: tokens of all lanes but the spare ones (T); number of spare lanes (S). */
  packedLengths: 'packed_lengths',
  /** float32 `[1, S, (heads + 2 * kvHeads) * headDim]`: what spare lanes attend with, so that only attention sees them. */
  spareRows: 'spare_rows',
  /** int64 `[R]`: rows of the packed tokens whose logits are wanted. */
  logitRows: 'logit_rows',
  /** float32 `[maxLength, headDim / 2]` */
  cosCache: 'cos_cache',
  sinCache: 'sin_cache',
  /** float32 `[1, R, vocabSize]` */
  logits: 'logits',
  /** int32 `[1]`: tokens of the lane after this step, less one. */
  seqlens: (lane: number): string => `lanes.${lane}.seqlens_k`,
  /** int32 `[1]`: tokens of the lane after this step. */
  totalLength: (lane: number): string => `lanes.${lane}.total_sequence_length`,
  /** float32 or int8 `[1, kvHeads, maxLength, headDim]` */
  past: (lane: number, layer: number, part: 'key' | 'value'): string => `lanes.${lane}.past.${layer}.${part}`,
  present: (lane: number, layer: number, part: 'key' | 'value'): string => `lanes.${lane}.present.${layer}.${part}`,
} as const;

/** Weight with the scales of a layer's cached keys or values, float32 `[kvHeads * headDim]`. */
export function cacheScalesOf(layer: number, part: 'key' | 'value'): string {
  return `model.layers.${layer}.self_attn.${part}_scales`;
}

/** Site of the attended values of a layer, as its output projection takes them. */
export function attendedSite(layer: number): string {
  return `model.layers.${layer}.self_attn.attended`;
}

/** Columns of packed q, k and v. */
export function qkvWidth(config: ModelConfig): number {
  return (config.numAttentionHeads + 2 * config.numKeyValueHeads) * config.headDim;
}
