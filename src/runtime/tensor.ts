/** A tensor: an OrtValue over memory that JavaScript sees (CPU), or over memory of a device that it does not. */

import { StvError } from '../errors.ts';
import type { DeviceGate } from './device-gate.ts';
import { type ElementType, elementTypeFacts, type TensorArray } from './element-type.ts';
import { addressOf, allocateArray, viewAsArray } from './memory.ts';
import { NativeHandle, Ownership } from './native-handle.ts';
import type { OrtFunctions } from './ort-functions.ts';
import { takePointer } from './out-parameter.ts';

export type TensorLocation = 'cpu' | 'webgpu' | 'cuda';

export class Tensor<Type extends ElementType = ElementType> {
  readonly type: Type;
  readonly dims: readonly number[];
  readonly location: TensorLocation;
  readonly #ownership: Ownership;
  readonly #array: TensorArray<Type> | undefined;
  readonly #isEmpty: boolean;

  /** Made by `Runtime.createTensor` and `Session.createDeviceTensor`. `array` is absent for device memory. */
  constructor(
    handle: NativeHandle,
    facts: {
      readonly type: Type;
      readonly dims: readonly number[];
      readonly location: TensorLocation;
      readonly array?: TensorArray<Type>;
    },
  ) {
    this.type = facts.type;
    this.dims = facts.dims;
    this.location = facts.location;
    this.#array = facts.array;
    this.#isEmpty = facts.dims.includes(0);
    this.#ownership = new Ownership(this, handle);
  }

  /** The elements themselves, not a copy. Throws StvError `runtime_failed` for device memory and after `dispose`. */
  get data(): TensorArray<Type> {
    this.#ownership.assertUsable();
    if (this.#array === undefined) {
      throw new StvError(
        'runtime_failed',
        `The data of a tensor on the device ${this.location} cannot be read directly.`,
      );
    }
    return this.#array;
  }

  /** For the other files of this folder. */
  get handle(): NativeHandle {
    this.#ownership.assertUsable();
    return this.#ownership.handle;
  }

  get isDisposed(): boolean {
    return this.#ownership.isDisposed;
  }

  /** False once disposed, or once its memory was transferred to another thread: a run must not touch it then. */
  get isUsable(): boolean {
    if (this.#ownership.isDisposed) return false;
    return this.#array === undefined || this.#isEmpty || this.#array.byteLength !== 0;
  }

  /** Harmless when repeated. A binding or session that holds the tensor keeps its memory alive, but no longer runs with it. */
  dispose(): void {
    this.#ownership.dispose();
  }
}

/** Number of elements; 1 for a scalar. Throws StvError `runtime_failed` for a dimension that is not a non-negative integer. */
export function countElements(dims: readonly number[]): number {
  let count = 1;
  for (const dim of dims) {
    if (!Number.isSafeInteger(dim) || dim < 0) {
      throw new StvError(
        'runtime_failed',
        `A tensor dimension must be a non-negative integer, not ${dim} in [${dims}].`,
      );
    }
    count *= dim;
  }
  if (!Number.isSafeInteger(count))
    throw new StvError('runtime_failed', `A tensor of [${dims}] has too many elements.`);
  return count;
}

export interface CpuTensorOptions {
  readonly dims: readonly number[];
  /** Used in place and kept reachable; absent, fresh zeroed memory. */
  readonly data: ArrayBufferView | ArrayBufferLike | undefined;
  /** Memory info of the CPU. */
  readonly memoryInfo: NativeHandle;
}

/** An OrtValue over memory of the process. Throws StvError `runtime_failed` when data and dims do not fit. */
export function createCpuTensor<Type extends ElementType>(
  functions: OrtFunctions,
  type: Type,
  options: CpuTensorOptions,
): Tensor<Type> {
  const dims = Object.freeze([...options.dims]);
  const count = countElements(dims);
  const array = options.data === undefined ? allocateArray(type, count) : viewAsArray(type, count, options.data);
  const shape = BigInt64Array.from(dims, BigInt);
  const { onnx } = elementTypeFacts(type);
  const info = options.memoryInfo.pointer;
  const value = takePointer((out) =>
    functions.CreateTensorWithDataAsOrtValue(info, addressOf(array), array.byteLength, shape, dims.length, onnx, out),
  );
  const handle = new NativeHandle(value, {
    kind: 'tensor',
    release: functions.ReleaseValue,
    parents: [options.memoryInfo],
    memory: array,
  });
  return new Tensor(handle, { type, dims, location: 'cpu', array });
}

export interface DeviceTensorOptions {
  readonly dims: readonly number[];
  readonly location: TensorLocation;
  /** An OrtAllocator of the device; it outlives the tensor. */
  readonly allocator: NativeHandle;
  readonly gate: DeviceGate | undefined;
}

/** Messages of allocators that have nothing left. */
const OUT_OF_MEMORY = /out of memory|failed to allocate|bad_alloc|cudaErrorMemoryAllocation|available memory/iu;

/** The error for memory that a device does not have, from what ONNX Runtime threw; anything else as it is. */
export function deviceMemoryError(thrown: unknown, location: TensorLocation, what: string): unknown {
  if (!(thrown instanceof StvError && OUT_OF_MEMORY.test(thrown.message))) return thrown;
  const message = `The device ${location} is out of memory: there was none for ${what}. Take fewer slots, a shorter context or smaller weights. ${thrown.message}`;
  return new StvError('device_unavailable', message, { cause: thrown });
}

/**
 * A second OrtValue over the same device memory that does not own it: what ONNX Runtime takes as an initializer. The memory lives
 * as long as either.
 */
export function borrowTensor<Type extends ElementType>(
  functions: OrtFunctions,
  tensor: Tensor<Type>,
  memoryInfo: NativeHandle,
): Tensor<Type> {
  const { type, dims, location } = tensor;
  const { onnx, bytes } = elementTypeFacts(type);
  const data = takePointer((out) => functions.GetTensorMutableData(tensor.handle.pointer, out));
  const size = countElements(dims) * bytes;
  const shape = BigInt64Array.from(dims, BigInt);
  const value = takePointer((out) =>
    functions.CreateTensorWithDataAsOrtValue(memoryInfo.pointer, data, size, shape, dims.length, onnx, out),
  );
  const handle = new NativeHandle(value, {
    kind: 'tensor',
    release: functions.ReleaseValue,
    parents: [tensor.handle, memoryInfo],
  });
  return new Tensor(handle, { type, dims, location });
}

/** An OrtValue in memory of a device; what it holds at first is undefined. */
export function createAllocatedTensor<Type extends ElementType>(
  functions: OrtFunctions,
  type: Type,
  options: DeviceTensorOptions,
): Tensor<Type> {
  const dims = Object.freeze([...options.dims]);
  countElements(dims);
  const shape = BigInt64Array.from(dims, BigInt);
  const { onnx } = elementTypeFacts(type);
  const allocator = options.allocator.pointer;
  let value: bigint;
  try {
    value = takePointer((out) => functions.CreateTensorAsOrtValue(allocator, shape, dims.length, onnx, out));
  } catch (thrown) {
    throw deviceMemoryError(thrown, options.location, `a tensor of [${dims.join(', ')}]`);
  }
  const handle = new NativeHandle(value, {
    kind: 'tensor',
    release: functions.ReleaseValue,
    parents: [options.allocator],
    gate: options.gate,
  });
  return new Tensor(handle, { type, dims, location: options.location });
}
