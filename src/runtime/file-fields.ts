/** Reads the fields of a protobuf message in a file through a small window, so that gigabytes of weights in it are stepped over. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { FieldReader } from './model-initializers.ts';

const WINDOW = 65_536;

export class FileFields implements FieldReader {
  readonly #descriptor: number;
  readonly #window = Buffer.alloc(WINDOW);
  #windowStart = 0;
  #windowEnd = 0;
  /** Bytes. */
  readonly len: number;
  pos = 0;

  constructor(file: string) {
    this.#descriptor = openSync(file, 'r');
    this.len = fstatSync(this.#descriptor).size;
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  /** The lower 32 bits of a variable-length integer. Throws RangeError where the file ends or the integer does not. */
  uint32(): number {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.#byte();
      if (shift < 32) value |= (byte & 127) << shift;
      if (byte < 128) return value >>> 0;
    }
    throw new RangeError('an integer of more than ten bytes');
  }

  int32(): number {
    return this.uint32() | 0;
  }

  /** A text with its length before it, of one window at most. */
  string(): string {
    const length = this.uint32();
    if (length > WINDOW) throw new RangeError(`a text of ${length} bytes`);
    this.#require(length);
    const bytes = Buffer.alloc(length);
    readSync(this.#descriptor, bytes, 0, length, this.pos);
    this.pos += length;
    return bytes.toString();
  }

  skipType(wireType: number): void {
    if (wireType === 0) this.uint32();
    else if (wireType === 1) this.#skip(8);
    else if (wireType === 2) this.#skip(this.uint32());
    else if (wireType === 5) this.#skip(4);
    else throw new RangeError(`a field of the wire type ${wireType}`);
  }

  #skip(length: number): void {
    this.#require(length);
    this.pos += length;
  }

  #require(length: number): void {
    if (this.pos + length > this.len) throw new RangeError('the file ends too early');
  }

  #byte(): number {
    if (this.pos < this.#windowStart || this.pos >= this.#windowEnd) {
      this.#require(1);
      this.#windowStart = this.pos;
      this.#windowEnd = this.pos + readSync(this.#descriptor, this.#window, 0, WINDOW, this.pos);
    }
    const byte = this.#window[this.pos - this.#windowStart];
    if (byte === undefined || this.pos >= this.#windowEnd) throw new RangeError('the file ends too early');
    this.pos += 1;
    return byte;
  }
}
