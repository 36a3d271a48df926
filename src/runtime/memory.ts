/** Memory that JavaScript and ONNX Runtime share: fresh typed arrays, views over the caller's, and their addresses. */

import koffi from 'koffi';
import { StvError } from '../errors.ts';
import { type ElementType, elementTypeFacts, type TensorArray } from './element-type.ts';

// Memory of our own starts on a cache line, which is also the width of the widest vector registers.
const ALIGNMENT = 64;

// What an empty tensor points at: ONNX Runtime wants an address even for no bytes.
const nothing = new Uint8Array(ALIGNMENT);

/** Where the view's first byte lies. It stays there: reading `.buffer` moves a small array out of the collected heap for good. */
export function addressOf(view: ArrayBufferView): bigint {
  const bytes = view.byteLength === 0 ? nothing : new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  return koffi.address(bytes);
}

/** Fresh zeroed memory for `count` elements. Throws StvError `runtime_failed` when there is none. */
export function allocateArray<Type extends ElementType>(type: Type, count: number): TensorArray<Type> {
  const { bytes, array } = elementTypeFacts(type);
  try {
    const buffer = new ArrayBuffer(count * bytes + ALIGNMENT);
    const misalignment = Number(koffi.address(new Uint8Array(buffer)) % BigInt(ALIGNMENT));
    return new array(buffer, (ALIGNMENT - misalignment) % ALIGNMENT, count);
  } catch (error) {
    throw new StvError('runtime_failed', `There is no memory for a tensor of ${count * bytes} bytes.`, {
      cause: error,
    });
  }
}

/**
 * Shows the caller's memory as `count` elements of `type`; nothing is copied.
 * Throws StvError `runtime_failed` when its length or its alignment does not fit.
 */
export function viewAsArray<Type extends ElementType>(
  type: Type,
  count: number,
  memory: ArrayBufferView | ArrayBufferLike,
): TensorArray<Type> {
  const { bytes, array } = elementTypeFacts(type);
  const [buffer, byteOffset] = ArrayBuffer.isView(memory) ? [memory.buffer, memory.byteOffset] : [memory, 0];
  if (memory.byteLength !== count * bytes) {
    throw new StvError(
      'runtime_failed',
      `A tensor of ${count} ${type} elements takes ${count * bytes} bytes, but the data has ${memory.byteLength}.`,
    );
  }
  if (byteOffset % bytes !== 0) {
    throw new StvError(
      'runtime_failed',
      `The data of a ${type} tensor must start at a multiple of ${bytes} bytes, not at ${byteOffset}.`,
    );
  }
  return new array(buffer, byteOffset, count);
}
