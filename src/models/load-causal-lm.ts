/** A prepared model folder -> `CausalLM` on ONNX Runtime: weights once, a session per number of lanes, one cache for all. */
import { resolve } from 'node:path';
import { StvError } from '../errors.ts';
import { Placement } from '../runtime/placement.ts';
import { loadRuntime, type Runtime } from '../runtime/runtime.ts';
import type { Device, PrepackedWeights } from '../runtime/session-options.ts';
import { buildLaneGraph } from './build-lane-graph.ts';
import type { CausalLM, CausalLMLimits, Lane, Logits } from './causal-lm.ts';
import { DeviceLaneCache, type SlotCache } from './device-cache.ts';
import { LaneCache } from './lane-cache.ts';
import { assertLanes } from './lane-check.ts';
import { type AttentionType, type KvFormat, qkvWidth } from './lane-graph.ts';
import { StepBuffers } from './lane-step.ts';
import { LaneVariant } from './lane-variant.ts';
import { LoadedWeights } from './load-weights.ts';
import { loadOnnxDecoder } from './onnx-decoder.ts';
import { kvFormat, type PreparedManifest, readAnyManifest } from './prepared-model.ts';
import { ropeTables } from './rope.ts';

export interface LoadCausalLMOptions {
  /** Folder that `prepareModel` made. */
  readonly dir: string;
  /** Shared with other models of the process; without it the model loads one of its own. */
  readonly runtime?: Runtime;
  /** For the runtime of its own: another library than the packaged one. */
  readonly libraryPath?: string;
  readonly numSlots: number;
  /** Tokens a slot holds; at most the model's own limit. */
  readonly maxLength: number;
  /** Most sequences in one step: 1 to 16. */
  readonly maxLanes: number;
  readonly maxBatchedTokens: number;
  /** Threads of a step, the caller's included; 0 = one per physical core. Default 0. */
  readonly threads?: number;
  /** How keys and values are cached. 'auto' (the default) is what calibration chose, fp32 without one. */
  readonly kv?: KvFormat | 'auto';
  /** Where weights and cache lie and the graph runs. Default 'cpu'. */
  readonly device?: Device;
  /** What attention computes in and its cache holds. Default float32, on CUDA float16: its kernels know no other. */
  readonly attention?: AttentionType;
}

/** Numbers of lanes for which there is a graph of its own. */
const VARIANTS = [1, 2, 4, 8, 16] as const;
const MAX_LANES = 16;
/**
 * A shader binds 12 buffers on some drivers: 8 lanes can be split and joined, 16 cannot. From 32 tokens of a sequence on, attention
 * takes another kernel, whose results were wrong on SwiftShader; 31 tokens a step never reach it.
 */
const WEBGPU_BOUNDS = { maxLanes: 8, maxBatchedTokens: 31 };

/**
 * Blocks until the model can run. Throws StvError `pack_invalid` for a damaged folder, `config_invalid` for limits that the model
 * cannot keep, `device_unavailable` where the device is not there or full, `runtime_failed` when ONNX Runtime refuses.
 */
export function loadCausalLM(options: LoadCausalLMOptions): CausalLM {
  const dir = resolve(options.dir);
  const manifest = readAnyManifest(dir);
  checkLimit('numSlots', options.numSlots, { min: 1, max: 1 << 16 });
  checkLimit('maxLanes', options.maxLanes, { min: 1, max: MAX_LANES });
  checkLimit('maxBatchedTokens', options.maxBatchedTokens, { min: options.maxLanes, max: 1 << 20 });
  checkLimit('maxLength', options.maxLength, { min: 1, max: Number.MAX_SAFE_INTEGER });
  if ('onnx' in manifest) {
    if ((options.device ?? 'cpu') === 'cpu') return loadOnnxDecoder(options, manifest);
    throw new StvError('device_unavailable', 'A ready-made ONNX decoder runs on the CPU only; use the device cpu.');
  }
  return new LaneCausalLM(options, dir, manifest);
}

class LaneCausalLM implements CausalLM {
  readonly limits: CausalLMLimits;
  readonly #ownRuntime: Runtime | undefined;
  readonly #cache: SlotCache;
  /** By index in VARIANTS; the first is made at once, the others when they are needed or in idle time. */
  readonly #variants: (LaneVariant | undefined)[];
  readonly #makeVariant: (numLanes: number) => LaneVariant;
  readonly #prepackedWeights: PrepackedWeights;
  readonly #buffers: StepBuffers;
  readonly #weights: LoadedWeights;
  readonly #placement: Placement;

