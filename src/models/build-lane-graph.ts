/** From a model's config to the serialized lane graph and the list of weights that it needs. */
import { StvError } from '../errors.ts';
import { type ExternalLocation, GraphBuilder, type Initializer } from './graph-builder.ts';
import {
  type ActivationSite,
  type AttentionType,
  type KvFormat,
  type LaneGraph,
  laneNames,
  qkvWidth,
  type WeightFormat,
  type WeightSpec,
} from './lane-graph.ts';
import { llama } from './llama.ts';
import type { ModelConfig, ModelType } from './model-config.ts';
import { qwen2 } from './qwen2.ts';
import { qwen3 } from './qwen3.ts';

/** Part of every cache key: raise it when a graph or what is written to `weights.bin` changes. */
export const BUILDER_VERSION = 5;

/** Writes the layers of one model type from `input_ids` to `logits`. */
type Family = (graph: LaneGraph) => void;

const families: { readonly [type in ModelType]: Family } = { llama, qwen2, qwen3 };

export interface LaneGraphOptions {
  readonly config: ModelConfig;
  readonly numLanes: number;
  readonly format: WeightFormat;
  /** Default fp32. */
  readonly kv?: KvFormat;
  /** Makes the inputs of linear layers results of the graph, for calibration. */
  readonly showsSites?: boolean;
  /** Default 'float32'. */
  readonly attention?: AttentionType;
}

export interface BuiltLaneGraph {
  /** In the order of use: writing the file in this order makes a run read it forwards. */
  readonly weights: readonly WeightSpec[];
  readonly sites: readonly ActivationSite[];
  /** Every external initializer with the name of the stored tensor that holds its bytes. */
  readonly initializers: readonly (Initializer & { readonly stored: string })[];
  finish(locate: (stored: string) => ExternalLocation): Uint8Array;
}

/** Builds the graph of a model for a fixed number of lanes. Throws StvError `architecture_unsupported`. */
export function buildLaneGraph(options: LaneGraphOptions): BuiltLaneGraph {
  const { config, numLanes, format, kv = 'fp32', attention = 'float32', showsSites = false } = options;
  const family = families[config.modelType];
  if (family === undefined) {
    throw new StvError(
      'architecture_unsupported',
      `model_type "${config.modelType}" is not supported; supported are ${Object.keys(families).join(', ')}.`,
    );
  }
  const builder = new GraphBuilder(`${config.modelType}-lanes-${numLanes}`);
  const weights: WeightSpec[] = [];
  const sites: ActivationSite[] = [];
  const aliases = new Map<string, string>();
  const graph: LaneGraph = {
    builder,
    config,
    numLanes,
    format,
    kv,
    attention,
    weight: (spec) => weights.push(spec),
    site: (site) => sites.push(site),
    alias: ({ name, type, dims }, stored) => {
      aliases.set(name, stored);
      return builder.external(name, type, dims);
    },
  };
  declareInputs(graph);
  family(graph);
  builder.output(laneNames.logits, 'float32', [1, 'R', config.vocabSize]);
  if (showsSites) {
    for (const { value, width, repeat } of sites)
      builder.output(value, 'float32', [1, `T of ${value}`, width * repeat]);
  }
  return {
    weights,
    sites,
    initializers: builder.initializers.map((initializer) => ({
      ...initializer,
      stored: aliases.get(initializer.name) ?? initializer.name,
    })),
    finish: (locate) => builder.finish((name) => locate(aliases.get(name) ?? name), String(BUILDER_VERSION)),
  };
}

function declareInputs({ builder, config, numLanes, kv, attention }: LaneGraph): void {
  const cacheType = kv === 'int8' ? 'int8' : attention;
  builder.input(laneNames.inputIds, 'int32', [1, 'T']);
  builder.input(laneNames.logitRows, 'int64', ['R']);
  builder.input(laneNames.cosCache, 'float32', ['maxLength', config.headDim / 2]);
  builder.input(laneNames.sinCache, 'float32', ['maxLength', config.headDim / 2]);
  if (numLanes > 1) {
    builder.input(laneNames.laneLengths, 'int64', [numLanes]);
    builder.input(laneNames.packedLengths, 'int64', [2]);
    builder.input(laneNames.spareRows, 'float32', [1, 'S', qkvWidth(config)]);
  }
  for (let lane = 0; lane < numLanes; lane++) {
    builder.input(laneNames.seqlens(lane), 'int32', [1]);
    builder.input(laneNames.totalLength(lane), 'int32', [1]);
    const cache = [1, config.numKeyValueHeads, `capacity.${lane}`, config.headDim];
    for (let layer = 0; layer < config.numHiddenLayers; layer++) {
      for (const part of ['key', 'value'] as const) {
        builder.input(laneNames.past(lane, layer, part), cacheType, cache);
        builder.output(laneNames.present(lane, layer, part), cacheType, cache);
      }
    }
  }
}
