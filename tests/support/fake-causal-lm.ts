/**
 * A language model without a model: the logits after a token are a fixed function of what the slot's cache really holds. Every cell
 * of the cache keeps the state that its own prefix gave it, as a real cache does, so a wrong `past`, a wrong slot, a missing copy
 * or a copy that came too early changes the tokens. Breaks of the contract throw.
 */
import type { CausalLM, CausalLMLimits, Lane, Logits } from '../../src/models/causal-lm.ts';

export interface FakeCall {
  readonly lanes: readonly {
    readonly slot: number;
    readonly past: number;
    readonly tokens: readonly number[];
    readonly rows: readonly number[];
  }[];
}

export interface FakeCausalLMOptions extends Partial<CausalLMLimits> {
  /** Changes a row before it is handed out; `tokens` is everything the slot holds up to that row. */
  readonly shape?: (row: Float32Array, tokens: readonly number[]) => void;
  /** Called before each forward; may throw. */
  readonly onForward?: (lanes: readonly Lane[]) => void;
  /** Keep the calls. Default true. */
  readonly recording?: boolean;
}

const EMPTY_STATE = 0x1234567;

export class FakeCausalLM implements CausalLM {
  readonly limits: CausalLMLimits;
  readonly calls: FakeCall[] = [];
  readonly copies: { readonly from: number; readonly to: number; readonly length: number }[] = [];
  isDisposed = false;
  readonly #tokens: Int32Array[];
  readonly #states: Int32Array[];
  /** Cells of each slot that were ever written without a gap. */
  readonly #lengths: number[];
  readonly #options: FakeCausalLMOptions;

  constructor(options: FakeCausalLMOptions = {}) {
    this.#options = options;
    this.limits = {
      vocabSize: options.vocabSize ?? 260,
      numSlots: options.numSlots ?? 4,
      maxLength: options.maxLength ?? 128,
      maxLanes: options.maxLanes ?? 4,
      maxBatchedTokens: options.maxBatchedTokens ?? 32,
    };
    const { numSlots, maxLength } = this.limits;
    this.#tokens = Array.from({ length: numSlots }, () => new Int32Array(maxLength).fill(-1));
    this.#states = Array.from({ length: numSlots }, () => new Int32Array(maxLength));
    this.#lengths = Array.from({ length: numSlots }, () => 0);
  }

  forward(lanes: readonly Lane[]): Logits {
    const { numSlots, maxLength, maxLanes, maxBatchedTokens, vocabSize } = this.limits;
    this.#options.onForward?.(lanes);
    const total = lanes.reduce((sum, lane) => sum + lane.tokens.length, 0);
    if (lanes.length === 0 || lanes.length > maxLanes)
      throw new Error(`forward got ${lanes.length} lanes of ${maxLanes}`);
    if (total > maxBatchedTokens) throw new Error(`forward got ${total} tokens of ${maxBatchedTokens}`);
    if (new Set(lanes.map((lane) => lane.slot)).size !== lanes.length) throw new Error('a slot appears in two lanes');
    const rows: Float32Array[] = [];
    for (const lane of lanes) {
      const tokens = this.#tokens[lane.slot];
      const states = this.#states[lane.slot];
      if (tokens === undefined || states === undefined) throw new Error(`slot ${lane.slot} of ${numSlots}`);
      if (lane.tokens.length === 0) throw new Error('a lane without tokens');
      if (lane.past > (this.#lengths[lane.slot] ?? 0))
        throw new Error(`slot ${lane.slot} does not hold ${lane.past} tokens`);
      if (lane.past + lane.tokens.length > maxLength) throw new Error('a lane beyond the slot');
      for (let i = 0; i < lane.tokens.length; i++) {
        const place = lane.past + i;
        const token = lane.tokens[i] as number;
        if (!Number.isInteger(token) || token < 0 || token >= vocabSize) throw new Error(`token ${token}`);
        tokens[place] = token;
        states[place] = mix(place === 0 ? EMPTY_STATE : (states[place - 1] as number), token);
      }
      this.#lengths[lane.slot] = lane.past + lane.tokens.length;
      let previous = -1;
      for (let i = 0; i < lane.logitRows.length; i++) {
        const row = lane.logitRows[i] as number;
        if (row <= previous || row >= lane.tokens.length) throw new Error(`row ${row} of ${lane.tokens.length}`);
        previous = row;
        const place = lane.past + row;
        const logits = logitsOf(states[place] as number, vocabSize);
        this.#options.shape?.(logits, [...tokens.subarray(0, place + 1)]);
        rows.push(logits);
      }
    }
    if (this.#options.recording ?? true) {
      this.calls.push({
        lanes: lanes.map(({ slot, past, tokens, logitRows }) => ({
          slot,
          past,
          tokens: Array.from(tokens),
          rows: Array.from(logitRows),
        })),
      });
    }
    return {
      numRows: rows.length,
      row: (index) => {
        const row = rows[index];
        if (row === undefined) throw new Error(`row ${index} of ${rows.length}`);
        return row;
      },
    };
  }

  copyPrefix(from: number, to: number, length: number): void {
    const { maxLength } = this.limits;
    if (from === to || length < 1 || length > maxLength)
      throw new Error(`copy of ${length} tokens from ${from} to ${to}`);
    if (length > (this.#lengths[from] ?? 0)) throw new Error(`slot ${from} does not hold ${length} tokens`);
    this.#tokens[to]?.set((this.#tokens[from] as Int32Array).subarray(0, length));
    this.#states[to]?.set((this.#states[from] as Int32Array).subarray(0, length));
    this.#lengths[to] = length;
    if (this.#options.recording ?? true) this.copies.push({ from, to, length });
  }

  dispose(): void {
    this.isDisposed = true;
  }
}

/** The logits after `tokens`, from nothing but the tokens: the slow truth that the engine's results are compared with. */
export function fakeLogits(tokens: readonly number[], vocabSize = 260): Float32Array {
  let state = EMPTY_STATE;
  for (const token of tokens) state = mix(state, token);
  return logitsOf(state, vocabSize);
}

function mix(state: number, token: number): number {
  let word = Math.imul(state ^ (token + 0x9e3779b9), 0x85ebca6b);
  word ^= word >>> 13;
  word = Math.imul(word, 0xc2b2ae35);
  return word ^ (word >>> 16);
}

/** Spread over about -6..6. */
function logitsOf(state: number, vocabSize: number): Float32Array {
  const logits = new Float32Array(vocabSize);
  for (let token = 0; token < vocabSize; token++) {
    let word = Math.imul(state ^ Math.imul(token + 1, 0x27d4eb2f), 0x165667b1);
    word ^= word >>> 15;
    word = Math.imul(word, 0x85ebca77);
    word ^= word >>> 13;
    logits[token] = ((word >>> 0) / 0x100000000) * 12 - 6;
  }
  return logits;
}
