/**
 * Leases that reach further into the future than any lease is given for: a clock was set back, or the holder's runs ahead. The
 * time in them says nothing then, so a holder counts as dead once it has renewed nothing for a whole term of a clock that only
 * runs forward.
 */
import type { Selectable } from 'kysely';
import type { Database } from './schema.ts';

export type HeldLease = Pick<Selectable<Database['runs']>, 'id' | 'lease_holder' | 'lease_until'>;

interface Sighting {
  readonly lease: HeldLease;
  readonly since: number;
}

export class FarLeases {
  readonly #elapsed: () => number;
  #seen = new Map<string, Sighting>();

  /** `elapsed`: milliseconds of a clock that nobody sets. */
  constructor(elapsed: () => number) {
    this.#elapsed = elapsed;
  }

  /** Of the leases that reach too far now, those that have been seen unchanged for longer than `ttlMs`. */
  unrenewed(leases: readonly HeldLease[], ttlMs: number): HeldLease[] {
    const now = this.#elapsed();
    const before = this.#seen;
    this.#seen = new Map(
      leases.map((lease) => {
        const known = before.get(lease.id);
        return [lease.id, known !== undefined && isSame(known.lease, lease) ? known : { lease, since: now }];
      }),
    );
    return leases.filter(({ id }) => now - (this.#seen.get(id)?.since ?? now) > ttlMs);
  }
}

function isSame(one: HeldLease, other: HeldLease): boolean {
  return one.lease_holder === other.lease_holder && one.lease_until === other.lease_until;
}
