/**
 * Owns one native object and decides when it is released. A handle is counted: its JavaScript owner holds one reference,
 * every native object that needs it holds another, so the order of release is right whatever is disposed or collected first.
 * A handle never refers to its owner; that is what lets a forgotten owner be collected and its handle be released.
 */

import { StvError } from '../errors.ts';
import type { DeviceGate } from './device-gate.ts';

/** Address of a native object; 0 never occurs. */
export type Pointer = bigint;

export interface NativeHandleOptions {
  /** What it is called in error messages: `session`, `binding`, `tensor`. */
  readonly kind: string;
  readonly release: (pointer: Pointer) => void;
  /** Native objects that must outlive this one. */
  readonly parents?: readonly NativeHandle[];
  /** Memory that the native object points at. */
  readonly memory?: unknown;
  /** Where the release has to wait for a run on another thread. */
  readonly gate?: DeviceGate | undefined;
}

export class NativeHandle {
  readonly kind: string;
  /** Only held, so that the garbage collector does not take it. */
  memory: unknown;
  readonly #release: (pointer: Pointer) => void;
  readonly #gate: DeviceGate | undefined;
  #pointer: Pointer;
  #parents: readonly NativeHandle[];
  #references = 1;

  constructor(pointer: Pointer, options: NativeHandleOptions) {
    this.kind = options.kind;
    this.#pointer = pointer;
    this.#release = options.release;
    this.#gate = options.gate;
    this.#parents = options.parents ?? [];
    this.memory = options.memory;
    for (const parent of this.#parents) parent.retain();
  }

  get pointer(): Pointer {
    if (this.#references === 0) throw new StvError('runtime_failed', `This ${this.kind} has been released already.`);
    return this.#pointer;
  }

  retain(): void {
    if (this.#references === 0) throw new StvError('runtime_failed', `This ${this.kind} has been released already.`);
    this.#references++;
  }

  /** Gives one reference back; the last one releases the native object, then lets go of its memory and its parents. */
  letGo(): void {
    if (this.#references === 0) return;
    this.#references--;
    if (this.#references > 0) return;
    if (this.#gate === undefined) this.#releaseNow();
    else this.#gate.whenFree(() => this.#releaseNow());
  }

  #releaseNow(): void {
    this.#release(this.#pointer);
    this.memory = undefined;
    for (const parent of this.#parents) parent.letGo();
    this.#parents = [];
  }
}

const forgotten = new FinalizationRegistry<NativeHandle>((handle) => handle.letGo());

/** The owner's reference to a handle: given back by `dispose`, or by the garbage collector when the owner is forgotten. */
export class Ownership {
  readonly handle: NativeHandle;
  #isDisposed = false;

  constructor(owner: object, handle: NativeHandle) {
    this.handle = handle;
    forgotten.register(owner, handle, this);
  }

  get isDisposed(): boolean {
    return this.#isDisposed;
  }

  /** The native address, or an error that says what was disposed. */
  get pointer(): Pointer {
    this.assertUsable();
    return this.handle.pointer;
  }

  assertUsable(): void {
    if (this.#isDisposed) {
      throw new StvError('runtime_failed', `This ${this.handle.kind} was disposed and can no longer be used.`);
    }
  }

  /** Harmless when repeated. */
  dispose(): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    forgotten.unregister(this);
    this.handle.letGo();
  }
}
