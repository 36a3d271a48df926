/**
 * Quantizes float matrices to the blocks of MatMulNBits: 32 elements along a row share one float32 scale, values are
 * `scale * (quant - zeroPoint)` with zero point 128 (8 bits) or 8 (4 bits).
 */
import { StvError } from '../errors.ts';
import type { BlockQuantized } from './checkpoint.ts';

const BLOCK = 32;
/** A block of 8 bits whose weights are all smaller than this becomes zeros. */
const MIN_MAGNITUDE = 127 * 2 ** -126;

const { abs, fround, max, min, sqrt } = Math;

export interface QuantizeOptions {
  readonly rows: number;
  /** Where it is no multiple of 32, the last block of a row is padded with zeros. */
  readonly columns: number;
  readonly bits: 4 | 8;
  /** Of the tensor, for messages. */
  readonly name?: string;
}

export interface QuantizationError {
  /** Largest absolute difference between a weight and its quantized value. */
  readonly max: number;
  /** Root mean square difference. */
  readonly rms: number;
  /** `rms` over the root mean square of the weights; 0 for a matrix of zeros. */
  readonly relativeRms: number;
}

export interface QuantizedMatrix {
  readonly blocks: BlockQuantized;
  readonly error: QuantizationError;
}

/**
 * `matrix` is `[rows, columns]`, row-major. Throws StvError `checkpoint_invalid` for a weight that is not finite and RangeError
 * when the sizes do not agree.
 */
export function quantizeBlocks(matrix: Float32Array, options: QuantizeOptions): QuantizedMatrix {
  const { rows, columns, bits, name = 'a matrix' } = options;
  if (matrix.length !== rows * columns) {
    throw new RangeError(`A matrix of ${matrix.length} elements is not [${rows}, ${columns}].`);
  }
  const padded = columns % BLOCK === 0 ? matrix : padRows(matrix, rows, columns);
  const scales = new Float32Array(padded.length / BLOCK);
  const quants = new Uint8Array((padded.length * bits) / 8);
  const sums = quantizeAll(padded, { quants, scales }, bits === 8 ? quantizeInt8Block : quantizeInt4Block);
  if (!Number.isFinite(sums.weightSquares)) {
    throw new StvError('checkpoint_invalid', `Tensor "${name}" holds values that are not finite numbers.`);
  }
  const count = max(matrix.length, 1);
  return {
    blocks: { bits, blockSize: BLOCK, quants, scales },
    error: {
      max: sums.max,
      rms: sqrt(sums.squares / count),
      relativeRms: sums.weightSquares === 0 ? 0 : sqrt(sums.squares / sums.weightSquares),
    },
  };
}

/** The float values of blocks, `[rows, ceil(columns / 32) * 32]`: what MatMulNBits multiplies by. */
export function dequantizeBlocks(blocks: BlockQuantized): Float32Array {
  const { bits, quants, scales } = blocks;
  const output = new Float32Array(scales.length * BLOCK);
  for (let i = 0; i < output.length; i++) {
    // every index follows from the length of `scales`
    const scale = scales[i >> 5] as number;
    const quant = quants[bits === 8 ? i : i >> 1] as number;
    output[i] = bits === 8 ? scale * (quant - 128) : scale * (((quant >> ((i & 1) * 4)) & 15) - 8);
  }
  return output;
}

function padRows(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const width = Math.ceil(columns / BLOCK) * BLOCK;
  const padded = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    padded.set(matrix.subarray(row * columns, (row + 1) * columns), row * width);
  }
  return padded;
}

interface ErrorSums {
  readonly max: number;
  readonly squares: number;
  /** Not finite when a weight is not. */
  readonly weightSquares: number;
}

// Every weight of a model passes through the functions of one block below. They are small, so that they are compiled early and
// inlined; arrays are a whole number of blocks long, so every index is inside; nothing is allocated.

/** Running totals of one matrix: worst difference, squared differences, squared weights. */
const [WORST, SQUARES, WEIGHT_SQUARES] = [0, 1, 2];

