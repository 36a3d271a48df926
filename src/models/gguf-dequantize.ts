/**
 * GGUF's block formats as float32. Products and sums are rounded to float32 one by one, as ggml does, so results are equal to its
 * own to the bit. Hot loops: arrays are bound once, and every index stays inside because sizes are checked at the top.
 */
import { ggmlType } from './gguf-types.ts';
import { HALF_VALUES, widenBfloat16, widenHalf } from './half-float.ts';

const { fround } = Math;

type Dequantize = (bytes: Uint8Array, output: Float32Array) => void;

/** Little-endian half at `at`. */
function half(bytes: Uint8Array, at: number): number {
  return HALF_VALUES[(bytes[at] as number) | ((bytes[at + 1] as number) << 8)] as number;
}

const signed = (bytes: Uint8Array): Int8Array => new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);

// block of 32: half d, 32 x int8
function dequantizeQ8_0(bytes: Uint8Array, output: Float32Array): void {
  const quants = signed(bytes);
  for (let out = 0, at = 0; out < output.length; out += 32, at += 34) {
    const d = half(bytes, at);
    for (let i = 0; i < 32; i++) output[out + i] = d * (quants[at + 2 + i] as number);
  }
}

// block of 32: half d, 16 bytes; element i is the low nibble of byte i, element i + 16 the high one
function dequantizeQ4_0(bytes: Uint8Array, output: Float32Array): void {
  for (let out = 0, at = 0; out < output.length; out += 32, at += 18) {
    const d = half(bytes, at);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 2 + i] as number;
      output[out + i] = d * ((pair & 15) - 8);
      output[out + i + 16] = d * ((pair >> 4) - 8);
    }
  }
}

// block of 32: half d, half minimum, 16 bytes of nibbles as in Q4_0
function dequantizeQ4_1(bytes: Uint8Array, output: Float32Array): void {
  for (let out = 0, at = 0; out < output.length; out += 32, at += 20) {
    const d = half(bytes, at);
    const minimum = half(bytes, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 4 + i] as number;
      output[out + i] = fround(d * (pair & 15)) + minimum;
      output[out + i + 16] = fround(d * (pair >> 4)) + minimum;
    }
  }
}

/** The 32 fifth bits of a Q5_0 or Q5_1 block: bit i belongs to element i. */
function fifthBits(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] as number) |
    ((bytes[at + 1] as number) << 8) |
    ((bytes[at + 2] as number) << 16) |
    ((bytes[at + 3] as number) << 24)
  );
}

// block of 32: half d, 4 bytes of fifth bits, 16 bytes of nibbles as in Q4_0
function dequantizeQ5_0(bytes: Uint8Array, output: Float32Array): void {
  for (let out = 0, at = 0; out < output.length; out += 32, at += 22) {
    const d = half(bytes, at);
    const high = fifthBits(bytes, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 6 + i] as number;
      output[out + i] = d * (((pair & 15) | (((high >>> i) & 1) << 4)) - 16);
      output[out + i + 16] = d * (((pair >> 4) | (((high >>> (i + 16)) & 1) << 4)) - 16);
    }
  }
}

// block of 32: half d, half minimum, 4 bytes of fifth bits, 16 bytes of nibbles
function dequantizeQ5_1(bytes: Uint8Array, output: Float32Array): void {
  for (let out = 0, at = 0; out < output.length; out += 32, at += 24) {
    const d = half(bytes, at);
    const minimum = half(bytes, at + 2);
    const high = fifthBits(bytes, at + 4);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 8 + i] as number;
      output[out + i] = fround(d * ((pair & 15) | (((high >>> i) & 1) << 4))) + minimum;
      output[out + i + 16] = fround(d * ((pair >> 4) | (((high >>> (i + 16)) & 1) << 4))) + minimum;
    }
  }
}

/** Scale of sub-block `j` of 8; Q4_K and Q5_K pack 8 scales and 8 minimums of 6 bits into 12 bytes. */
function subScale(bytes: Uint8Array, at: number, j: number): number {
  if (j < 4) return (bytes[at + j] as number) & 63;
  return ((bytes[at + j + 4] as number) & 15) | (((bytes[at + j - 4] as number) >> 6) << 4);
}

function subMinimum(bytes: Uint8Array, at: number, j: number): number {
  if (j < 4) return (bytes[at + j + 4] as number) & 63;
  return ((bytes[at + j + 4] as number) >> 4) | (((bytes[at + j] as number) >> 6) << 4);
}

// block of 256: half d, half dmin, 12 bytes of sub-scales, 128 bytes; sub-blocks 2p and 2p + 1 (32 elements each) are the low
// and the high nibbles of bytes 32p .. 32p + 31
function dequantizeQ4_K(bytes: Uint8Array, output: Float32Array): void {
  for (let out = 0, at = 0; out < output.length; out += 256, at += 144) {
    const d = half(bytes, at);
    const dmin = half(bytes, at + 2);
    for (let j = 0; j < 8; j++) {
      const scale = fround(d * subScale(bytes, at + 4, j));
      const minimum = fround(dmin * subMinimum(bytes, at + 4, j));
      const from = at + 16 + (j >> 1) * 32;
      const to = out + j * 32;
      const shift = (j & 1) * 4;
      for (let i = 0; i < 32; i++) {
        output[to + i] = fround(scale * (((bytes[from + i] as number) >> shift) & 15)) - minimum;
      }
    }
  }
}

