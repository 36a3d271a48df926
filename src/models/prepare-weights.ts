/**
 * Writes `weights.bin`: one weight of the graph after the other, in the graph's order. Holds one weight in memory at a time.
 * Knows how checkpoint tensors become the stored form of a weight; the file and its failures are the caller's.
 */
import type { BlockQuantized, Checkpoint } from './checkpoint.ts';
import type { WeightSource, WeightSpec } from './lane-graph.ts';
import { BLOCK_SIZE, SCALE_REPEATS, scalesOf } from './layers.ts';
import { type MatrixError, type QuantizationReport, type StoredTensor, TENSOR_ALIGNMENT } from './prepared-model.ts';
import { quantizeBlocks } from './quantize-blocks.ts';

/** Appends bytes to the file that is being written. */
export type Append = (bytes: Uint8Array) => void;

/** Sums over the elements of requantized matrices, for the mean over all of them. */
interface ErrorSums {
  squaredError: number;
  squaredWeight: number;
}

export class WeightWriter {
  readonly #checkpoint: Checkpoint;
  readonly #append: Append;
  readonly #tensors: StoredTensor[] = [];
  readonly #requantized: MatrixError[] = [];
  readonly #sums: ErrorSums = { squaredError: 0, squaredWeight: 0 };
  #numExact = 0;
  #offset = 0;

  constructor(checkpoint: Checkpoint, append: Append) {
    this.#checkpoint = checkpoint;
    this.#append = append;
  }

  get tensors(): readonly StoredTensor[] {
    return this.#tensors;
  }

  get byteLength(): number {
    return this.#offset;
  }

  get report(): QuantizationReport {
    const { squaredError, squaredWeight } = this.#sums;
    const relativeError = squaredWeight === 0 ? 0 : Math.sqrt(squaredError / squaredWeight);
    return { numExact: this.#numExact, requantized: this.#requantized, relativeError };
  }

  /** The checkpoint must have been validated. Throws StvError `checkpoint_invalid`; what `append` throws goes through. */
  write(spec: WeightSpec): void {
    if (spec.kind === 'vector') {
      const parts = spec.sources.map((source) => this.#checkpoint.readFloat32(source.name));
      this.#store(spec.name, 'float32', [sumOfRows(spec.sources)], parts);
      return;
    }
    const { name, sources, columns, format } = spec;
    const rows = sumOfRows(sources);
    if (format === 'fp32') {
      const parts = sources.map((source) => this.#checkpoint.readFloat32(source.name));
      this.#store(name, 'float32', [rows, columns], parts);
      this.#numExact += sources.length;
      return;
    }
    const bits = format === 'int4' ? 4 : 8;
    const parts = sources.map((source) => this.#readBlocks(source, columns, bits));
    const blocks = columns / BLOCK_SIZE;
    const quants = parts.map((part) => part.quants);
    const scales = parts.map((part) => repeatEach(part.scales, SCALE_REPEATS));
    this.#store(name, 'uint8', [rows, blocks, (BLOCK_SIZE * bits) / 8], quants);
    this.#store(scalesOf(name), 'float32', [rows, blocks], scales);
  }

  #readBlocks(source: WeightSource, columns: number, bits: 4 | 8): BlockQuantized {
    const stored = this.#checkpoint.readBlocks(source.name);
    if (stored !== undefined && stored.bits <= bits) {
      this.#numExact++;
      return stored.bits === bits ? stored : widen(stored);
    }
    const values = this.#checkpoint.readFloat32(source.name);
    const { blocks, error } = quantizeBlocks(values, { rows: source.rows, columns, bits, name: source.name });
    const { max, rms, relativeRms } = error;
    const squaredError = rms * rms * values.length;
    this.#sums.squaredError += squaredError;
    this.#sums.squaredWeight += relativeRms === 0 ? 0 : squaredError / (relativeRms * relativeRms);
    const from = this.#checkpoint.tensors.get(source.name)?.dtype ?? 'unknown';
    this.#requantized.push({ name: source.name, from, relativeError: relativeRms, maxError: max });
    return blocks;
  }

  #store(
    name: string,
    type: StoredTensor['type'],
    dims: readonly number[],
    parts: readonly (Uint8Array | Float32Array)[],
  ): void {
    const padding = (TENSOR_ALIGNMENT - (this.#offset % TENSOR_ALIGNMENT)) % TENSOR_ALIGNMENT;
    if (padding > 0) this.#write(new Uint8Array(padding));
    const offset = this.#offset;
    for (const part of parts) this.#write(new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
    this.#tensors.push({ name, type, dims, offset, byteLength: this.#offset - offset });
  }

  #write(bytes: Uint8Array): void {
    this.#append(bytes);
    this.#offset += bytes.length;
  }
}

function sumOfRows(sources: readonly WeightSource[]): number {
  return sources.reduce((sum, source) => sum + source.rows, 0);
}

function repeatEach(values: Float32Array, times: number): Float32Array {
  const repeated = new Float32Array(values.length * times);
  for (let i = 0; i < repeated.length; i++) repeated[i] = values[Math.floor(i / times)] as number; // below the length
  return repeated;
}

/** The same values with 8 bits: the middle of the range moves from 8 to 128, the scales stay. */
function widen({ quants, scales }: BlockQuantized): BlockQuantized {
  const wide = new Uint8Array(quants.length * 2);
  for (let i = 0; i < quants.length; i++) {
    const pair = quants[i] as number; // i is below the length
    wide[2 * i] = (pair & 15) + 120;
    wide[2 * i + 1] = (pair >> 4) + 120;
  }
  return { bits: 8, blockSize: 32, quants: wide, scales };
}

/** Bytes that the weights will take, for a look at the free space before anything is written. */
export function storedBytes(specs: readonly WeightSpec[]): number {
  let bytes = 0;
  for (const spec of specs) {
    const rows = sumOfRows(spec.sources);
    if (spec.kind === 'vector') bytes += rows * 4;
    else if (spec.format === 'fp32') bytes += rows * spec.columns * 4;
    else bytes += rows * (spec.columns * (spec.format === 'int4' ? 0.5 : 1) + (spec.columns / BLOCK_SIZE) * 4);
    bytes += 2 * TENSOR_ALIGNMENT;
  }
  return bytes;
}
