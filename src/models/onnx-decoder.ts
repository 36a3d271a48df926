/**
 * A ready-made ONNX decoder as `CausalLM`: one sequence per run, its cache handed in and taken out as tensors of exactly its
 * length, as such graphs want it. Right for any architecture, and slower than a lane graph: weights are read once per sequence and
 * step, and every step copies the cache.
 */
import { StvError } from '../errors.ts';
import { loadRuntime, type Runtime } from '../runtime/runtime.ts';
import type { Session } from '../runtime/session.ts';
import type { Tensor } from '../runtime/tensor.ts';
import type { CausalLM, CausalLMLimits, Lane, Logits } from './causal-lm.ts';
import { widenHalf } from './half-float.ts';
import { assertLanes } from './lane-check.ts';
import type { LoadCausalLMOptions } from './load-causal-lm.ts';
import { type OnnxCache, readOnnxInterface } from './onnx-interface.ts';
import type { OnnxManifest } from './prepared-model.ts';

/** Tokens of one run: the graph gives logits for all of them. */
const MAX_RUN_TOKENS = 64;

type CacheArray = Float32Array | Uint16Array;

/** One slot's cache: per tensor of the graph `[kvHeads, length, headDim]` at the start of an array for `maxLength`. */
interface Slot {
  arrays: CacheArray[];
  length: number;
}

export function loadOnnxDecoder(options: LoadCausalLMOptions, manifest: OnnxManifest): CausalLM {
  return new OnnxDecoder(options, manifest);
}

class OnnxDecoder implements CausalLM, Logits {
  readonly limits: CausalLMLimits;
  numRows = 0;
  readonly #ownRuntime: Runtime | undefined;
  readonly #runtime: Runtime;
  readonly #session: Session;
  readonly #caches: readonly OnnxCache[];
  readonly #hasPositions: boolean;
  readonly #logitsType: 'float32' | 'float16';
  readonly #slots: (Slot | undefined)[];
  /** Takes what a run writes, then changes places with the arrays of its slot. */
  #spare: CacheArray[];
  readonly #rows: Float32Array[] = [];
  /** Logits of one run. */
  #logits: CacheArray = new Float32Array(0);

