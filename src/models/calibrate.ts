/**
 * What conversion learns by running the model it has just written: how large the inputs of linear layers and the cached keys and
 * values are per channel, on text that the model writes itself, so no tokenizer and no data are needed.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Runtime } from '../runtime/runtime.ts';
import { type BuiltLaneGraph, buildLaneGraph } from './build-lane-graph.ts';
import { type ActivationSite, attendedSite, cacheScalesOf, laneNames } from './lane-graph.ts';
import { FINAL_NORM, inverseScalesOf } from './layers.ts';
import { loadCausalLM } from './load-causal-lm.ts';
import { LoadedWeights } from './load-weights.ts';
import type { ModelConfig } from './model-config.ts';
import type { CalibratedScales } from './prepare-weights.ts';
import { readManifest } from './prepared-model.ts';
import { ropeTables } from './rope.ts';

const NUM_SEQUENCES = 4;
/** Tokens of a sequence, or what the model's positions allow. */
const SEQUENCE_LENGTH = 64;
/** Later text has larger values than the little that was seen; what is beyond is cut off at the largest quant. */
const CACHE_MARGIN = 1.3;
/** A channel counts for at least this share of the mean one: silent ones must not make a factor that is huge. */
const MIN_SHARE = 1e-3;

export interface PreparedFolder {
  readonly runtime: Runtime;
  readonly dir: string;
  readonly signal?: AbortSignal | undefined;
}

/** Lets the model write sequences, each token drawn by its probability; always the same ones on the same machine. */
export async function writeSequences({ runtime, dir, signal }: PreparedFolder): Promise<readonly Int32Array[]> {
  const { config } = readManifest(dir);
  const length = Math.min(SEQUENCE_LENGTH, config.maxPositionEmbeddings);
  const sizes = {
    numSlots: NUM_SEQUENCES,
    maxLength: length,
    maxLanes: NUM_SEQUENCES,
    maxBatchedTokens: NUM_SEQUENCES,
  };
  const model = loadCausalLM({ runtime, dir, ...sizes, kv: 'fp32' });
  try {
    const random = lehmer(1);
    const sequences = Array.from({ length: NUM_SEQUENCES }, () => new Int32Array(length));
    for (const [index, sequence] of sequences.entries()) {
      // whatever stands first draws attention with keys and values of a size of their own: not always the same token
      const any = Math.floor(random() * config.vocabSize);
      sequence[0] = index % 2 === 0 ? (config.bosTokenId ?? any) : any;
      // without a different second token, a model that is sure of its first words would write the same text twice
      sequence[1] = Math.floor(random() * config.vocabSize);
    }
    for (let past = 0; past + 1 < length; past++) {
      signal?.throwIfAborted();
      const lanes = sequences.map((tokens, slot) => ({
        slot,
        past,
        tokens: tokens.subarray(past, past + 1),
        logitRows: [0],
      }));
      const logits = model.forward(lanes);
      if (past > 0) {
        for (const [row, sequence] of sequences.entries()) sequence[past + 1] = draw(logits.row(row), random());
      }
      await nextTurn();
    }
    return sequences;
  } finally {
    model.dispose();
  }
}

/** Uniform in [0, 1). */
function lehmer(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

function draw(logits: Float32Array, at: number): number {
  let top = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > top) top = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  let rest = at * sum;
  for (let token = 0; token < logits.length; token++) {
    rest -= Math.exp((logits[token] as number) - top); // below the length
    if (rest <= 0) return token;
  }
  return logits.length - 1;
}

/** Runs the sequences once more and looks inside. `isScaled` says for which sites factors are wanted. */
export async function measureScales(
  { runtime, dir, signal }: PreparedFolder,
  sequences: readonly Int32Array[],
  isScaled: (site: ActivationSite) => boolean,
): Promise<CalibratedScales> {
  const manifest = readManifest(dir);
  const { config } = manifest;
  const weights = new LoadedWeights(runtime, dir, manifest);
  const graph = buildLaneGraph({ config, numLanes: 1, format: manifest.weights, showsSites: true });
  const probe = new Probe(runtime, { config, graph, weights, dir, length: sequences[0]?.length ?? 0 });
  try {
    for (const sequence of sequences) {
      signal?.throwIfAborted();
      probe.run(sequence);
      await nextTurn();
    }
    return probe.scales(isScaled);
  } finally {
    probe.dispose();
    weights.dispose();
  }
}

interface CacheProbe {
  readonly data: Float32Array;
  readonly largest: Float32Array;
  /** Keys: their values depend on the position. */
  readonly isRotated: boolean;
  /** Site whose scales divide what is cached. */
  readonly over?: string;
}

interface ProbeOptions {
  readonly config: ModelConfig;
  readonly graph: BuiltLaneGraph;
  readonly weights: LoadedWeights;
  readonly dir: string;
  /** Tokens of each sequence. */
  readonly length: number;
}

/** A graph of one lane whose inner values are results, and the sums over them. */
class Probe {
  readonly #options: ProbeOptions;
  readonly #ids: Int32Array;
  readonly #dispose: (() => void)[] = [];
  readonly #run: () => void;
  /** Site -> its value after a run, and the sum of squares of each channel so far. */
  readonly #sites = new Map<string, { readonly data: Float32Array; readonly squares: Float64Array }>();
  /** Weight with the scales of a cache -> the cache after a run, and the largest magnitude of each channel so far. */
  readonly #caches = new Map<string, CacheProbe>();

