/**
 * The arrays of one step, shared by all variants of a model: packed token ids, wanted rows, logits. They are allocated once (the
 * logits grow when more rows are wanted than ever before), and so are the tensors that show their first `n` elements.
 */
import type { Runtime } from '../runtime/runtime.ts';
import type { Tensor } from '../runtime/tensor.ts';
import type { Logits } from './causal-lm.ts';

export interface StepShape {
  readonly vocabSize: number;
  readonly maxBatchedTokens: number;
  readonly maxLanes: number;
  /** Columns of packed q, k and v. */
  readonly qkvWidth: number;
}

/** Tensors over the first n elements of something, made when first asked for. */
class Prefixes<Type extends 'int32' | 'int64' | 'float32'> {
  readonly #make: (length: number) => Tensor<Type>;
  readonly #tensors: (Tensor<Type> | undefined)[] = [];

  constructor(make: (length: number) => Tensor<Type>) {
    this.#make = make;
  }

  get(length: number): Tensor<Type> {
    this.#tensors[length] ??= this.#make(length);
    return this.#tensors[length] as Tensor<Type>; // made the line before
  }

  dispose(): void {
    for (const tensor of this.#tensors) tensor?.dispose();
    this.#tensors.length = 0;
  }
}

export class StepBuffers implements Logits {
  /** `[maxBatchedTokens]`: ids of all lanes, lane of the graph after lane of the graph. */
  readonly tokens: Int32Array;
  /** Low words of int64 `[maxBatchedTokens]`: rows of `tokens` whose logits are wanted. */
  readonly rowWords: Int32Array;
  /** The caller's lane -> its first row among all wanted rows, in the caller's order. */
  readonly firstRowOf: Int32Array;
  /** The caller's row -> the graph's row. */
  readonly rowOrder: Int32Array;
  readonly inputIds: Prefixes<'int32'>;
  readonly logitRows: Prefixes<'int64'>;
  readonly spareRows: Prefixes<'float32'>;
  numTokens = 0;
  numRows = 0;
  readonly #runtime: Runtime;
  readonly #vocabSize: number;
  #capacity = 0;
  #rows: Float32Array[] = [];
  #logits: Prefixes<'float32'>;

  constructor(runtime: Runtime, { vocabSize, maxBatchedTokens, maxLanes, qkvWidth }: StepShape) {
    this.#runtime = runtime;
    this.#vocabSize = vocabSize;
    const ids = runtime.createTensor('int32', [maxBatchedTokens]).data;
    const rows = runtime.createTensor('int64', [maxBatchedTokens]).data;
    const zeros = runtime.createTensor('float32', [maxLanes * qkvWidth]).data;
    this.tokens = ids;
    this.rowWords = new Int32Array(rows.buffer, rows.byteOffset, 2 * maxBatchedTokens);
    this.firstRowOf = new Int32Array(maxLanes);
    this.rowOrder = new Int32Array(maxBatchedTokens);
    this.inputIds = new Prefixes((length) => runtime.createTensor('int32', [1, length], ids.subarray(0, length)));
    this.logitRows = new Prefixes((length) => runtime.createTensor('int64', [length], rows.subarray(0, length)));
    this.spareRows = new Prefixes((length) =>
      runtime.createTensor('float32', [1, length, qkvWidth], zeros.subarray(0, length * qkvWidth)),
    );
    this.#logits = this.#allocate(maxLanes);
  }

  /** `[1, numRows, vocabSize]`; a new object whenever the memory behind it is new. */
  logits(numRows: number): Tensor<'float32'> {
    if (numRows > this.#capacity) {
      this.#logits.dispose();
      this.#logits = this.#allocate(Math.min(Math.max(numRows, 2 * this.#capacity), this.rowOrder.length));
    }
    return this.#logits.get(numRows);
  }

  row(index: number): Float32Array {
    const row = index < this.numRows ? this.#rows[this.rowOrder[index] ?? -1] : undefined;
    if (row === undefined) throw new RangeError(`There is no row ${index} among ${this.numRows} rows of logits.`);
    return row;
  }

  dispose(): void {
    for (const prefixes of [this.inputIds, this.logitRows, this.spareRows, this.#logits]) prefixes.dispose();
  }

  #allocate(capacity: number): Prefixes<'float32'> {
    const runtime = this.#runtime;
    const width = this.#vocabSize;
    const all = runtime.createTensor('float32', [capacity * width]).data;
    this.#capacity = capacity;
    this.#rows = Array.from({ length: capacity }, (_, row) => all.subarray(row * width, (row + 1) * width));
    return new Prefixes((length) =>
      runtime.createTensor('float32', [1, length, width], all.subarray(0, length * width)),
    );
  }
}
