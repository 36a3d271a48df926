/** Remembers which requests were at work when the engine host crashed, so that one poisonous request cannot kill it for ever. */
import { createHash } from 'node:crypto';

export interface CrashLedgerOptions {
  /** So many crashes quarantine a request. */
  readonly maxCrashes?: number;
  /** After so long without a new crash a request is forgiven. */
  readonly forgiveAfterMs?: number;
  readonly now?: () => number;
}

/** Entries kept at most; the oldest go first. */
const MAX_ENTRIES = 1000;

/** Same model, same prompt: the seed and other parameters may differ between two tries of one request. */
export function requestHash(model: number, prompt: Int32Array): string {
  const bytes = new Uint8Array(prompt.buffer, prompt.byteOffset, prompt.byteLength);
  return createHash('sha256').update(`${model}:`).update(bytes).digest('base64');
}

export class CrashLedger {
  readonly #crashes = new Map<string, { count: number; lastMs: number }>();
  readonly #maxCrashes: number;
  readonly #forgiveAfterMs: number;
  readonly #now: () => number;

  constructor({ maxCrashes = 2, forgiveAfterMs = 600_000, now = () => performance.now() }: CrashLedgerOptions = {}) {
    this.#maxCrashes = maxCrashes;
    this.#forgiveAfterMs = forgiveAfterMs;
    this.#now = now;
  }

  /** The host crashed while it worked on these. */
  blame(hashes: Iterable<string>): void {
    const nowMs = this.#now();
    for (const hash of new Set(hashes)) {
      const count = this.#countOf(hash) + 1;
      this.#crashes.delete(hash); // to the end: the map's order is the age
      this.#crashes.set(hash, { count, lastMs: nowMs });
    }
    for (const hash of this.#crashes.keys()) {
      if (this.#crashes.size <= MAX_ENTRIES) break;
      this.#crashes.delete(hash);
    }
  }

  /** It ran to its end: it was not the one. */
  acquit(hash: string): void {
    this.#crashes.delete(hash);
  }

  /** It was there once: worth watching alone. */
  isSuspect(hash: string): boolean {
    return this.#countOf(hash) > 0;
  }

  isQuarantined(hash: string): boolean {
    return this.#countOf(hash) >= this.#maxCrashes;
  }

  #countOf(hash: string): number {
    const entry = this.#crashes.get(hash);
    if (entry === undefined) return 0;
    if (this.#now() - entry.lastMs > this.#forgiveAfterMs) {
      this.#crashes.delete(hash);
      return 0;
    }
    return entry.count;
  }
}
