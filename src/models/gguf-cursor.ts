/** Walks through the header of a GGUF file. Knows how values are spelled, not what they are for. */
import { type CheckpointFile, checkpointInvalid } from './checkpoint-file.ts';
import { CONFIG_LIMITS } from './model-config.ts';

type GgufNumbers =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

/** 64-bit integers are numbers where that is exact. Arrays of booleans are bytes of 0 and 1. */
export type GgufValue = string | boolean | number | bigint | readonly string[] | GgufNumbers;

const WINDOW_BYTES = 1 << 20;
/** Real headers hold some MB of vocabulary; this only bounds what a hostile file can make us keep. */
const MAX_HEADER_BYTES = 512 << 20;

/** In all arrays of a header. An empty string takes 8 bytes of a file and more of the heap, whose end is the end of the process. */
const MAX_STRINGS = CONFIG_LIMITS.vocabSize * 4;

const TYPE_STRING = 8;
const TYPE_ARRAY = 9;

interface ScalarType {
  readonly bytes: number;
  read(view: DataView, offset: number): number | bigint | boolean;
  view(buffer: ArrayBuffer): GgufNumbers;
}

const SCALAR_TYPES: ReadonlyMap<number, ScalarType> = new Map<number, ScalarType>([
  [0, { bytes: 1, read: (v, o) => v.getUint8(o), view: (b) => new Uint8Array(b) }],
  [1, { bytes: 1, read: (v, o) => v.getInt8(o), view: (b) => new Int8Array(b) }],
  [2, { bytes: 2, read: (v, o) => v.getUint16(o, true), view: (b) => new Uint16Array(b) }],
  [3, { bytes: 2, read: (v, o) => v.getInt16(o, true), view: (b) => new Int16Array(b) }],
  [4, { bytes: 4, read: (v, o) => v.getUint32(o, true), view: (b) => new Uint32Array(b) }],
  [5, { bytes: 4, read: (v, o) => v.getInt32(o, true), view: (b) => new Int32Array(b) }],
  [6, { bytes: 4, read: (v, o) => v.getFloat32(o, true), view: (b) => new Float32Array(b) }],
  [7, { bytes: 1, read: (v, o) => v.getUint8(o) !== 0, view: (b) => new Uint8Array(b) }],
  [10, { bytes: 8, read: (v, o) => narrow(v.getBigUint64(o, true)), view: (b) => new BigUint64Array(b) }],
  [11, { bytes: 8, read: (v, o) => narrow(v.getBigInt64(o, true)), view: (b) => new BigInt64Array(b) }],
  [12, { bytes: 8, read: (v, o) => v.getFloat64(o, true), view: (b) => new Float64Array(b) }],
]);

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

export class GgufCursor {
  readonly path: string;
  readonly #file: CheckpointFile;
  /** Bytes of the file at `#windowStart`. */
  #window: Buffer = Buffer.alloc(0);
  #windowStart = 0;
  #position = 0;
  #numStrings = 0;

  constructor(file: CheckpointFile) {
    this.path = file.path;
    this.#file = file;
  }

  /** Offset in the file of the next byte. */
  get position(): number {
    return this.#position;
  }

  uint32(): number {
    const at = this.#take(4);
    return this.#window.readUInt32LE(at);
  }

  /** `what` names the value for the message when it is too large to be one. */
  uint64(what: string): number {
    const at = this.#take(8);
    const value = Number(this.#window.readBigUInt64LE(at));
    if (!Number.isSafeInteger(value))
      throw checkpointInvalid(this.path, `${what} is ${value}, which no file can hold.`);
    return value;
  }

  /** A count of things that take at least `minBytes` each of what is left of the file. */
  count(what: string, minBytes: number): number {
    const count = this.uint64(`the number of ${what}`);
    const left = this.#file.size - this.#position;
    if (count * minBytes > left) {
      throw checkpointInvalid(
        this.path,
        `its header announces ${count} ${what}, more than the ${left} bytes that are left can hold; it is cut off or damaged.`,
      );
    }
    return count;
  }

  string(maxBytes: number): string {
    const length = this.uint64('the length of a string');
    if (length > maxBytes) {
      throw checkpointInvalid(this.path, `a name in its header has ${length} bytes; the limit is ${maxBytes}.`);
    }
    return this.#text(length);
  }

  /** A typed value; `key` names it in messages. */
  value(key: string): GgufValue {
    const type = this.uint32();
    if (type === TYPE_STRING) return this.#text(this.count(`bytes of "${key}"`, 1));
    if (type === TYPE_ARRAY) return this.#array(key);
    const scalar = this.#scalarType(key, type);
    const at = this.#take(scalar.bytes);
    return scalar.read(new DataView(this.#window.buffer, this.#window.byteOffset), at);
  }

  #array(key: string): GgufValue {
    const type = this.uint32();
    if (type === TYPE_STRING) return this.#strings(key);
    if (type === TYPE_ARRAY) throw checkpointInvalid(this.path, `metadata "${key}" is an array of arrays.`);
    const scalar = this.#scalarType(key, type);
    const numBytes = this.count(`elements of "${key}"`, scalar.bytes) * scalar.bytes;
    this.#checkHeaderLimit(numBytes);
    const bytes = this.#file.read(this.#position, numBytes, `metadata "${key}"`);
    this.#position += numBytes;
    return scalar.view(bytes.buffer);
  }

  #strings(key: string): readonly string[] {
    const count = this.count(`strings of "${key}"`, 8);
    this.#numStrings += count;
    if (this.#numStrings > MAX_STRINGS) {
      throw checkpointInvalid(
        this.path,
        `its header holds ${this.#numStrings} strings up to "${key}"; the limit is ${MAX_STRINGS}.`,
      );
    }
    const strings: string[] = [];
    // the count is only announced: what is reserved grows with what is read
    for (let i = 0; i < count; i++) strings.push(this.#text(this.count(`bytes of "${key}"`, 1)));
    return strings;
  }

  #scalarType(key: string, type: number): ScalarType {
    const scalar = SCALAR_TYPES.get(type);
    if (scalar === undefined) throw checkpointInvalid(this.path, `metadata "${key}" has the unknown type ${type}.`);
    return scalar;
  }

  #text(length: number): string {
    if (length <= WINDOW_BYTES) {
      const at = this.#take(length);
      return this.#window.toString('utf8', at, at + length);
    }
    this.#checkHeaderLimit(length);
    const bytes = this.#file.read(this.#position, length, 'a string of its header');
    this.#position += length;
    return Buffer.from(bytes.buffer).toString('utf8');
  }

  /** Moves past `length` bytes and returns where in the window they begin. */
  #take(length: number): number {
    const end = this.#position + length;
    if (end > this.#windowStart + this.#window.length || this.#position < this.#windowStart) {
      this.#checkHeaderLimit(length);
      const available = Math.max(length, Math.min(WINDOW_BYTES, this.#file.size - this.#position));
      const bytes = this.#file.read(this.#position, available, 'its header');
      this.#window = Buffer.from(bytes.buffer);
      this.#windowStart = this.#position;
    }
    const at = this.#position - this.#windowStart;
    this.#position = end;
    return at;
  }

  #checkHeaderLimit(length: number): void {
    if (this.#position + length <= MAX_HEADER_BYTES) return;
    throw checkpointInvalid(this.path, `its header is larger than the limit of ${MAX_HEADER_BYTES} bytes.`);
  }
}
