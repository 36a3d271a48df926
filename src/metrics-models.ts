/** What is loaded, in the metrics: models by role, the memory that holds them, and how swaps ended. */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { ModelSwap } from './model-swap.ts';

export function addModelMetrics(registry: Registry, swap: () => ModelSwap | undefined): void {
  const registers = [registry];
  new Gauge({
    name: 'stv_model_info',
    help: 'Always 1: which model has which role, and whether it serves or only ends what began before a swap',
    labelNames: ['role', 'model', 'state'],
    registers,
    collect() {
      this.reset();
      for (const { engine, state } of loadedBy(swap())) {
        for (const { name, aliases } of engine.models()) {
          for (const role of aliases) if (!role.includes('/')) this.set({ role, model: name, state }, 1);
        }
      }
    },
  });
  new Gauge({
    name: 'stv_model_resident_bytes',
    help: 'Resident memory of the processes that hold the models',
    labelNames: ['state'],
    registers,
    collect() {
      this.reset();
      for (const { engine, state } of loadedBy(swap())) this.inc({ state }, engine.residentBytes?.() ?? 0);
    },
  });
  new Counter({
    name: 'stv_model_swaps_total',
    help: 'Models loaded in place of others, by how it ended',
    labelNames: ['outcome'],
    registers,
    collect() {
      this.reset();
      for (const [outcome, count] of Object.entries(swap()?.counts ?? {})) this.inc({ outcome }, count);
    },
  });
}

/** A metric that has a label `model`. */
interface ModelMetric {
  get(): Promise<{ readonly values: readonly { readonly labels: Labels }[] }>;
  remove(labels: Labels): void;
}

type Labels = Readonly<Partial<Record<string, string | number>>>;

/** Removes what was counted for models that are not among the `loaded`: names hold a digest, so each swap would leave its own for good. */
export async function forgetModels(metrics: readonly ModelMetric[], loaded: ReadonlySet<string>): Promise<void> {
  for (const metric of metrics) {
    const { values } = await metric.get();
    for (const { labels } of values) {
      // of a histogram, each bucket has a label more
      const { le: _, ...own } = labels;
      if (!loaded.has(String(own['model']))) metric.remove(own);
    }
  }
}

function loadedBy(swap: ModelSwap | undefined) {
  if (swap?.current === undefined) return [];
  return [
    { engine: swap.current.engine, state: 'serving' },
    ...swap.draining.map(({ engine }) => ({ engine, state: 'draining' })),
  ];
}
