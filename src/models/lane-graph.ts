/**
 * The decoder as a lane graph: linear layers run once over the tokens of all lanes packed into `[1, T, hidden]`; only attention
 * sees lanes, each with a cache of its own. Here: what a layer is given to write into, and the names that cross to the session.
 * What the layers of a family are is said in `llama.ts`, `qwen2.ts`, `qwen3.ts`; `build-lane-graph.ts` puts it together.
 */
import type { GraphBuilder, Initializer } from './graph-builder.ts';
import type { ModelConfig } from './model-config.ts';

export type WeightFormat = 'int8' | 'int4' | 'fp32';

/** A tensor of the checkpoint that becomes rows of a weight. */
export interface WeightSource {
  readonly name: string;
  readonly rows: number;
}

/** One weight of the graph and the checkpoint tensors, stacked along the rows, that it is made of. */
export type WeightSpec =
  | { readonly kind: 'vector'; readonly name: string; readonly sources: readonly WeightSource[] }
  | {
      readonly kind: 'matrix';
      readonly name: string;
      readonly sources: readonly WeightSource[];
      readonly columns: number;
      readonly format: WeightFormat;
    };

/** What the layers write into. */
export interface LaneGraph {
  readonly builder: GraphBuilder;
  readonly config: ModelConfig;
  readonly numLanes: number;
  readonly format: WeightFormat;
  /** Declares a weight; the same name is declared once. */
  weight(spec: WeightSpec): void;
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
  /** float32 `[1, kvHeads, maxLength, headDim]` */
  past: (lane: number, layer: number, part: 'key' | 'value'): string => `lanes.${lane}.past.${layer}.${part}`,
  present: (lane: number, layer: number, part: 'key' | 'value'): string => `lanes.${lane}.present.${layer}.${part}`,
} as const;

/** Columns of packed q, k and v. */
export function qkvWidth(config: ModelConfig): number {
  return (config.numAttentionHeads + 2 * config.numKeyValueHeads) * config.headDim;
}
