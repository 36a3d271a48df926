/** The key-value cache on a device: tensors of their own for every slot, layer and part. It never leaves the device. */
import type { Placement } from '../runtime/placement.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Tensor } from '../runtime/tensor.ts';
import type { CacheShape, LaneCache, SlotTensors } from './lane-cache.ts';
import type { AttentionType } from './lane-graph.ts';
import type { ModelConfig } from './model-config.ts';

/** What a step needs of a cache, wherever it lies. */
export type SlotCache = Pick<LaneCache, 'slot' | 'scratch' | 'copyPrefix' | 'dispose'>;

type CacheConfig = Pick<ModelConfig, 'numHiddenLayers' | 'numKeyValueHeads' | 'headDim'>;

export interface DeviceCacheShape extends Pick<CacheShape, 'numSlots' | 'maxLength'> {
  readonly type: AttentionType;
}

export class DeviceLaneCache implements SlotCache {
  readonly scratch: SlotTensors;
  readonly #runtime: Runtime;
  readonly #slots: readonly SlotTensors[];

  /** Throws StvError `device_unavailable` when the device's memory does not hold all slots. */
  constructor(runtime: Runtime, placement: Placement, config: CacheConfig, shape: DeviceCacheShape) {
    const { numSlots, maxLength, type } = shape;
    this.#runtime = runtime;
    const parts = Array.from({ length: 2 * config.numHiddenLayers }, (_, part) => part);
    const make = (length: number): Tensor<AttentionType> =>
      placement.allocate(type, [1, config.numKeyValueHeads, length, config.headDim]);
    this.#slots = Array.from({ length: numSlots }, () => parts.map(() => make(maxLength)));
    // spare lanes write their one token here, and nobody reads it
    const scratch = [make(1), make(1)];
    this.scratch = parts.map((part) => scratch[part % 2] as Tensor<AttentionType>); // both parities are there
  }

  slot(slot: number): SlotTensors {
    const tensors = this.#slots[slot];
    if (tensors === undefined) throw new Error(`There is no slot ${slot}.`);
    return tensors;
  }

  /** Copies whole slots: on a device the tokens behind the prefix cost less than a copy for every head. */
  copyPrefix(from: number, to: number, _length: number): void {
    const target = this.slot(to);
    for (const [part, tensor] of this.slot(from).entries()) this.#runtime.copy(tensor, target[part] as typeof tensor);
  }

  dispose(): void {
    for (const tensors of [...this.#slots, this.scratch]) for (const tensor of tensors) tensor.dispose();
  }
}
