/** A small cache of what a server was asked, so that votes on one prompt ask once; also joins questions that are under way. */

interface Entry<T> {
  readonly value: Promise<T>;
  readonly size: number;
  readonly expiresAtMs: number;
}

export interface RecentOptions {
  readonly maxEntries: number;
  /** Of the keys' and values' rough sizes together. */
  readonly maxSize: number;
  readonly keepMs: number;
  readonly now: () => number;
}

export class Recent<T> {
  readonly #options: RecentOptions;
  readonly #entries = new Map<string, Entry<T>>();
  #size = 0;

  constructor(options: RecentOptions) {
    this.#options = options;
  }

  /** @param ask is not called while an answer is kept or under way; a failed answer is not kept */
  async get(key: string, ask: () => Promise<T>): Promise<T> {
    const known = this.#entries.get(key);
    if (known !== undefined && known.expiresAtMs > this.#options.now()) {
      // last in the order of eviction again
      this.#entries.delete(key);
      this.#entries.set(key, known);
      return known.value;
    }
    this.#delete(key);
    const value = ask();
    const entry = { value, size: key.length * 2, expiresAtMs: this.#options.now() + this.#options.keepMs };
    this.#entries.set(key, entry);
    this.#size += entry.size;
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= this.#options.maxEntries && this.#size <= this.#options.maxSize) break;
      this.#delete(oldest);
    }
    try {
      return await value;
    } catch (error) {
      if (this.#entries.get(key) === entry) this.#delete(key);
      throw error;
    }
  }

  #delete(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#size -= entry.size;
  }
}