  constructor(options: LoadCausalLMOptions, { onnx }: OnnxManifest) {
    const { numSlots, maxLanes, maxBatchedTokens, threads = 0 } = options;
    const maxLength = Math.min(options.maxLength, onnx.maxPositionEmbeddings);
    if (options.kv === 'int8') {
      throw new StvError('config_invalid', 'A ready-made ONNX decoder caches as its graph says: kv must be auto.');
    }
    this.limits = { vocabSize: onnx.vocabSize, numSlots, maxLength, maxLanes, maxBatchedTokens };
    this.#ownRuntime = options.runtime === undefined ? loadRuntime({ libraryPath: options.libraryPath }) : undefined;
    this.#runtime = options.runtime ?? (this.#ownRuntime as Runtime); // one of the two is there
    this.#session = this.#runtime.createSession({ model: onnx.path, intraOpThreads: threads, memoryPattern: false });
    const found = readOnnxInterface(this.#session, onnx.path);
    this.#caches = found.caches;
    this.#hasPositions = found.hasPositions;
    this.#logitsType = found.logitsType;
    this.#slots = new Array<Slot | undefined>(numSlots).fill(undefined);
    this.#spare = this.#makeArrays();
  }

  forward(lanes: readonly Lane[]): Logits {
    assertLanes(lanes, this.limits);
    this.numRows = 0;
    for (const lane of lanes) this.#runLane(lane);
    return this;
  }

  row(index: number): Float32Array {
    const row = index < this.numRows ? this.#rows[index] : undefined;
    if (row === undefined) throw new RangeError(`There is no row ${index} among ${this.numRows} rows of logits.`);
    return row;
  }

  copyPrefix(from: number, to: number, length: number): void {
    if (from === to) return;
    const source = this.#slotAt(from);
    const target = this.#slotAt(to);
    if (length > source.length) {
      throw new StvError('internal', `Slot ${from} holds ${source.length} tokens, fewer than the ${length} to copy.`);
    }
    for (const [index, { numHeads, headDim }] of this.#caches.entries()) {
      const read = source.arrays[index] as CacheArray; // one for each cache
      const written = target.arrays[index] as CacheArray;
      for (let head = 0; head < numHeads; head++) {
        const start = head * source.length * headDim;
        written.set(read.subarray(start, start + length * headDim), head * length * headDim);
      }
    }
    target.length = length;
  }

  dispose(): void {
    this.#session.dispose();
    this.#ownRuntime?.dispose();
  }

  #slotAt(index: number): Slot {
    if (!(Number.isInteger(index) && index >= 0 && index < this.#slots.length)) {
      throw new StvError('internal', `Slot ${index} is not among the ${this.#slots.length} slots.`);
    }
    const slot = this.#slots[index] ?? { arrays: this.#makeArrays(), length: 0 };
    this.#slots[index] = slot;
    return slot;
  }

  #makeArrays(): CacheArray[] {
    return this.#caches.map(({ type, numHeads, headDim }) =>
      this.#makeArray(type, numHeads * this.limits.maxLength * headDim),
    );
  }

  #makeArray(type: 'float32' | 'float16', size: number): CacheArray {
    return this.#runtime.createTensor(type, [size]).data;
  }

  #runLane({ slot: index, past, tokens, logitRows }: Lane): void {
    const slot = this.#slotAt(index);
    if (past > slot.length) {
      throw new StvError(
        'internal',
        `Slot ${index} holds ${slot.length} tokens, fewer than the ${past} to go on from.`,
      );
    }
    this.#cut(slot, past);
    let nextRow = 0;
    for (let start = 0; start < tokens.length; start += MAX_RUN_TOKENS) {
      const end = Math.min(start + MAX_RUN_TOKENS, tokens.length);
      this.#run(slot, tokens, { start, end });
      for (; nextRow < logitRows.length && (logitRows[nextRow] as number) < end; nextRow++) {
        this.#keepRow((logitRows[nextRow] as number) - start); // ascending, so in this piece
      }
    }
  }

  /** Keeps the first `length` tokens: the heads move together. */
  #cut(slot: Slot, length: number): void {
    if (length === slot.length) return;
    for (const [index, { numHeads, headDim }] of this.#caches.entries()) {
      const array = slot.arrays[index] as CacheArray; // one for each cache
      for (let head = 1; head < numHeads; head++) {
        const from = head * slot.length * headDim;
        array.copyWithin(head * length * headDim, from, from + length * headDim);
      }
    }
    slot.length = length;
  }

  /** Runs `tokens[start, end)` behind what the slot holds: their logits, `[end - start, vocabSize]`, begin `#logits`. */
  #run(slot: Slot, tokens: ArrayLike<number>, piece: { start: number; end: number }): void {
    const runtime = this.#runtime;
    const { vocabSize } = this.limits;
    const count = piece.end - piece.start;
    const total = slot.length + count;
    const binding = this.#session.createBinding();
    const made: Tensor[] = [];
    const keep = <Made extends Tensor>(tensor: Made): Made => {
      made.push(tensor);
      return tensor;
    };
    const int64 = (length: number, at: (position: number) => number): Tensor<'int64'> => {
      const values = BigInt64Array.from({ length }, (_, position) => BigInt(at(position)));
      return keep(runtime.createTensor('int64', [1, length], values));
    };
    try {
      binding.bindInput(
        'input_ids',
        int64(count, (position) => tokens[piece.start + position] as number),
      );
      binding.bindInput(
        'attention_mask',
        int64(total, () => 1),
      );
      if (this.#hasPositions) {
        binding.bindInput(
          'position_ids',
          int64(count, (position) => slot.length + position),
        );
      }
      for (const [index, { past, present, type, numHeads, headDim }] of this.#caches.entries()) {
        const view = (array: CacheArray, length: number): Tensor =>
          keep(
            runtime.createTensor(type, [1, numHeads, length, headDim], array.subarray(0, numHeads * length * headDim)),
          );
        binding.bindInput(past, view(slot.arrays[index] as CacheArray, slot.length)); // one for each cache
        binding.bindOutput(present, view(this.#spare[index] as CacheArray, total));
      }
      const size = count * vocabSize;
      if (this.#logits.length < size) this.#logits = this.#makeArray(this.#logitsType, size);
      const logits = this.#logits.subarray(0, size);
      binding.bindOutput('logits', keep(runtime.createTensor(this.#logitsType, [1, count, vocabSize], logits)));
      this.#session.run(binding);
      [slot.arrays, this.#spare] = [this.#spare, slot.arrays];
      slot.length = total;
    } finally {
      binding.dispose();
      for (const tensor of made) tensor.dispose();
    }
  }

  #keepRow(row: number): void {
    const { vocabSize } = this.limits;
    this.#rows[this.numRows] ??= new Float32Array(vocabSize);
    const kept = this.#rows[this.numRows++] as Float32Array; // made the line before
    const values = this.#logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    if (values instanceof Uint16Array) widenHalf(values, kept);
    else kept.set(values);
  }
}
