/** A session: one loaded model, what it takes and gives, and running it over a binding. */

import { StvError } from '../errors.ts';
import { Binding } from './binding.ts';
import type { DeviceGate } from './device-gate.ts';
import type { ElementType } from './element-type.ts';
import { NativeHandle, Ownership } from './native-handle.ts';
import { readString, takePointer } from './out-parameter.ts';
import { type RunOptions, withRunOptions } from './run-options.ts';
import type { RuntimeContext } from './runtime-context.ts';
import type { Device } from './session-options.ts';
import { readSessionValues, type SessionValue } from './session-values.ts';
import {
  borrowTensor,
  createAllocatedTensor,
  createCpuTensor,
  deviceMemoryError,
  type Tensor,
  type TensorLocation,
} from './tensor.ts';

/** Names that ONNX Runtime gives to the memory of a device. */
const DEVICE_MEMORY = { webgpu: 'WebGPU_Buf', cuda: 'Cuda' } as const;

/** What drivers say when a device is gone or its context is beyond use: nothing that runs there afterwards can succeed. */
const DEVICE_LOST =
  /device (?:was |is |has been )?lost|lost device|VK_ERROR_DEVICE_LOST|device is destroyed|(?:CUDA|CUBLAS|cudaError)(?:(?! failure 2\b).)*(?:error|failure)/iu;

/** The error for a run that failed on a device. */
export function runFailure(thrown: unknown, location: 'webgpu' | 'cuda'): unknown {
  const full = deviceMemoryError(thrown, location, 'a step');
  if (full !== thrown || !(thrown instanceof StvError && DEVICE_LOST.test(thrown.message))) return full;
  return new StvError('device_lost', `The device ${location} was lost: ${thrown.message}`, { cause: thrown });
}

export class Session {
  readonly inputs: readonly SessionValue[];
  readonly outputs: readonly SessionValue[];
  /** Where `createDeviceTensor` puts tensors. */
  readonly location: TensorLocation;
  /** For `Binding`: present where the device allows one call at a time. */
  readonly gate: DeviceGate | undefined;
  readonly #context: RuntimeContext;
  readonly #ownership: Ownership;
  readonly #deviceId: number;
  readonly #inputIndexes: ReadonlyMap<string, number>;
  readonly #outputIndexes: ReadonlyMap<string, number>;
  #allocator: Ownership | undefined;
  #memoryInfo: Ownership | undefined;

  /** Made by `Runtime.createSession`. */
  constructor(context: RuntimeContext, handle: NativeHandle, device: Device) {
    this.#context = context;
    this.location = device === 'cpu' ? 'cpu' : device.type;
    this.gate = this.location === 'webgpu' ? context.library.webGpuGate : undefined;
    this.#deviceId = device === 'cpu' || device.type !== 'cuda' ? 0 : (device.deviceId ?? 0);
    this.#ownership = new Ownership(this, handle);
    this.inputs = readSessionValues(context, handle.pointer, 'input');
    this.outputs = readSessionValues(context, handle.pointer, 'output');
    this.#inputIndexes = new Map(this.inputs.map((value, index) => [value.name, index]));
    this.#outputIndexes = new Map(this.outputs.map((value, index) => [value.name, index]));
  }

