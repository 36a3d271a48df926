/**
 * Owns which cache slot belongs to whom and what the slots hold. Freed slots keep their content, so a later prompt with the same
 * beginning takes one over or has its rows copied. Knows no tensors: a copy is a decision that the core carries out at once.
 */
import { PrefixIndex } from './prefix-index.ts';

interface Slot {
  isUsed: boolean;
  /** Tokens of the indexed prefix whose cache is really there. Equals the indexed length while the slot is unused. */
  numComputed: number;
  /** Tick of the last use; the smallest is evicted first. */
  lastUsed: number;
  /** Unused, and until then for a continuation of what it holds. */
  heldUntilMs: number;
}

export interface SlotManagerOptions {
  readonly numSlots: number;
  readonly maxLength: number;
  readonly reusePrefixes: boolean;
  /** Shorter hits are computed again rather than copied. */
  readonly minCopyTokens?: number;
}

/** Where a sequence starts: rows `[0, numCached)` are in `slot` once `copyFrom`, if there is one, has been copied. */
export interface Acquired {
  readonly slot: number;
  readonly numCached: number;
  readonly copyFrom: number | undefined;
  /** Cached tokens of some earlier sequence that were given up for it. */
  readonly numEvictedTokens: number;
}

export interface PrefixLookup {
  /** Longest prefix that can be had now, and from which slot. */
  readonly length: number;
  readonly slot: number | undefined;
  /** Longest prefix that a used slot is going to have but has not computed yet; 0 if none is longer than `length`. */
  readonly plannedLength: number;
  readonly plannedSlot: number | undefined;
}

export class SlotManager {
  readonly #slots: Slot[];
  readonly #index = new PrefixIndex();
  readonly #maxLength: number;
  readonly #reusePrefixes: boolean;
  readonly #minCopyTokens: number;
  #tick = 0;
  #nowMs = 0;
  #numUsed = 0;