  constructor(options: LoadCausalLMOptions, dir: string, manifest: PreparedManifest) {
    const { config } = manifest;
    const { numSlots, threads = 0, device = 'cpu' } = options;
    const bounds = device !== 'cpu' && device.type === 'webgpu' ? WEBGPU_BOUNDS : options;
    const maxLanes = Math.min(options.maxLanes, bounds.maxLanes);
    const maxBatchedTokens = Math.min(options.maxBatchedTokens, bounds.maxBatchedTokens);
    const maxLength = Math.min(options.maxLength, config.maxPositionEmbeddings);
    this.limits = { vocabSize: config.vocabSize, numSlots, maxLength, maxLanes, maxBatchedTokens };

    this.#ownRuntime = options.runtime === undefined ? loadRuntime({ libraryPath: options.libraryPath }) : undefined;
    const runtime = options.runtime ?? (this.#ownRuntime as Runtime); // one of the two is there
    const attention = options.attention ?? (device !== 'cpu' && device.type === 'cuda' ? 'float16' : 'float32');
    const placement = new Placement(runtime, device);
    this.#placement = placement;
    this.#weights = new LoadedWeights(runtime, dir, manifest, placement);
    const isPlain = placement.isHost && attention === 'float32';
    const kv = isPlain ? kvFormat(options.kv ?? 'auto', manifest) : 'fp32';
    this.#cache = isPlain
      ? new LaneCache(runtime, config, { numSlots, maxLength, kv })
      : new DeviceLaneCache(runtime, placement, config, { numSlots, maxLength, type: attention });
    const shape = { vocabSize: config.vocabSize, maxBatchedTokens, maxLanes: MAX_LANES, qkvWidth: qkvWidth(config) };
    this.#buffers = new StepBuffers(runtime, shape);
    const tables = ropeTables(config, maxLength);
    const tableShape = [maxLength, config.headDim / 2];
    const cos = placement.upload('float32', tableShape, tables.cos);
    const sin = placement.upload('float32', tableShape, tables.sin);
    this.#prepackedWeights = runtime.createPrepackedWeights();
    this.#makeVariant = (numLanes) => {
      const graph = buildLaneGraph({ config, numLanes, format: manifest.weights, kv, attention });
      const session = runtime.createSession({
        model: graph.finish(this.#weights.locate),
        initializers: this.#weights.initializers(graph),
        device,
        ...(placement.isHost ? { prepackedWeights: this.#prepackedWeights } : {}),
        intraOpThreads: threads,
        // shapes differ from step to step: a plan per shape would be made over and over
        memoryPattern: false,
        config: {
          'session.model_external_initializers_file_folder_path': dir,
          // work in small pieces, so that a thread that the system holds up holds up less
          'session.dynamic_block_base': '4',
        },
      });
      return new LaneVariant({
        runtime,
        session,
        numLanes,
        numLayers: config.numHiddenLayers,
        cache: this.#cache,
        cos,
        sin,
      });
    };
    const largest = VARIANTS.findIndex((numLanes) => numLanes >= maxLanes);
    this.#variants = new Array<LaneVariant | undefined>(largest + 1).fill(undefined);
    this.#variantAt(0);
  }

  warmUp(): boolean {
    const missing = this.#variants.indexOf(undefined);
    if (missing < 0) return false;
    this.#variantAt(missing);
    return true;
  }

  #variantAt(index: number): LaneVariant {
    const made = this.#variants[index] ?? this.#makeVariant(VARIANTS[index] as number); // an index of #variants
    this.#variants[index] = made;
    return made;
  }

  forward(lanes: readonly Lane[]): Logits {
    const buffers = this.#buffers;
    assertLanes(lanes, this.limits, buffers.firstRowOf);
    let variant = 0;
    while ((VARIANTS[variant] as number) < lanes.length) variant++; // the check allows no more lanes than the largest has
    this.#variantAt(variant).run(lanes, buffers);
    return buffers;
  }

  copyPrefix(from: number, to: number, length: number): void {
    const { numSlots, maxLength } = this.limits;
    if (!(from >= 0 && from < numSlots && to >= 0 && to < numSlots && length >= 0 && length <= maxLength)) {
      throw new StvError(
        'internal',
        `Cannot copy ${length} tokens of slot ${from} to slot ${to} of ${numSlots} slots.`,
      );
    }
    if (from !== to) this.#cache.copyPrefix(from, to, length);
  }

  dispose(): void {
    for (const variant of this.#variants) variant?.dispose();
    this.#prepackedWeights.dispose();
    this.#buffers.dispose();
    this.#cache.dispose();
    this.#weights.dispose();
    this.#placement.dispose();
    this.#ownRuntime?.dispose();
  }
}

function checkLimit(field: string, value: number, { min, max }: { readonly min: number; readonly max: number }): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw new StvError('config_invalid', `${field} must be an integer from ${min} to ${max}, not ${value}.`);
}
