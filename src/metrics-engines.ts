/** What engines hold at the moment, in the metrics: added up over those that are loaded, as two of them serve one model during a swap. */
import { Gauge, type Registry } from 'prom-client';
import type { EngineStats } from './engine/engine-stats.ts';

/** Whoever tells it; what several engines hold is kept apart. */
export type Teller = object;

interface Held {
  queuedTokens: number;
  readonly slots: Map<string, { readonly used: number; readonly cached: number }>;
}

export class EngineGauges {
  readonly #held = new Map<Teller, Held>();

  constructor(registry: Registry) {
    const registers = [registry];
    const held = this.#held;
    new Gauge({
      name: 'stv_kv_cache_slots',
      help: 'Cache slots, by what they hold',
      labelNames: ['model', 'state'],
      registers,
      collect() {
        this.reset();
        for (const { slots } of held.values()) {
          for (const [model, { used, cached }] of slots) {
            this.inc({ model, state: 'used' }, used);
            this.inc({ model, state: 'cached' }, cached);
          }
        }
      },
    });
    new Gauge({
      name: 'stv_queued_tokens',
      help: 'Prompt tokens that wait',
      registers,
      collect() {
        this.set([...held.values()].reduce((sum, { queuedTokens }) => sum + queuedTokens, 0));
      },
    });
  }

  observe(stats: EngineStats, teller: Teller): void {
    if (stats.type === 'queue') this.#of(teller).queuedTokens = stats.queuedTokens;
    if (stats.type === 'slots') this.#of(teller).slots.set(stats.model, { used: stats.used, cached: stats.cached });
    if (stats.type === 'step') {
      this.#of(teller).slots.set(stats.model, { used: stats.slotsUsed, cached: stats.slotsCached });
    }
  }

  /** Forgets what the others hold. */
  keep(loaded: ReadonlySet<Teller>): void {
    for (const teller of this.#held.keys()) if (!loaded.has(teller)) this.#held.delete(teller);
  }

  #of(teller: Teller): Held {
    const known = this.#held.get(teller) ?? { queuedTokens: 0, slots: new Map() };
    this.#held.set(teller, known);
    return known;
  }
}