// as Q4_K with 32 bytes of fifth bits before the nibbles: bit j of byte i belongs to element i of sub-block j
function dequantizeQ5_K(bytes: Uint8Array, output: Float32Array): void {
  for (let out = 0, at = 0; out < output.length; out += 256, at += 176) {
    const d = half(bytes, at);
    const dmin = half(bytes, at + 2);
    for (let j = 0; j < 8; j++) {
      const scale = fround(d * subScale(bytes, at + 4, j));
      const minimum = fround(dmin * subMinimum(bytes, at + 4, j));
      const from = at + 48 + (j >> 1) * 32;
      const to = out + j * 32;
      const shift = (j & 1) * 4;
      for (let i = 0; i < 32; i++) {
        const low = ((bytes[from + i] as number) >> shift) & 15;
        const high = ((bytes[at + 16 + i] as number) >> j) & 1;
        output[to + i] = fround(scale * (low | (high << 4))) - minimum;
      }
    }
  }
}

// block of 256: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 x int8 sub-scales, half d. Two halves of 128 elements;
// in each, group g of 32 takes nibble g >> 1 of bytes (g & 1) * 32 .. + 31 and bit pair g of the 32 upper bytes
function dequantizeQ6_K(bytes: Uint8Array, output: Float32Array): void {
  const scales = signed(bytes);
  for (let out = 0, at = 0; out < output.length; out += 256, at += 210) {
    const d = half(bytes, at + 208);
    for (let group = 0; group < 8; group++) {
      const inHalf = group & 3;
      const lowFrom = at + (group >> 2) * 64 + (inHalf & 1) * 32;
      const highFrom = at + 128 + (group >> 2) * 32;
      const lowShift = (inHalf >> 1) * 4;
      const highShift = inHalf * 2;
      const to = out + group * 32;
      for (let i = 0; i < 32; i++) {
        const low = ((bytes[lowFrom + i] as number) >> lowShift) & 15;
        const high = ((bytes[highFrom + i] as number) >> highShift) & 3;
        const scale = fround(d * (scales[at + 192 + group * 2 + (i >> 4)] as number));
        output[to + i] = scale * ((low | (high << 4)) - 32);
      }
    }
  }
}

/** A view of little-endian words; copies when the bytes do not begin at a multiple of the word. */
function aligned(bytes: Uint8Array, wordBytes: number): { buffer: ArrayBufferLike; byteOffset: number } {
  return bytes.byteOffset % wordBytes === 0 ? bytes : new Uint8Array(bytes);
}

function dequantizeF32(bytes: Uint8Array, output: Float32Array): void {
  const { buffer, byteOffset } = aligned(bytes, 4);
  output.set(new Float32Array(buffer, byteOffset, output.length));
}

function halves(bytes: Uint8Array, count: number): Uint16Array {
  const { buffer, byteOffset } = aligned(bytes, 2);
  return new Uint16Array(buffer, byteOffset, count);
}

const FORMATS: ReadonlyMap<string, Dequantize> = new Map<string, Dequantize>([
  ['F32', dequantizeF32],
  ['F16', (bytes, output) => widenHalf(halves(bytes, output.length), output)],
  ['BF16', (bytes, output) => widenBfloat16(halves(bytes, output.length), output)],
  ['Q8_0', dequantizeQ8_0],
  ['Q4_0', dequantizeQ4_0],
  ['Q4_1', dequantizeQ4_1],
  ['Q5_0', dequantizeQ5_0],
  ['Q5_1', dequantizeQ5_1],
  ['Q4_K', dequantizeQ4_K],
  ['Q5_K', dequantizeQ5_K],
  ['Q6_K', dequantizeQ6_K],
]);

/** Names of the types that `dequantize` knows. */
export const DEQUANTIZABLE_TYPES: readonly string[] = [...FORMATS.keys()];

/**
 * Writes the float32 values of `bytes`, a whole number of blocks of `type`, to `output`. Throws RangeError when the sizes do not
 * agree or the type is not one of `DEQUANTIZABLE_TYPES`: callers check both with the tensor's name at hand.
 */
export function dequantize(type: string, bytes: Uint8Array, output: Float32Array): void {
  const run = FORMATS.get(type);
  const size = ggmlType(type);
  if (run === undefined || size === undefined) throw new RangeError(`Type ${type} cannot be dequantized.`);
  const { blockElements, blockBytes } = size;
  if (output.length % blockElements !== 0 || bytes.length * blockElements !== output.length * blockBytes) {
    throw new RangeError(`${bytes.length} bytes of ${type} do not hold ${output.length} elements.`);
  }
  run(bytes, output);
}
