/**
 * What the engine may ask of a model: one forward call over lanes, and copying cached prefixes between slots.
 * Knows nothing of requests or scheduling; the engine knows nothing of graphs or tensors.
 */

/** One sequence's share of a step: `tokens` are appended after the `past` tokens that its slot already holds. */
export interface Lane {
  /** Whose cache: 0 .. numSlots - 1. A slot appears in at most one lane of a call. */
  readonly slot: number;
  /** Tokens of the slot's cache that count; the rest is overwritten. `past + tokens.length <= maxLength`. */
  readonly past: number;
  /** At least one. */
  readonly tokens: ArrayLike<number>;
  /** Positions within `tokens`, ascending, whose logits are wanted. May be empty. */
  readonly logitRows: ArrayLike<number>;
}

/** Logits of the wanted rows, lane after lane. Views are valid until the next `forward`. */
export interface Logits {
  readonly numRows: number;
  /** `[vocabSize]`, float32. */
  row(index: number): Float32Array;
}

export interface CausalLMLimits {
  readonly vocabSize: number;
  readonly numSlots: number;
  /** Tokens a slot holds. */
  readonly maxLength: number;
  readonly maxLanes: number;
  /** Most tokens of all lanes of one call together. */
  readonly maxBatchedTokens: number;
}

export interface CausalLM {
  readonly limits: CausalLMLimits;
  /** Blocks until done: the engine host owns its thread. Throws StvError `runtime_failed`; the slots involved are then undefined. */
  forward(lanes: readonly Lane[]): Logits;
  /**
   * Does one more piece of what loading left for later, about a second at most; false when nothing is left. A step that needs it
   * earlier does it itself.
   */
  warmUp?(): boolean;
  /** Copies the cache of the first `length` tokens of slot `from` to slot `to`. */
  copyPrefix(from: number, to: number, length: number): void;
  dispose(): void;
}
