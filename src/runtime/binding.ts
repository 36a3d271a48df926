/** What a run reads and writes: an OrtIoBinding with the tensors bound to it. Made once, changed where a step differs. */

import { StvError } from '../errors.ts';
import { NativeHandle, Ownership } from './native-handle.ts';
import type { OrtFunctions } from './ort-functions.ts';
import { takePointer } from './out-parameter.ts';
import type { Session } from './session.ts';
import type { SessionValue } from './session-values.ts';
import type { Tensor } from './tensor.ts';

/** One side of a binding, by position in the model. Holds a reference to each bound tensor's handle. */
class BoundTensors {
  readonly tensors: (Tensor | undefined)[];
  readonly #handles: (NativeHandle | undefined)[];

  constructor(count: number) {
    this.tensors = new Array(count).fill(undefined);
    this.#handles = new Array(count).fill(undefined);
  }

  set(index: number, tensor: Tensor): void {
    const handle = tensor.handle;
    handle.retain();
    this.#handles[index]?.letGo();
    this.#handles[index] = handle;
    this.tensors[index] = tensor;
  }

  clear(): void {
    for (const handle of this.#handles) handle?.letGo();
    this.#handles.fill(undefined);
    this.tensors.fill(undefined);
  }
}

/** Throws StvError `runtime_failed` unless the tensor can stand where the model says `value`. */
function assertFits(value: SessionValue, tensor: Tensor): void {
  if (tensor.type !== value.type) {
    throw new StvError(
      'runtime_failed',
      `The tensor for ${value.name} must be of type ${value.type ?? 'unknown to this runtime'}, not ${tensor.type}.`,
    );
  }
  const { dims } = value;
  if (dims === undefined) return;
  const fits =
    dims.length === tensor.dims.length &&
    dims.every((dim, index) => typeof dim === 'string' || dim === tensor.dims[index]);
  if (!fits) {
    throw new StvError(
      'runtime_failed',
      `The tensor for ${value.name} must have the shape [${dims.map((dim) => dim || '?').join(', ')}], not [${tensor.dims.join(', ')}].`,
    );
  }
}

export class Binding {
  readonly session: Session;
  readonly #functions: OrtFunctions;
  readonly #ownership: Ownership;
  readonly #inputs: BoundTensors;
  readonly #outputs: BoundTensors;
  #isRunning = false;

  /** Made by `Session.createBinding`. */
  constructor(session: Session, functions: OrtFunctions) {
    this.session = session;
    this.#functions = functions;
    const inputs = new BoundTensors(session.inputs.length);
    const outputs = new BoundTensors(session.outputs.length);
    this.#inputs = inputs;
    this.#outputs = outputs;
    const sessionHandle = session.handle;
    const pointer = takePointer((out) => functions.CreateIoBinding(sessionHandle.pointer, out));
    const handle = new NativeHandle(pointer, {
      kind: 'binding',
      parents: [sessionHandle],
      gate: session.gate,
      release: (binding) => {
        functions.ReleaseIoBinding(binding);
        inputs.clear();
        outputs.clear();
      },
    });
    this.#ownership = new Ownership(this, handle);
  }

  /**
   * Binds a tensor to an input by name, in place of an earlier one. For a session on a device a CPU tensor is copied to the
   * device now, so later changes of its data need another call; on the CPU each run reads the tensor's memory itself.
   * Throws StvError `runtime_failed` for an unknown name, a wrong type or shape, or while a run is in flight.
   */
  bindInput(name: string, tensor: Tensor): void {
    this.#assertIdle();
    const index = this.session.inputIndex(name);
    // the index came from the same list
    assertFits(this.session.inputs[index] as SessionValue, tensor);
    this.#functions.BindInput(this.#ownership.pointer, name, tensor.handle.pointer);
    this.#inputs.set(index, tensor);
  }

  /** Binds the tensor that a run writes. The same tensor may be bound as an input: that is how a cache is updated in place. */
  bindOutput(name: string, tensor: Tensor): void {
    this.#assertIdle();
    const index = this.session.outputIndex(name);
    assertFits(this.session.outputs[index] as SessionValue, tensor);
    this.#functions.BindOutput(this.#ownership.pointer, name, tensor.handle.pointer);
    this.#outputs.set(index, tensor);
  }

  clearInputs(): void {
    this.#assertIdle();
    this.#functions.ClearBoundInputs(this.#ownership.pointer);
    this.#inputs.clear();
  }

  /** Waits until the copies to a device that `bindInput` began are done. */
  synchronizeInputs(): void {
    this.#assertIdle();
    this.#functions.SynchronizeBoundInputs(this.#ownership.pointer);
  }

  /** Waits until the outputs that a run writes on a device are there. */
  synchronizeOutputs(): void {
    this.#assertIdle();
    this.#functions.SynchronizeBoundOutputs(this.#ownership.pointer);
  }

  /** For `Session`: checks that a run can begin, and gives the native binding. */
  beginRun(): NativeHandle {
    this.#assertIdle();
    this.#assertBound(this.#inputs.tensors, true);
    this.#assertBound(this.#outputs.tensors, false);
    this.#isRunning = true;
    return this.#ownership.handle;
  }

  /** For `Session`. */
  endRun(): void {
    this.#isRunning = false;
  }

  /** Harmless when repeated; a run in flight ends first. */
  dispose(): void {
    this.#ownership.dispose();
  }

  #assertIdle(): void {
    this.#ownership.assertUsable();
    if (this.#isRunning) throw new StvError('runtime_failed', 'This binding is in use by a run that has not ended.');
    this.session.gate?.assertFree();
  }

  // Runs before each step over every bound tensor: no closures, no iterators.
  #assertBound(tensors: readonly (Tensor | undefined)[], areInputs: boolean): void {
    let numBound = 0;
    for (let index = 0; index < tensors.length; index++) {
      const tensor = tensors[index];
      if (tensor === undefined) {
        if (areInputs) throw new StvError('runtime_failed', `No tensor is bound to ${this.#nameOf(index, true)}.`);
        continue;
      }
      if (!tensor.isUsable) {
        const why = tensor.isDisposed ? 'was disposed' : 'lost its memory to another thread';
        throw new StvError('runtime_failed', `The tensor bound to ${this.#nameOf(index, areInputs)} ${why}.`);
      }
      numBound++;
    }
    if (!areInputs && numBound === 0) throw new StvError('runtime_failed', 'No tensor is bound to any output.');
  }

  #nameOf(index: number, isInput: boolean): string {
    const value = (isInput ? this.session.inputs : this.session.outputs)[index];
    return `${isInput ? 'input' : 'output'} ${value?.name ?? index}`;
  }
}
