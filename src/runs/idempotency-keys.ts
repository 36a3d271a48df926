/** Idempotency keys of runs that are not stored: which run a repeated request belongs to, for 24 hours or until memory needs the place. */
import { createHash } from 'node:crypto';
import { keyLifetimeMs } from '../stv/run-store.ts';
import type { LiveRun } from './live-run.ts';
import { keyReused } from './run-errors.ts';

/** Ended runs that are still answered to a repeated key; the oldest go first. */
const maxKeys = 512;

interface Entry {
  readonly bodyHash: string;
  readonly live: LiveRun;
  readonly expires: number;
}

export interface KeySlot {
  /** The run that the key and body began before. */
  readonly known: LiveRun | undefined;
  remember(live: LiveRun): void;
  /** Unless a later run has the key by now. */
  forget(live: LiveRun): void;
}

export class IdempotencyKeys {
  readonly #entries = new Map<string, Entry>();
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Throws `idempotency_key_reused` when the key came with another body. */
  slot(owner: string, { key, body }: { readonly key: string; readonly body: unknown }): KeySlot {
    const name = JSON.stringify([owner, key]);
    const bodyHash = bodyHashOf(body);
    const entry = this.#entries.get(name);
    const isUsable = entry !== undefined && entry.expires > this.#now() && !entry.live.isCancelled;
    if (isUsable && entry.bodyHash !== bodyHash) {
      throw keyReused();
    }
    return {
      known: isUsable ? entry.live : undefined,
      remember: (live) => {
        this.#entries.delete(name);
        this.#entries.set(name, { bodyHash, live, expires: this.#now() + keyLifetimeMs });
        this.#trim();
      },
      forget: (live) => {
        if (this.#entries.get(name)?.live === live) this.#entries.delete(name);
      },
    };
  }

  /** Entries are in order of age. */
  #trim(): void {
    for (const [name, entry] of this.#entries) {
      if (this.#entries.size <= maxKeys && entry.expires > this.#now()) return;
      if (entry.live.isEnded) this.#entries.delete(name);
    }
  }
}

export function bodyHashOf(body: unknown): string {
  return createHash('sha256').update(JSON.stringify(body)).digest('hex');
}
