/** Opens a model on the device that was asked for, or, where the choice is ours, on one that works. */
import { toStvError } from '../errors.ts';
import { hasCudaProvider } from '../runtime/cuda-set.ts';
import type { CausalLM } from './causal-lm.ts';
import { type LoadCausalLMOptions, loadCausalLM } from './load-causal-lm.ts';

/** `auto` is CUDA where the library has it and it works, else the CPU. */
export type DeviceName = 'auto' | 'cpu' | 'webgpu' | 'cuda';

export interface OpenedModel {
  readonly model: CausalLM;
  readonly device: Exclude<DeviceName, 'auto'>;
  /** Why `auto` did not take the faster device. */
  readonly warning?: string;
}

export interface OpenOptions extends Omit<LoadCausalLMOptions, 'device'> {
  readonly device: DeviceName;
}

/**
 * Throws as `loadCausalLM`: StvError `device_unavailable` only for a device that was named. `auto` never takes WebGPU, whose driver
 * may be one that computes on the CPU.
 */
export function openOnDevice({ device, ...options }: OpenOptions, load = loadCausalLM): OpenedModel {
  const { libraryPath } = options;
  const hasCuda = libraryPath !== undefined && hasCudaProvider(libraryPath);
  if (device === 'cpu' || (device === 'auto' && !hasCuda)) return { model: load(options), device: 'cpu' };
  const type = device === 'auto' ? 'cuda' : device;
  try {
    return { model: load({ ...options, device: { type } }), device: type };
  } catch (thrown) {
    const { code, message } = toStvError(thrown);
    if (device !== 'auto' || code !== 'device_unavailable') throw thrown;
    return { model: load(options), device: 'cpu', warning: `The models run on the CPU. ${message}` };
  }
}
