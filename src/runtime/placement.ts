/**
 * Where a model's lasting tensors lie: in the memory of the process, or in that of a device. Opening one says whether the device
 * can be had at all, before anything large is made for it.
 */
import { StvError } from '../errors.ts';
import type { ElementType } from './element-type.ts';
import { PROBE_MODEL } from './probe-model.ts';
import type { Runtime } from './runtime.ts';
import type { Session } from './session.ts';
import type { Device } from './session-options.ts';
import type { Tensor } from './tensor.ts';

export class Placement {
  readonly device: Device;
  readonly #runtime: Runtime;
  /** Gives access to the device's memory; absent for the process's own. */
  readonly #session: Session | undefined;

  /** Throws StvError `device_unavailable` when the device cannot be had or does not compute. */
  constructor(runtime: Runtime, device: Device) {
    this.device = device;
    this.#runtime = runtime;
    this.#session = device === 'cpu' ? undefined : runtime.createSession({ model: PROBE_MODEL, device });
    if (this.#session !== undefined) assertComputes(runtime, this.#session);
  }

  /** Whether tensors lie in the memory of the process. */
  get isHost(): boolean {
    return this.#session === undefined;
  }

  /** Zeroed in the memory of the process; undefined content on a device. Throws StvError `device_unavailable` when it is full. */
  allocate<Type extends ElementType>(type: Type, dims: readonly number[]): Tensor<Type> {
    return this.#session === undefined
      ? this.#runtime.createTensor(type, dims)
      : this.#session.createDeviceTensor(type, dims);
  }

  /** As `upload`, for an initializer: every session on the device can be given the same one. */
  uploadInitializer(type: ElementType, dims: readonly number[], data: ArrayBufferView): Tensor {
    const tensor = this.upload(type, dims, data);
    if (this.#session === undefined) return tensor;
    const initializer = this.#session.asInitializer(tensor);
    tensor.dispose();
    return initializer;
  }

  /** A tensor with the given content: used in place in the memory of the process, copied to a device. Throws as `allocate`. */
  upload<Type extends ElementType>(type: Type, dims: readonly number[], data: ArrayBufferView): Tensor<Type> {
    const host = this.#runtime.createTensor(type, dims, data);
    if (this.#session === undefined) return host;
    const there = this.#session.createDeviceTensor(type, dims);
    this.#runtime.copy(host, there);
    host.dispose();
    return there;
  }

  /** Tensors that were made here go on working. */
  dispose(): void {
    this.#session?.dispose();
  }
}

function assertComputes(runtime: Runtime, session: Session): void {
  const binding = session.createBinding();
  const [x, y] = [runtime.createTensor('float32', [1], Float32Array.of(3)), runtime.createTensor('float32', [1])];
  try {
    binding.bindInput('x', x);
    binding.bindOutput('y', y);
    session.run(binding);
    if (y.data[0] === -3) return;
  } finally {
    binding.dispose();
    for (const tensor of [x, y]) tensor.dispose();
  }
  throw new StvError(
    'device_unavailable',
    `The device ${session.location} computes wrong results; its driver is broken.`,
  );
}
