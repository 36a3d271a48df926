/**
 * One lane graph ready to run: its session, its binding, and which slot is bound to which of its lanes. A lane keeps its slot
 * from step to step, so in steady decoding a step changes nothing but numbers in arrays that are bound already.
 */
import type { Binding } from '../runtime/binding.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Session } from '../runtime/session.ts';
import type { Tensor } from '../runtime/tensor.ts';
import type { Lane } from './causal-lm.ts';
import type { SlotCache } from './device-cache.ts';
import type { SlotTensors } from './lane-cache.ts';
import { laneNames } from './lane-graph.ts';
import type { StepBuffers } from './lane-step.ts';

const SCRATCH = -1;
const NONE = -1;

export interface LaneVariantParts {
  readonly runtime: Runtime;
  readonly session: Session;
  readonly numLanes: number;
  readonly numLayers: number;
  readonly cache: SlotCache;
  readonly cos: Tensor<'float32'>;
  readonly sin: Tensor<'float32'>;
}

export class LaneVariant {
  readonly numLanes: number;
  readonly #session: Session;
  readonly #binding: Binding;
  readonly #cache: SlotCache;
  /** Inputs whose numbers change: on a device they are copied there when they are bound, so they are bound for every step. */
  readonly #stepInputs: (readonly [name: string, tensor: Tensor])[] = [];
  readonly #numLayers: number;
  /** Slot bound to each lane of the graph, or SCRATCH. */
  readonly #slotOfLane: Int32Array;
  /** Index of the step's lane that each lane of the graph works for, or NONE for a spare one. */
  readonly #workOfLane: Int32Array;
  // 64-bit inputs are written as pairs of 32-bit words: a BigInt would be an object per number
  readonly #laneLengths: Int32Array;
  readonly #packedLengths: Int32Array;
  readonly #seqlens: readonly Int32Array[];
  readonly #totalLengths: readonly Int32Array[];
  #boundTokens = NONE;
  #boundRows = NONE;
  #boundSpares = NONE;
  #boundLogits: Tensor<'float32'> | undefined;

  constructor({ runtime, session, numLanes, numLayers, cache, cos, sin }: LaneVariantParts) {
    this.numLanes = numLanes;
    this.#session = session;
    this.#cache = cache;
    this.#numLayers = numLayers;
    this.#binding = session.createBinding();
    this.#slotOfLane = new Int32Array(numLanes).fill(SCRATCH);
    this.#workOfLane = new Int32Array(numLanes).fill(NONE);
    const lengths = runtime.createTensor('int64', [numLanes]);
    const packed = runtime.createTensor('int64', [2]);
    this.#laneLengths = lowWords(lengths);
    this.#packedLengths = lowWords(packed);
    if (numLanes > 1) {
      this.#bindNumbers(laneNames.laneLengths, lengths);
      this.#bindNumbers(laneNames.packedLengths, packed);
    }
    this.#binding.bindInput(laneNames.cosCache, cos);
    this.#binding.bindInput(laneNames.sinCache, sin);
    const lanes = Array.from({ length: numLanes }, (_, lane) => lane);
    const bindScalar = (name: string): Int32Array => {
      const tensor = runtime.createTensor('int32', [1]);
      this.#bindNumbers(name, tensor);
      return tensor.data;
    };
    this.#seqlens = lanes.map((lane) => bindScalar(laneNames.seqlens(lane)));
    this.#totalLengths = lanes.map((lane) => bindScalar(laneNames.totalLength(lane)));
    for (const lane of lanes) this.#bindSlot(lane, SCRATCH);
  }

  /** Runs one step: the logits of all wanted rows are in `buffers` afterwards. */
  run(lanes: readonly Lane[], buffers: StepBuffers): void {
    this.#assign(lanes);
    this.#pack(lanes, buffers);
    this.#bindBuffers(lanes.length, buffers);
    this.#session.run(this.#binding);
  }

  dispose(): void {
    this.#binding.dispose();
    this.#session.dispose();
  }