  constructor(runtime: Runtime, options: ProbeOptions) {
    const { config, graph, weights, dir, length } = options;
    this.#options = options;
    const session = runtime.createSession({
      model: graph.finish(weights.locate),
      initializers: weights.initializers(graph),
      memoryPattern: false,
      config: { 'session.model_external_initializers_file_folder_path': dir },
    });
    const binding = session.createBinding();
    this.#dispose.push(() => binding.dispose());
    this.#dispose.push(() => session.dispose());
    const ids = runtime.createTensor('int32', [1, length]);
    this.#ids = ids.data;
    binding.bindInput(laneNames.inputIds, ids);
    const rows = BigInt64Array.from({ length }, (_, row) => BigInt(row));
    binding.bindInput(laneNames.logitRows, runtime.createTensor('int64', [length], rows));
    const tables = ropeTables(config, length);
    const tableShape = [length, config.headDim / 2];
    binding.bindInput(laneNames.cosCache, runtime.createTensor('float32', tableShape, tables.cos));
    binding.bindInput(laneNames.sinCache, runtime.createTensor('float32', tableShape, tables.sin));
    binding.bindInput(laneNames.seqlens(0), runtime.createTensor('int32', [1], Int32Array.of(length - 1)));
    binding.bindInput(laneNames.totalLength(0), runtime.createTensor('int32', [1], Int32Array.of(length)));
    binding.bindOutput(laneNames.logits, runtime.createTensor('float32', [1, length, config.vocabSize]));
    for (let layer = 0; layer < config.numHiddenLayers; layer++) {
      for (const part of ['key', 'value'] as const) {
        const cache = runtime.createTensor('float32', [1, config.numKeyValueHeads, length, config.headDim]);
        binding.bindInput(laneNames.past(0, layer, part), cache);
        binding.bindOutput(laneNames.present(0, layer, part), cache);
        const largest = new Float32Array(config.numKeyValueHeads * config.headDim);
        const kind = part === 'key' ? { isRotated: true } : { isRotated: false, over: attendedSite(layer) };
        this.#caches.set(cacheScalesOf(layer, part), { data: cache.data, largest, ...kind });
      }
    }
    for (const { name, value, width, repeat } of graph.sites) {
      const tensor = runtime.createTensor('float32', [1, length, width * repeat]);
      binding.bindOutput(value, tensor);
      this.#sites.set(name, { data: tensor.data, squares: new Float64Array(width) });
    }
    this.#run = () => session.run(binding);
  }

  run(sequence: Int32Array): void {
    this.#ids.set(sequence);
    this.#run();
    for (const { name, width, run, repeat } of this.#options.graph.sites) {
      const { data, squares } = this.#sites.get(name) as { data: Float32Array; squares: Float64Array }; // made for every site
      const columns = width * repeat;
      for (let i = 0; i < data.length; i++) {
        const channel = channelOf(i % columns, { run, repeat });
        (squares[channel] as number) += (data[i] as number) ** 2; // below the width
      }
    }
    const { headDim } = this.#options.config;
    for (const { data, largest, isRotated } of this.#caches.values()) {
      const perHead = data.length / (largest.length / headDim);
      for (let i = 0; i < data.length; i++) {
        const channel = i % headDim;
        // the rotation moves the two channels of a pair into each other: only their norm is the same at every position
        const partner = isRotated ? (channel < headDim / 2 ? i + headDim / 2 : i - headDim / 2) : undefined;
        const size = Math.hypot(data[i] as number, partner === undefined ? 0 : (data[partner] as number));
        const index = Math.floor(i / perHead) * headDim + channel;
        largest[index] = Math.max(largest[index] as number, size); // all three inside
      }
    }
  }

  scales(isScaled: (site: ActivationSite) => boolean): CalibratedScales {
    const times = new Map<string, Float32Array>();
    const over = new Map<string, Float32Array>();
    const weights = new Map<string, Float32Array>();
    for (const site of this.#options.graph.sites.filter(isScaled)) {
      const { squares } = this.#sites.get(site.name) as { squares: Float64Array };
      const scales = siteScales(squares);
      over.set(site.name, scales);
      const columns = Float32Array.from(
        { length: site.width * site.repeat },
        (_, column) => scales[channelOf(column, site)] as number,
      );
      times.set(site.name, columns);
      if (site.name === FINAL_NORM)
        weights.set(
          inverseScalesOf(FINAL_NORM),
          columns.map((scale) => 1 / scale),
        );
    }
    for (const [name, { largest, over: site }] of this.#caches) {
      const divisors = site === undefined ? undefined : over.get(site);
      // measured before the rows that make the values are divided
      const scales = largest.map((size, i) => Math.max(size / (divisors?.[i] ?? 1), 1e-6) * (CACHE_MARGIN / 127));
      weights.set(name, scales);
    }
    return { times, over, weights };
  }

  dispose(): void {
    for (const dispose of this.#dispose) dispose();
  }
}

/** The channel that a column shows: each run of channels is there `repeat` times in a row. */
function channelOf(column: number, { run, repeat }: { readonly run: number; readonly repeat: number }): number {
  if (repeat === 1) return column;
  return Math.floor(column / (run * repeat)) * run + (column % run);
}

/**
 * Root of each channel's size, with mean 1 before rounding: half of the difference between channels moves from the input to the
 * weights, which both are quantized in blocks.
 */
function siteScales(squares: Float64Array): Float32Array {
  const sizes = Float64Array.from(squares, (square) => Math.sqrt(square));
  const mean = sizes.reduce((sum, size) => sum + size, 0) / sizes.length;
  if (!(mean > 0 && Number.isFinite(mean))) return new Float32Array(sizes.length).fill(1);
  return Float32Array.from(sizes, (size) => Math.sqrt(Math.max(size / mean, MIN_SHARE)));
}
