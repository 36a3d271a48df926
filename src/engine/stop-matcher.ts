/**
 * Finds stop strings in text that arrives in pieces. Holds back what could still become one; what it lets go is final. The result
 * does not depend on how the text was split: the string whose end comes first wins, the longest of those that end together.
 */

export interface StopMatch {
  readonly stop: string;
  /** Offsets in the whole text, in UTF-16 units. */
  readonly start: number;
  readonly end: number;
}

export class StopMatcher {
  readonly #stops: readonly string[];
  #held = '';
  /** Length of the text that was let go. */
  #released = 0;

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop.length > 0);
  }

  /** Text that can be shown now. After a match nothing may be pushed any more. */
  push(text: string): { readonly text: string; readonly match?: StopMatch } {
    this.#held += text;
    const match = this.#find();
    if (match !== undefined) {
      const before = this.#held.slice(0, match.start - this.#released);
      this.#released += before.length;
      this.#held = '';
      return { text: before, match };
    }
    return { text: this.#release(this.#held.length - this.#possibleStart()) };
  }

  /** The text ends here without a stop string: what was held back is ordinary text. */
  flush(): string {
    return this.#release(this.#held.length);
  }

  #release(length: number): string {
    const text = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    this.#released += length;
    return text;
  }

  #find(): StopMatch | undefined {
    let best: StopMatch | undefined;
    for (const stop of this.#stops) {
      const place = this.#held.indexOf(stop);
      if (place < 0) continue;
      const start = this.#released + place;
      const end = start + stop.length;
      if (best === undefined || end < best.end || (end === best.end && start < best.start)) best = { stop, start, end };
    }
    return best;
  }

  /** Length of the longest end of the held text that begins a stop string. */
  #possibleStart(): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, this.#held.length); length > longest; length--) {
        if (this.#held.endsWith(stop.slice(0, length))) {
          longest = length;
          break;
        }
      }
    }
    return longest;
  }
}
