/**
 * Byte-pair merges of one long word in time n log n with a small constant: the best pair first, the leftmost of equals. Texts
 * without a space are one word, so what a caller can make this cost must stay small.
 */

/** Symbols of one vocabulary are fewer than this. */
const MAX_SYMBOLS = 2 ** 26;

export type MergeWord = (word: string) => string[];

/** `merges` in order of rank, as pairs of texts. What comes out is the word cut into its tokens. */
export function createBpeMerger(merges: readonly (readonly [string, string])[]): MergeWord {
  const symbols = new Map<string, number>();
  const symbolOf = (text: string): number => {
    let symbol = symbols.get(text);
    if (symbol === undefined) {
      symbol = symbols.size;
      symbols.set(text, symbol);
    }
    return symbol;
  };
  const rankOfPair = new Map<number, number>();
  const merged = new Int32Array(merges.length);
  merges.forEach(([left, right], rank) => {
    rankOfPair.set(symbolOf(left) * MAX_SYMBOLS + symbolOf(right), rank);
    merged[rank] = symbolOf(left + right);
  });

  return (word) => {
    const { starts, count } = startsOf(word);
    // symbols by place; -1: in no merge. `next` and `previous` skip places that have been merged into the one before
    const symbol = new Int32Array(count);
    const next = new Int32Array(count + 1);
    const previous = new Int32Array(count + 1);
    for (let place = 0; place < count; place++) {
      symbol[place] = symbols.get(word.slice(starts[place], starts[place + 1])) ?? -1;
      next[place] = place + 1;
      previous[place] = place - 1;
    }
    const rankAt = (place: number): number | undefined => {
      const after = next[place] as number;
      if (place < 0 || after >= count) return undefined;
      const [left, right] = [symbol[place] as number, symbol[after] as number];
      return left < 0 || right < 0 ? undefined : rankOfPair.get(left * MAX_SYMBOLS + right);
    };
    const queue = new MinHeap();
    const offer = (place: number): void => {
      const rank = rankAt(place);
      if (rank !== undefined) queue.push(rank * count + place);
    };
    for (let place = 0; place < count; place++) offer(place);
    for (let key = queue.pop(); key !== undefined; key = queue.pop()) {
      const place = key % count;
      const rank = Math.floor(key / count);
      // one of the two has become part of something else since
      if (rankAt(place) !== rank) continue;
      const gone = next[place] as number;
      symbol[place] = merged[rank] as number;
      symbol[gone] = -1;
      const after = next[gone] as number;
      next[place] = after;
      if (after < count) previous[after] = place;
      offer(previous[place] as number);
      offer(place);
    }
    const tokens: string[] = [];
    for (let place = 0; place < count; place = next[place] as number) {
      tokens.push(word.slice(starts[place], starts[next[place] as number]));
    }
    return tokens;
  };
}

/** UTF-16 offsets of the code points of a text, and its end. */
function startsOf(word: string): { readonly starts: Int32Array; readonly count: number } {
  const starts = new Int32Array(word.length + 1);
  let count = 0;
  for (let at = 0; at < word.length; at += (word.codePointAt(at) as number) > 0xffff ? 2 : 1) starts[count++] = at;
  starts[count] = word.length;
  return { starts, count };
}

class MinHeap {
  readonly #keys: number[] = [];

  push(key: number): void {
    const keys = this.#keys;
    let at = keys.length;
    keys.push(key);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((keys[parent] as number) <= key) break;
      keys[at] = keys[parent] as number;
      at = parent;
    }
    keys[at] = key;
  }

  pop(): number | undefined {
    const keys = this.#keys;
    const top = keys[0];
    const last = keys.pop();
    if (last === undefined || keys.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= keys.length) break;
      if (child + 1 < keys.length && (keys[child + 1] as number) < (keys[child] as number)) child++;
      if ((keys[child] as number) >= last) break;
      keys[at] = keys[child] as number;
      at = child;
    }
    keys[at] = last;
    return top;
  }
}