  createBinding(): Binding {
    this.#ownership.assertUsable();
    return new Binding(this, this.#context.functions);
  }

  /**
   * Runs the model over what is bound and blocks until it is done; on a device the bound outputs are then complete too.
   * Throws StvError `runtime_failed`; what the outputs hold is then undefined.
   */
  run(binding: Binding, options?: RunOptions): void {
    const { functions } = this.#context;
    const handle = this.#beginRun(binding);
    try {
      const status =
        options === undefined
          ? functions.runWithBindingRaw(this.#ownership.pointer, null, handle.pointer)
          : withRunOptions(functions, options, (pointer) =>
              functions.runWithBindingRaw(this.#ownership.pointer, pointer, handle.pointer),
            );
      if (status !== null) this.#throwRunFailure(status);
    } finally {
      this.#endRun(binding);
    }
  }

  /**
   * As `run`, on another thread: the event loop goes on. Until the promise settles nothing may touch the memory of the bound
   * tensors, and the binding cannot be changed. Disposing of the session or the binding meanwhile is safe.
   */
  async runAsync(binding: Binding, options?: RunOptions): Promise<void> {
    const { functions } = this.#context;
    const handle = this.#beginRun(binding);
    handle.retain();
    try {
      const status = await withRunOptions(functions, options ?? {}, (pointer) => {
        return new Promise<bigint | null>((resolve, reject) => {
          functions.runWithBindingRaw.async(this.#ownership.pointer, pointer, handle.pointer, (error, result) => {
            if (error === null) resolve(result);
            else reject(error);
          });
        });
      });
      if (status !== null) this.#throwRunFailure(status);
    } finally {
      this.#endRun(binding);
      handle.letGo();
    }
  }

  /** A tensor in the memory of the session's device; what it holds at first is undefined. On the CPU, zeroed memory. */
  createDeviceTensor<Type extends ElementType>(type: Type, dims: readonly number[]): Tensor<Type> {
    const { functions, cpuMemory } = this.#context;
    this.#ownership.assertUsable();
    if (this.location === 'cpu')
      return createCpuTensor(functions, type, { dims, data: undefined, memoryInfo: cpuMemory });
    this.gate?.assertFree();
    this.#allocator ??= this.#createAllocator();
    return createAllocatedTensor(functions, type, {
      dims,
      location: this.location,
      allocator: this.#allocator.handle,
      gate: this.gate,
    });
  }

  /** The same memory as a tensor that a session on the same device can be given as an initializer. */
  asInitializer<Type extends ElementType>(tensor: Tensor<Type>): Tensor<Type> {
    this.#ownership.assertUsable();
    return this.location === 'cpu'
      ? tensor
      : borrowTensor(this.#context.functions, tensor, this.#deviceMemory().handle);
  }

  /** Ends profiling and returns the path of the file written. Throws StvError `runtime_failed` when it was never on. */
  endProfiling(): string {
    const { functions, allocator } = this.#context;
    const session = this.#ownership.pointer;
    const pointer = takePointer((out) => functions.SessionEndProfiling(session, allocator, out));
    const path = readString(pointer);
    functions.AllocatorFree(allocator, pointer);
    if (path === '') throw new StvError('runtime_failed', 'This session was created without profilePrefix.');
    return path;
  }

  /** Harmless when repeated. The native session goes when its last binding and its last device tensor have gone. */
  dispose(): void {
    this.#ownership.dispose();
    this.#allocator?.dispose();
    this.#memoryInfo?.dispose();
  }

  /** For `Binding`. */
  get handle(): NativeHandle {
    this.#ownership.assertUsable();
    return this.#ownership.handle;
  }

  /** Position of an input; throws StvError `runtime_failed` for a name the model does not have. */
  inputIndex(name: string): number {
    const index = this.#inputIndexes.get(name);
    if (index === undefined) throw new StvError('runtime_failed', `The model has no input named ${name}.`);
    return index;
  }

  /** Position of an output; throws StvError `runtime_failed` for a name the model does not have. */
  outputIndex(name: string): number {
    const index = this.#outputIndexes.get(name);
    if (index === undefined) throw new StvError('runtime_failed', `The model has no output named ${name}.`);
    return index;
  }

  #beginRun(binding: Binding): NativeHandle {
    this.#ownership.assertUsable();
    if (binding.session !== this) {
      throw new StvError('runtime_failed', 'A session can only run a binding that it has made itself.');
    }
    this.gate?.assertFree();
    const handle = binding.beginRun();
    this.gate?.hold();
    return handle;
  }

  #endRun(binding: Binding): void {
    binding.endRun();
    this.gate?.leave();
  }

  #throwRunFailure(status: bigint): never {
    try {
      this.#context.throwStatus('RunWithBinding', status);
    } catch (thrown) {
      throw this.location === 'cpu' ? thrown : runFailure(thrown, this.location);
    }
  }

  #deviceMemory(): Ownership {
    if (this.#memoryInfo !== undefined) return this.#memoryInfo;
    const { functions } = this.#context;
    const name = this.location === 'cpu' ? 'Cpu' : DEVICE_MEMORY[this.location];
    const info = takePointer((out) => functions.CreateMemoryInfo(name, 0, this.#deviceId, 0, out));
    const handle = new NativeHandle(info, { kind: 'memory info', release: functions.ReleaseMemoryInfo });
    this.#memoryInfo = new Ownership(this, handle);
    return this.#memoryInfo;
  }

  #createAllocator(): Ownership {
    const { functions } = this.#context;
    const session = this.#ownership.handle;
    const info = this.#deviceMemory().pointer;
    const allocator = takePointer((out) => functions.CreateAllocator(session.pointer, info, out));
    const handle = new NativeHandle(allocator, {
      kind: 'allocator',
      release: functions.ReleaseAllocator,
      parents: [session],
      gate: this.gate,
    });
    return new Ownership(this, handle);
  }
}
