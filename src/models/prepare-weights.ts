/**
 * Writes `weights.bin`: one weight of the graph after the other, in the graph's order. Holds one weight in memory at a time.
 * Knows how checkpoint tensors become the stored form of a weight; the file and its failures are the caller's.
 */
import type { BlockQuantized, Checkpoint } from './checkpoint.ts';
import type { WeightSource, WeightSpec } from './lane-graph.ts';
import { BLOCK_SIZE, scalesOf } from './layers.ts';
import { type MatrixError, type QuantizationReport, type StoredTensor, TENSOR_ALIGNMENT } from './prepared-model.ts';
import { quantizeBlocks } from './quantize-blocks.ts';

/** Appends bytes to the file that is being written. */
export type Append = (bytes: Uint8Array) => void;

/** Sums over the elements of requantized matrices, for the mean over all of them. */
interface ErrorSums {
  squaredError: number;
  squaredWeight: number;
}

/** What calibration found, by name: scales of sites' columns and rows, and whole weights of kind `scales`. */
export interface CalibratedScales {
  /** Site -> factor of each column of the layers that read it. */
  readonly times: ReadonlyMap<string, Float32Array>;
  /** Site -> divisor of each row that makes a channel of it. */
  readonly over: ReadonlyMap<string, Float32Array>;
  readonly weights: ReadonlyMap<string, Float32Array>;
}

const UNSCALED: CalibratedScales = { times: new Map(), over: new Map(), weights: new Map() };

export class WeightWriter {
  readonly #checkpoint: Checkpoint;
  readonly #append: Append;
  readonly #scales: CalibratedScales;
  readonly #tensors: StoredTensor[] = [];
  readonly #requantized: MatrixError[] = [];
  readonly #sums: ErrorSums = { squaredError: 0, squaredWeight: 0 };
  #numExact = 0;
  #offset = 0;

  /** Without `scales` the weights are those of the checkpoint. */
  constructor(checkpoint: Checkpoint, append: Append, scales: CalibratedScales = UNSCALED) {
    this.#scales = scales;
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
    if (spec.kind === 'scales') {
      const scales = this.#scales.weights.get(spec.name) ?? new Float32Array(spec.length).fill(1);
      this.#store(spec.name, 'float32', [spec.length], [scales]);
      return;
    }
    if (spec.kind === 'vector') {
      const parts = spec.sources.map((source) => this.#readFloat32(source, 1, undefined));
      this.#store(spec.name, 'float32', [sumOfRows(spec.sources)], parts);
      return;
    }
    const { name, sources, columns, format, times } = spec;
    const rows = sumOfRows(sources);
    if (format === 'fp32') {
      const parts = sources.map((source) => this.#readFloat32(source, columns, times));
      this.#store(name, 'float32', [rows, columns], parts);
      this.#numExact += sources.length;
      return;
    }
    const bits = format === 'int4' ? 4 : 8;
    const parts = sources.map((source) => this.#readBlocks(source, { columns, bits, times }));
    const blocks = columns / BLOCK_SIZE;
    const quants = parts.map((part) => part.quants);
    const scales = parts.map((part) => part.scales);
    this.#store(name, 'uint8', [rows, blocks, (BLOCK_SIZE * bits) / 8], quants);
    this.#store(scalesOf(name), 'float32', [rows, blocks], scales);
  }

  /** Rows of a checkpoint's tensor, scaled; a vector has one column. */
  #readFloat32(source: WeightSource, columns: number, times: string | undefined): Float32Array {
    const values = this.#checkpoint.readFloat32(source.name);
    const factors = times === undefined ? undefined : this.#scales.times.get(times);
    const divisors = source.over === undefined ? undefined : this.#scales.over.get(source.over);
    if (factors === undefined && divisors === undefined) return values;
    const scaled = new Float32Array(values.length);
    for (let row = 0; row < source.rows; row++) {
      const inverse = divisors === undefined ? 1 : 1 / (divisors[row] as number); // one per row
      for (let i = row * columns, column = 0; column < columns; i++, column++) {
        scaled[i] = (values[i] as number) * inverse * (factors === undefined ? 1 : (factors[column] as number));
      }
    }
    return scaled;
  }

  #readBlocks(
    source: WeightSource,
    { columns, bits, times }: { columns: number; bits: 4 | 8; times: string | undefined },
  ): BlockQuantized {
    const isScaled = times !== undefined && this.#scales.times.has(times);
    const stored = isScaled ? undefined : this.#checkpoint.readBlocks(source.name);
    if (stored !== undefined && stored.bits <= bits && !this.#scales.over.has(source.over ?? '')) {
      this.#numExact++;
      return stored.bits === bits ? stored : widen(stored);
    }
    const values = this.#readFloat32(source, columns, times);
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
    const rows = spec.kind === 'scales' ? spec.length : sumOfRows(spec.sources);
    if (spec.kind !== 'matrix') bytes += rows * 4;
    else if (spec.format === 'fp32') bytes += rows * spec.columns * 4;
    else bytes += rows * (spec.columns * (spec.format === 'int4' ? 0.5 : 1) + (spec.columns / BLOCK_SIZE) * 4);
    bytes += 2 * TENSOR_ALIGNMENT;
  }
  return bytes;
}
