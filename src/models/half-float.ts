/** Widening of the two 16-bit float formats; both directions of thought stay in little-endian machine words. */

/** Value of an IEEE 754 half with these 16 bits. */
function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Bits of a half -> its value. 256 KiB; a lookup is several times faster than taking the bits apart in a hot loop. */
export const HALF_VALUES: Float32Array = Float32Array.from({ length: 65536 }, (_, bits) => halfToNumber(bits));

export function widenHalf(halves: Uint16Array, output: Float32Array): void {
  // every index is below the length and every half has its entry
  for (let i = 0; i < halves.length; i++) output[i] = HALF_VALUES[halves[i] as number] as number;
}

/** A bfloat16 is the upper half of the float32 with the same value. */
export function widenBfloat16(halves: Uint16Array, output: Float32Array): void {
  const bits = new Uint32Array(output.buffer, output.byteOffset, output.length);
  for (let i = 0; i < halves.length; i++) bits[i] = (halves[i] as number) << 16;
}