  constructor({ numSlots, maxLength, reusePrefixes, minCopyTokens = 8 }: SlotManagerOptions) {
    this.#slots = Array.from({ length: numSlots }, () => ({
      isUsed: false,
      numComputed: 0,
      lastUsed: 0,
      heldUntilMs: 0,
    }));
    this.#maxLength = maxLength;
    this.#reusePrefixes = reusePrefixes;
    this.#minCopyTokens = minCopyTokens;
  }

  get numUsed(): number {
    return this.#numUsed;
  }

  /** Unused slots that hold something. */
  get numCached(): number {
    return this.#slots.reduce((count, slot) => count + (!slot.isUsed && slot.numComputed > 0 ? 1 : 0), 0);
  }

  /** A step begins at that time. */
  beginStep(nowMs: number): void {
    this.#nowMs = nowMs;
  }

  /** @param mayTakeHeld also what is kept for continuations */
  canAcquire(mayTakeHeld: boolean): boolean {
    if (this.#numUsed === this.#slots.length) return false;
    return mayTakeHeld || this.#slots.some((slot) => !slot.isUsed && !this.#isHeld(slot));
  }

  /** What the slots could spare a prompt of which at most `maxCached` tokens may come from a cache. Changes nothing. */
  lookup(tokens: Int32Array, maxCached: number): PrefixLookup {
    let length = 0;
    let best: number | undefined;
    let plannedLength = 0;
    let plannedSlot: number | undefined;
    if (this.#reusePrefixes && maxCached > 0) {
      this.#index.match(tokens.subarray(0, maxCached), (number, matched) => {
        const slot = this.#at(number);
        const usable = Math.min(matched, slot.numComputed);
        // an unused slot is better than a used one of the same length: it may need no copy
        if (usable > length || (usable === length && usable > 0 && !slot.isUsed && this.#at(best).isUsed)) {
          length = usable;
          best = number;
        }
        if (slot.isUsed && matched > plannedLength && matched > slot.numComputed) {
          plannedLength = matched;
          plannedSlot = number;
        }
      });
    }
    if (plannedLength <= length) return { length, slot: best, plannedLength: 0, plannedSlot: undefined };
    return { length, slot: best, plannedLength, plannedSlot };
  }

  /**
   * Gives the sequence a slot with as much of its prefix as there is. Only if `canAcquire`.
   * @param tokens everything the sequence is going to compute first; indexed at once, so that others can wait for it
   */
  acquire(tokens: Int32Array, found: PrefixLookup, isContinuation: boolean): Acquired {
    const victim = this.#leastRecentlyUsed();
    const source = found.slot;
    const sourceSlot = source === undefined ? undefined : this.#at(source);
    const isWorthCopying = found.length >= this.#minCopyTokens;
    let number = victim;
    let numCached = 0;
    let copyFrom: number | undefined;
    if (source !== undefined && sourceSlot !== undefined) {
      // taken over when nothing is lost: it was kept for this, or holds no more than the hit, or would be evicted anyway
      const isWanted = this.#isHeld(sourceSlot) ? isContinuation : sourceSlot.numComputed === found.length;
      if (!sourceSlot.isUsed && (isWanted || source === victim)) {
        number = source;
        numCached = found.length;
      } else if (isWorthCopying) {
        copyFrom = source;
        numCached = found.length;
      }
    }
    const slot = this.#at(number);
    const numEvictedTokens = slot.numComputed - (copyFrom === undefined ? numCached : 0);
    slot.isUsed = true;
    slot.numComputed = numCached;
    slot.lastUsed = ++this.#tick;
    if (sourceSlot !== undefined) sourceSlot.lastUsed = ++this.#tick;
    this.#numUsed++;
    if (this.#reusePrefixes) this.#index.set(number, tokens);
    return { slot: number, numCached, copyFrom, numEvictedTokens };
  }

  /** The sequence's cache has grown to `numComputed` tokens. */
  advance(number: number, numComputed: number): void {
    const slot = this.#at(number);
    if (!slot.isUsed || numComputed > this.#maxLength) {
      throw new Error(`Slot ${number} cannot hold ${numComputed} tokens (used: ${slot.isUsed}).`);
    }
    slot.numComputed = numComputed;
  }

  /**
   * The sequence is done with the slot.
   * @param tokens those whose cache it holds, empty if the content is worth nothing
   * @param heldUntilMs until when it is kept for a continuation
   */
  release(number: number, tokens: Int32Array, heldUntilMs = 0): void {
    const slot = this.#at(number);
    if (!slot.isUsed) throw new Error(`Slot ${number} was released twice.`);
    slot.isUsed = false;
    slot.numComputed = this.#reusePrefixes ? tokens.length : 0;
    slot.lastUsed = ++this.#tick;
    slot.heldUntilMs = heldUntilMs;
    this.#numUsed--;
    if (this.#reusePrefixes) this.#index.set(number, tokens);
  }

  /** Throws unless free + used + cached = all and the index agrees. @param usedBy slot -> tokens computed, of all sequences */
  checkIntegrity(usedBy: ReadonlyMap<number, number>): void {
    this.#index.checkIntegrity();
    let used = 0;
    for (const [number, slot] of this.#slots.entries()) {
      const owner = usedBy.get(number);
      if (slot.isUsed !== (owner !== undefined))
        throw new Error(`Slot ${number} is used: ${slot.isUsed}, owned: ${owner !== undefined}.`);
      if (slot.isUsed) used++;
      if (owner !== undefined && owner !== slot.numComputed) {
        throw new Error(`Slot ${number} holds ${slot.numComputed} tokens, its sequence computed ${owner}.`);
      }
      const indexed = this.#index.tokensOf(number).length;
      if (!slot.isUsed && indexed !== slot.numComputed) {
        throw new Error(`Slot ${number} keeps ${slot.numComputed} tokens, the index knows ${indexed}.`);
      }
      if (this.#index.has(number) !== indexed > 0) throw new Error(`The index names the empty slot ${number}.`);
    }
    if (used !== this.#numUsed || usedBy.size !== used) {
      throw new Error(`${used} slots are used, ${this.#numUsed} counted, ${usedBy.size} owned.`);
    }
  }

  #isHeld(slot: Slot): boolean {
    return !slot.isUsed && slot.heldUntilMs > this.#nowMs;
  }

  /** Unused, empty ones first, those that are kept for continuations last. */
  #leastRecentlyUsed(): number {
    const order = (slot: Slot): number =>
      slot.numComputed === 0 ? -1 : slot.lastUsed + (this.#isHeld(slot) ? this.#tick : 0);
    let best: number | undefined;
    for (const [number, slot] of this.#slots.entries()) {
      if (slot.isUsed) continue;
      if (best === undefined || order(slot) < order(this.#at(best))) best = number;
    }
    if (best === undefined) throw new Error('No slot is free.');
    return best;
  }

  #at(number: number | undefined): Slot {
    const slot = number === undefined ? undefined : this.#slots[number];
    if (slot === undefined) throw new Error(`There is no slot ${number}.`);
    return slot;
  }
}
