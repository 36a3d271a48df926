/** Metrics of the remote servers behind the roles: read from the engine's status at each scrape. No text of a user in any label. */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { RemoteStatus } from './engine/engine.ts';

type NumberField = { [K in keyof RemoteStatus]: RemoteStatus[K] extends number ? K : never }[keyof RemoteStatus];

/** Totals that the engine counts itself. */
const totals: readonly (readonly [name: string, field: NumberField, help: string])[] = [
  ['requests', 'requests', 'HTTP requests sent to the remote server, retries included'],
  ['retries', 'retries', 'Requests sent again after a failure'],
  ['failures', 'failures', 'Requests that failed'],
  ['circuit_opened', 'circuitOpened', 'Times that the circuit was opened'],
  ['estimated_usages', 'estimatedUsages', 'Answers whose tokens the remote server did not count'],
];

export function addRemoteMetrics(registry: Registry, source: () => readonly RemoteStatus[]): void {
  const common = { labelNames: ['remote', 'model'] as const, registers: [registry] };
  for (const [name, field, help] of totals) {
    new Counter({
      name: `stv_remote_${name}_total`,
      help,
      ...common,
      collect() {
        this.reset();
        for (const status of source()) this.inc(labelsOf(status), status[field]);
      },
    });
  }
  new Gauge({
    name: 'stv_remote_circuit_state',
    help: 'Circuit of the remote server: 0 closed, 1 half-open, 2 open',
    ...common,
    collect() {
      this.reset();
      for (const status of source()) this.set(labelsOf(status), { closed: 0, 'half-open': 1, open: 2 }[status.circuit]);
    },
  });
  new Gauge({
    name: 'stv_remote_sequences',
    help: 'Requests at the remote server and waiting for a turn',
    labelNames: ['remote', 'model', 'state'],
    registers: [registry],
    collect() {
      this.reset();
      for (const status of source()) {
        this.set({ ...labelsOf(status), state: 'running' }, status.running);
        this.set({ ...labelsOf(status), state: 'waiting' }, status.waiting);
      }
    },
  });
}

function labelsOf({ remote, model }: RemoteStatus): { readonly remote: string; readonly model: string } {
  return { remote, model };
}
