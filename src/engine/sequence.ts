/**
 * The engine's mutable state of one generation. Its numbers say everything about its phase: it is waiting for whatever lies
 * between `numComputedTokens` and `numTokens`, be that a prompt, one new token, or a prompt again after a preemption.
 */
import { DraftSource } from './draft-source.ts';
import type { SequenceSpec } from './messages.ts';
import { Rng } from './rng.ts';
import { hasPenalties, type TokenHistory } from './sampler.ts';

export interface SequenceOptions {
  readonly key: number;
  readonly nowMs: number;
  /** Tokens a slot holds. */
  readonly maxLength: number;
  readonly isDrafting?: boolean;
}

export class Sequence {
  readonly spec: SequenceSpec;
  /** Order of admission and prefill: smaller goes first. See `scheduler.ts`. */
  readonly key: number;
  /** Order of prefill once it runs: its own key, or that of a sequence that waits for what it computes. */
  prefillKey: number;
  readonly arrivedAtMs: number;
  readonly rng: Rng;
  /** Tokens to hold before the sequence is over, prompt included. */
  readonly maxTotalTokens: number;
  /** Guesses of its next tokens; undefined where none are wanted. */
  readonly drafts: DraftSource | undefined;

  /** Prompt and output; only the first `numTokens` count. */
  #tokens: Int32Array;
  numTokens: number;
  /** Tokens whose cache lies in the slot. 0 while waiting. */
  numComputedTokens = 0;
  /** Tokens that its share has been charged for, or was given for nothing. */
  numChargedTokens = 0;
  slot: number | undefined = undefined;
  /** Prompt tokens that the first admission found cached. */
  numCachedTokens = 0;
  /** Milliseconds, same clock as `arrivedAtMs`; undefined until first admitted. */
  startedAtMs: number | undefined = undefined;
  /** Whether a step has computed something for it; false only until its first step is over. */
  hasBegun = false;
  /** Prompt rows already reported; a preempted sequence does not report them again. */
  numReportedRows = 0;

  readonly #outputCounts: Map<number, number> | undefined;
  readonly #seen: Set<number> | undefined;

  constructor(spec: SequenceSpec, { key, nowMs, maxLength, isDrafting = false }: SequenceOptions) {
    this.spec = spec;
    this.key = key;
    this.prefillKey = key;
    this.arrivedAtMs = nowMs;
    this.rng = new Rng(spec.sampling.seed);
    this.numTokens = spec.prompt.length;
    this.maxTotalTokens = Math.min(spec.prompt.length + spec.maxTokens, maxLength);
    // Only where a text is expected to repeat: with integer weights a step of several rows rounds otherwise than a step of one, so
    // a draft can change which of two close tokens comes, and the same request shall give the same text twice. A suspect runs as
    // plainly as it can.
    if (isDrafting && spec.prediction !== undefined && spec.maxTokens > 1 && spec.isSuspect !== true) {
      this.drafts = new DraftSource(spec.prediction, spec.prompt.length);
    }
    this.#tokens = new Int32Array(Math.max(1, Math.min(this.maxTotalTokens, spec.prompt.length + 64)));
    this.#tokens.set(spec.prompt);
    if (hasPenalties(spec.sampling)) {
      this.#outputCounts = new Map();
      this.#seen = new Set(spec.prompt);
    }
  }

  get id(): number {
    return this.spec.id;
  }

  get numPromptTokens(): number {
    return this.spec.prompt.length;
  }

  get numOutputTokens(): number {
    return this.numTokens - this.spec.prompt.length;
  }

  get numTokensLeft(): number {
    return this.maxTotalTokens - this.numTokens;
  }

  /** Whether tokens are to be generated at all (`maxTokens` 0 only reads the prompt). */
  get isGenerating(): boolean {
    return this.spec.maxTokens > 0;
  }

  /** Where `numComputedTokens` has to get to next. Without generation nothing after the last wanted row is computed. */
  get computeTarget(): number {
    if (this.isGenerating) return this.numTokens;
    const rows = this.spec.promptRows;
    const last = rows[rows.length - 1];
    return last === undefined ? this.numTokens : last.position + 1;
  }

  get numMissingTokens(): number {
    return this.computeTarget - this.numComputedTokens;
  }

  /** One token behind: decoding, or the last token of a prompt that was found cached. */
  get isDecoding(): boolean {
    return this.numMissingTokens === 1;
  }

  /**
   * How much of the prompt may come from a cache. Rows whose logits are wanted must be computed, the last one always, and the
   * token before them: a step of one row runs another kernel than a step of several, with integer weights their logits
   * differ, and a prompt must not answer differently when it is found cached.
   */
  get maxCachedTokens(): number {
    const next = this.spec.promptRows[this.numReportedRows];
    const firstRow = Math.min(this.computeTarget - 1, next?.position ?? this.computeTarget);
    return Math.max(0, firstRow - 1);
  }

  get history(): TokenHistory | undefined {
    if (this.#outputCounts === undefined || this.#seen === undefined) return undefined;
    return { outputCounts: this.#outputCounts, seen: this.#seen };
  }

  /** A view, valid until the next `append`. */
  tokens(from = 0, to = this.numTokens): Int32Array {
    return this.#tokens.subarray(from, to);
  }

  append(token: number): void {
    if (this.numTokens === this.#tokens.length) {
      const grown = new Int32Array(Math.min(this.maxTotalTokens, this.#tokens.length * 2));
      grown.set(this.#tokens);
      this.#tokens = grown;
    }
    this.#tokens[this.numTokens++] = token;
    if (this.#outputCounts !== undefined) this.#outputCounts.set(token, (this.#outputCounts.get(token) ?? 0) + 1);
    this.#seen?.add(token);
  }
}
