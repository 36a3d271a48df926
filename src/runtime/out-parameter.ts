/** Out parameters of the C API: memory that a call fills with a new object's address, a string or a number. */

import koffi from 'koffi';

// One for the whole thread, because a call that fills it has returned before the next begins. Never moves: off the heap.
const slot = new BigUint64Array(new ArrayBuffer(8));
const int32 = new Int32Array(slot.buffer, 0, 1);

/** The address that `call` writes. */
export function takePointer(call: (out: BigUint64Array) => void): bigint {
  slot[0] = 0n;
  call(slot);
  return slot[0];
}

/** The size_t that `call` writes. */
export function takeSize(call: (out: BigUint64Array) => void): number {
  return Number(takePointer(call));
}

/** The int or enum that `call` writes. */
export function takeInt32(call: (out: Int32Array) => void): number {
  int32[0] = 0;
  call(int32);
  return int32[0];
}

/** A copy of the NUL-terminated UTF-8 string at `pointer`; empty for NULL. */
export function readString(pointer: bigint): string {
  return pointer === 0n ? '' : koffi.decode.string(pointer);
}

/** Copies of the strings of a `char **`. */
export function readStringArray(pointer: bigint, count: number): string[] {
  return koffi.decode(pointer, 'char *', count);
}
