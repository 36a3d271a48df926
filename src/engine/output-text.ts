/**
 * Generated tokens -> text that may be shown, with the tokens that made it. Joins detokenizer and stop matcher and keeps text and
 * tokens aligned: a token leaves together with the last character that its bytes are part of.
 */
import { Detokenizer } from './detokenizer.ts';
import { type StopMatch, StopMatcher } from './stop-matcher.ts';

export interface TextPiece<Item> {
  readonly text: string;
  /** In order; each was given with one token. */
  readonly items: readonly Item[];
}

interface HeldItem<Item> {
  readonly item: Item;
  /** Offset in the whole text at which the token's own text begins. */
  readonly start: number;
  /** Offset behind the last character its bytes are part of; undefined while that character is incomplete. */
  end: number | undefined;
}

export class OutputText<Item> {
  readonly #detokenizer = new Detokenizer();
  readonly #matcher: StopMatcher;
  readonly #includeStop: boolean;
  #held: HeldItem<Item>[] = [];
  /** Characters that came out of the detokenizer, and those that the matcher let go. */
  #length = 0;
  #shown = 0;

  constructor({ stop, includeStop = false }: { readonly stop: readonly string[]; readonly includeStop?: boolean }) {
    this.#matcher = new StopMatcher(stop);
    this.#includeStop = includeStop;
  }

  /** @returns what can be shown now; with `match` the text is over and nothing may follow. */
  push(bytes: Uint8Array, item: Item): TextPiece<Item> & { readonly match?: StopMatch } {
    const text = this.#detokenizer.push(bytes);
    this.#held.push({ item, start: this.#length, end: undefined });
    this.#length += text.length;
    if (!this.#detokenizer.hasPending) this.#closeHeld(this.#held.length);
    else if (text.length > 0) this.#closeHeld(this.#held.length - 1); // this token began the next character
    const { text: shown, match } = this.#matcher.push(text);
    if (match === undefined) return { text: shown, items: this.#release(shown) };
    const cut = this.#includeStop ? match.end : match.start;
    const kept = shown + (this.#includeStop ? match.stop : '');
    // tokens that hold nothing but the stop string, or what came after it, are not part of the text
    const items = this.#held.filter(({ start, end }) => start < cut || (end !== undefined && end <= cut));
    this.#held = [];
    return { text: kept, items: items.map(({ item: kept }) => kept), match };
  }

  /** The sequence is over without a stop string: everything held back is shown. */
  end(): TextPiece<Item> {
    const rest = this.#detokenizer.end();
    this.#length += rest.length;
    const { text, match } = this.#matcher.push(rest); // an ill-formed rest may be a stop string of U+FFFD
    const shown = match === undefined ? text + this.#matcher.flush() : text;
    const items = this.#held.map(({ item }) => item);
    this.#held = [];
    return { text: shown, items };
  }

  #closeHeld(count: number): void {
    for (let i = count - 1; i >= 0; i--) {
      const held = this.#held[i] as HeldItem<Item>; // i < count <= length
      if (held.end !== undefined) return;
      held.end = this.#length;
    }
  }

  #release(shown: string): Item[] {
    this.#shown += shown.length;
    let count = 0;
    while (count < this.#held.length) {
      const { end } = this.#held[count] as HeldItem<Item>; // count < length
      if (end === undefined || end > this.#shown) break;
      count++;
    }
    return this.#held.splice(0, count).map(({ item }) => item);
  }
}