function quantizeAll(
  matrix: Float32Array,
  blocks: Pick<BlockQuantized, 'quants' | 'scales'>,
  quantizeBlock: typeof quantizeInt8Block,
): ErrorSums {
  const { quants, scales } = blocks;
  const totals = new Float64Array(3);
  for (let block = 0; block < scales.length; block++) {
    scales[block] = quantizeBlock(matrix, block * BLOCK, quants, totals);
  }
  const [worst = 0, squares = 0, weightSquares = 0] = totals;
  return { max: worst, squares, weightSquares };
}

/** Symmetric: the largest magnitude of a block becomes 127. Returns the scale. */
function quantizeInt8Block(matrix: Float32Array, start: number, quants: Uint8Array, totals: Float64Array): number {
  let largest = 0;
  for (let i = start; i < start + BLOCK; i++) largest = max(largest, abs(matrix[i] as number));
  // below, the scale would be subnormal and too coarse to keep the quants in their range; 1e-36 is zero to any model
  const scale = largest < MIN_MAGNITUDE ? 0 : fround(largest / 127);
  const inverse = scale === 0 ? 0 : 1 / scale;
  let worst = totals[WORST] as number;
  let squares = 0;
  let weightSquares = 0;
  for (let i = start; i < start + BLOCK; i++) {
    const weight = matrix[i] as number;
    // positive after the offset, so that cutting off the fraction rounds to nearest
    const quant = (weight * inverse + 128.5) | 0;
    quants[i] = quant;
    const difference = weight - scale * (quant - 128);
    worst = max(worst, abs(difference));
    squares += difference * difference;
    weightSquares += weight * weight;
  }
  totals[WORST] = worst;
  (totals[SQUARES] as number) += squares;
  (totals[WEIGHT_SQUARES] as number) += weightSquares;
  return scale;
}

/** Where the weight of largest magnitude is tried; what passes -8 is cut off. More places gain less than 1 % of error. */
const INT4_REACHES = [-9, -8.5, -8, -7.5, -7] as const;

function quantizeInt4Block(matrix: Float32Array, start: number, quants: Uint8Array, totals: Float64Array): number {
  const scale = int4Scale(matrix, start);
  const inverse = scale === 0 ? 0 : 1 / scale;
  let worst = totals[WORST] as number;
  let squares = 0;
  let weightSquares = 0;
  for (let i = start; i < start + BLOCK; i += 2) {
    const first = matrix[i] as number;
    const second = matrix[i + 1] as number;
    const low = nibble(first * inverse);
    const high = nibble(second * inverse);
    quants[i >> 1] = low | (high << 4);
    const firstDifference = first - scale * (low - 8);
    const secondDifference = second - scale * (high - 8);
    worst = max(worst, abs(firstDifference), abs(secondDifference));
    squares += firstDifference * firstDifference + secondDifference * secondDifference;
    weightSquares += first * first + second * second;
  }
  totals[WORST] = worst;
  (totals[SQUARES] as number) += squares;
  (totals[WEIGHT_SQUARES] as number) += weightSquares;
  return scale;
}

/**
 * Tries several places for the weight of largest magnitude, refits the scale of each choice by least squares and keeps the
 * one with the smallest squared error.
 */
function int4Scale(matrix: Float32Array, start: number): number {
  let extreme = 0;
  for (let i = start; i < start + BLOCK; i++) {
    const weight = matrix[i] as number;
    if (abs(weight) > abs(extreme)) extreme = weight;
  }
  if (extreme === 0) return 0;
  let best = 0;
  let bestGain = -1;
  for (let k = 0; k < INT4_REACHES.length; k++) {
    const inverse = (INT4_REACHES[k] as number) / extreme;
    let products = 0;
    let quantSquares = 0;
    for (let i = start; i < start + BLOCK; i++) {
      const weight = matrix[i] as number;
      const quant = nibble(weight * inverse) - 8;
      products += weight * quant;
      quantSquares += quant * quant;
    }
    // with the best scale for these quants, products / quantSquares, the squared error falls by products^2 / quantSquares
    const gain = (products * products) / quantSquares;
    if (gain > bestGain) {
      bestGain = gain;
      best = products / quantSquares;
    }
  }
  return fround(best);
}

/** `value` in scales, rounded to -8 .. 7 and moved by the zero point. */
function nibble(value: number): number {
  return max(0, min(15, (value + 8.5) | 0));
}
