/**
 * The key-value cache: per layer one K and one V slab `[slots, kvHeads, maxLength, headDim]`, and a tensor over every slot's part
 * of them, made once. Freed slots keep their content; who holds what is the engine's business.
 */
import type { Runtime } from '../runtime/runtime.ts';
import type { Tensor } from '../runtime/tensor.ts';
import type { AttentionType, KvFormat } from './lane-graph.ts';
import type { ModelConfig } from './model-config.ts';

/** Spare lanes of a graph write their one token here. */
const SCRATCH_LENGTH = 1;

export interface CacheShape {
  readonly numSlots: number;
  /** Tokens a slot holds. */
  readonly maxLength: number;
  readonly kv: KvFormat;
}

type CacheConfig = Pick<ModelConfig, 'numHiddenLayers' | 'numKeyValueHeads' | 'headDim'>;

/** Tensors of one slot, layer after layer, K before V: `2 * layer + (0 | 1)`. */
export type SlotTensors = readonly Tensor<AttentionType | 'int8'>[];

/** Bytes of memory that a cache takes once all its slots have been in use. */
export function cacheBytes({ numHiddenLayers, numKeyValueHeads, headDim }: CacheConfig, shape: CacheShape): number {
  const perElement = shape.kv === 'int8' ? 1 : 4;
  return 2 * numHiddenLayers * numKeyValueHeads * headDim * shape.numSlots * shape.maxLength * perElement;
}

export class LaneCache {
  readonly #config: CacheConfig;
  readonly #shape: CacheShape;
  /** `[numSlots, kvHeads, maxLength, headDim]`, in the order of `SlotTensors`. */
  readonly #slabs: readonly (Float32Array | Int8Array)[];
  readonly #slots: readonly SlotTensors[];
  readonly #scratch: SlotTensors;

  constructor(runtime: Runtime, config: CacheConfig, shape: CacheShape) {
    const { numKeyValueHeads, headDim } = config;
    const { numSlots, maxLength, kv } = shape;
    const type = kv === 'int8' ? 'int8' : 'float32';
    this.#config = config;
    this.#shape = shape;
    const stride = numKeyValueHeads * maxLength * headDim;
    const parts = Array.from({ length: 2 * config.numHiddenLayers }, (_, part) => part);
    this.#slabs = parts.map(() => runtime.createTensor(type, [numSlots * stride]).data);
    this.#slots = Array.from({ length: numSlots }, (_, slot) =>
      this.#slabs.map((slab) =>
        runtime.createTensor(
          type,
          [1, numKeyValueHeads, maxLength, headDim],
          slab.subarray(slot * stride, (slot + 1) * stride),
        ),
      ),
    );
    // written by several lanes of a run in turn and never read: one for all layers
    const scratchShape = [1, numKeyValueHeads, SCRATCH_LENGTH, headDim];
    const scratch = [runtime.createTensor(type, scratchShape), runtime.createTensor(type, scratchShape)];
    this.#scratch = parts.map((part) => scratch[part % 2] as SlotTensors[number]); // both parities are there
  }

  slot(slot: number): SlotTensors {
    const tensors = this.#slots[slot];
    if (tensors === undefined) throw new Error(`There is no slot ${slot}.`);
    return tensors;
  }

  get scratch(): SlotTensors {
    return this.#scratch;
  }

  /** Copies the first `length` tokens of every layer and head from one slot to another. */
  copyPrefix(from: number, to: number, length: number): void {
    const { numKeyValueHeads, headDim } = this.#config;
    const { maxLength } = this.#shape;
    const perHead = maxLength * headDim;
    for (const slab of this.#slabs) {
      for (let head = 0; head < numKeyValueHeads; head++) {
        const source = (from * numKeyValueHeads + head) * perHead;
        slab.copyWithin((to * numKeyValueHeads + head) * perHead, source, source + length * headDim);
      }
    }
  }

  dispose(): void {
    for (const tensors of [...this.#slots, this.#scratch]) for (const tensor of tensors) tensor.dispose();
  }
}