  /**
   * Gives every lane of the step one of the graph's first lanes, the one that is bound to its slot if there is one. Spare lanes
   * are the last, because their rows lie behind all others; as they write too, they must not stay bound to a slot.
   */
  #assign(lanes: readonly Lane[]): void {
    const bound = this.#slotOfLane;
    const work = this.#workOfLane;
    work.fill(NONE);
    for (let index = 0; index < lanes.length; index++) {
      const lane = bound.indexOf((lanes[index] as Lane).slot);
      if (lane >= 0 && lane < lanes.length) work[lane] = index;
    }
    let free = 0;
    for (let index = 0; index < lanes.length; index++) {
      if (work.includes(index)) continue;
      while (work[free] !== NONE) free++;
      this.#bindSlot(free, (lanes[index] as Lane).slot);
      work[free] = index;
    }
    for (let lane = lanes.length; lane < this.numLanes; lane++) {
      if (bound[lane] !== SCRATCH) this.#bindSlot(lane, SCRATCH);
    }
  }

  /** Writes the step's numbers, lane of the graph after lane of the graph. */
  #pack(lanes: readonly Lane[], buffers: StepBuffers): void {
    const { tokens, rowWords } = buffers;
    let numTokens = 0;
    let numRows = 0;
    for (let lane = 0; lane < lanes.length; lane++) {
      const index = this.#workOfLane[lane] as number;
      const { past, tokens: added, logitRows } = lanes[index] as Lane;
      this.#setLengths(lane, added.length, past + added.length);
      let row = buffers.firstRowOf[index] as number;
      for (let i = 0; i < logitRows.length; i++) {
        rowWords[2 * numRows] = numTokens + (logitRows[i] as number);
        buffers.rowOrder[row++] = numRows++;
      }
      for (let i = 0; i < added.length; i++) tokens[numTokens++] = added[i] as number;
    }
    for (let lane = lanes.length; lane < this.numLanes; lane++) this.#setLengths(lane, 1, 1);
    this.#packedLengths[0] = numTokens;
    this.#packedLengths[2] = this.numLanes - lanes.length;
    buffers.numTokens = numTokens;
    buffers.numRows = numRows;
  }

  #setLengths(lane: number, length: number, total: number): void {
    this.#laneLengths[2 * lane] = length;
    (this.#seqlens[lane] as Int32Array)[0] = total - 1;
    (this.#totalLengths[lane] as Int32Array)[0] = total;
  }

  /** Binds what differs in shape from this variant's last step. */
  #bindBuffers(numLanes: number, buffers: StepBuffers): void {
    const { numTokens, numRows } = buffers;
    if (this.#session.location !== 'cpu') {
      for (const [name, tensor] of this.#stepInputs) this.#binding.bindInput(name, tensor);
      this.#boundTokens = NONE;
      this.#boundRows = NONE;
    }
    if (numTokens !== this.#boundTokens) {
      this.#binding.bindInput(laneNames.inputIds, buffers.inputIds.get(numTokens));
      this.#boundTokens = numTokens;
    }
    if (numRows !== this.#boundRows) {
      this.#binding.bindInput(laneNames.logitRows, buffers.logitRows.get(numRows));
      this.#boundRows = numRows;
    }
    const logits = buffers.logits(numRows);
    if (logits !== this.#boundLogits) {
      this.#binding.bindOutput(laneNames.logits, logits);
      this.#boundLogits = logits;
    }
    const spares = this.numLanes - numLanes;
    if (this.numLanes > 1 && spares !== this.#boundSpares) {
      this.#binding.bindInput(laneNames.spareRows, buffers.spareRows.get(spares));
      this.#boundSpares = spares;
    }
  }

  #bindNumbers(name: string, tensor: Tensor): void {
    this.#binding.bindInput(name, tensor);
    this.#stepInputs.push([name, tensor]);
  }

  #bindSlot(lane: number, slot: number): void {
    const tensors = slot === SCRATCH ? this.#cache.scratch : this.#cache.slot(slot);
    for (let layer = 0; layer < this.#numLayers; layer++) {
      // the same memory as past and as present: the cache is extended in place
      const key = tensors[2 * layer] as SlotTensors[number];
      const value = tensors[2 * layer + 1] as SlotTensors[number];
      this.#binding.bindInput(laneNames.past(lane, layer, 'key'), key);
      this.#binding.bindInput(laneNames.past(lane, layer, 'value'), value);
      this.#binding.bindOutput(laneNames.present(lane, layer, 'key'), key);
      this.#binding.bindOutput(laneNames.present(lane, layer, 'value'), value);
    }
    this.#slotOfLane[lane] = slot;
  }
}

/** The halves of non-negative 64-bit numbers that hold their value (little-endian); the other halves stay 0. */
function lowWords({ data }: Tensor<'int64'>): Int32Array {
  return new Int32Array(data.buffer, data.byteOffset, 2 * data.length);
}
