/** The side of the server that clients see: store, runs, metrics, routes, listening. Needs no model; `attach` brings one. */
import path from 'node:path';
import { ulid } from 'ulid';
import type { ApiKeys } from '../api-keys.ts';
import type { Config } from '../config.ts';
import type { ObservedEngine } from '../engine/combined-engine.ts';
import { StvError } from '../errors.ts';
import { createMetrics } from '../metrics.ts';
import type { ModelSwap } from '../model-swap.ts';
import { countRun, meterEngine } from '../quotas/metered-engine.ts';
import { QuotaLedger } from '../quotas/quota-ledger.ts';
import { defaultLimits } from '../routes/limits.ts';
import type { App } from '../routes/route-deps.ts';
import { RunRegistry } from '../runs/run-registry.ts';
import { buildServer } from '../server.ts';
import type { Serving } from '../serving.ts';
import { openDatabase } from '../store/open-database.ts';
import { SqlQuotaStore } from '../store/sql-quota-store.ts';
import { SqlRunStore } from '../store/sql-run-store.ts';
import { checkModels, solve } from '../stv/solve.ts';
import { openTelemetry } from '../telemetry/open-telemetry.ts';
import { Traffic } from '../traffic.ts';
import { version } from '../version.ts';

export interface Front {
  readonly url: string;
  readonly runs: RunRegistry;
  readonly traffic: Traffic;
  /** Feeds the metrics from the engine. */
  attach(engine: ObservedEngine): void;
  /** Closes what is still open. */
  close(): Promise<void>;
}

export interface FrontOptions {
  readonly keys: ApiKeys;
  readonly serving: Serving;
  readonly models: ModelSwap;
}

/** Opens the store and listens. Throws `config_invalid` where the store or the address cannot be had. */
export async function openFront(config: Config, { keys, serving, models }: FrontOptions): Promise<Front> {
  const telemetry = await openTelemetry(config);
  const database = await openDatabase(config.database ?? path.join(config.dataDir, 'runs.db'));
  const store = new SqlRunStore(database);
  const quotas = new QuotaLedger({
    defaults: defaultLimits(config),
    limitsOf: keys.limitsOf,
    // callers without keys are one and have no quotas to keep
    store: keys.isRequired ? new SqlQuotaStore(database) : undefined,
    onError: (error) => app.log.error({ err: error }, 'quotas could not be kept'),
  });
  const metrics = createMetrics();
  metrics.setModels(models);
  const traffic = new Traffic();
  const runs = new RunRegistry({
    store,
    versions: () => ({ server: version, pack: serving.service().pack.version }),
    retention: { maxAgeMs: config.retainDays * 86_400_000, maxBytes: config.retainMegabytes * 1_000_000 },
    loop: (request, signal, resume, owner) =>
      serving.during(({ engine, pack }) => {
        const span = telemetry.startRun(request, resume !== undefined);
        const events = solve(request, { engine: meterEngine(engine, owner, quotas), pack }, { signal, resume, span });
        return countRun(events, request, owner, quotas);
      }),
    check: (request) => checkModels(request, serving.service().engine),
    maxEventChars: config.maxRunEventBytes,
    holder: ulid(),
    onEvent: (event) => metrics.observeSolveEvent(event),
    onError: (error) => app.log.error({ err: error }, 'upkeep of stored runs failed'),
  });
  metrics.setRuns(runs);
  const logger = { level: config.logLevel, stream: process.stderr };
  const app: App = buildServer({ config, serving, metrics, runs, keys, quotas, traffic, logger, models, telemetry });
  try {
    await listen(app, config);
  } catch (thrown) {
    await Promise.all([store.close(), telemetry.close()]);
    throw thrown;
  }
  return {
    url: addressOf(app),
    runs,
    traffic,
    attach(engine) {
      metrics.setEngineStatus(() => engine.status());
      engine.onStats((stats) => metrics.observeEngine(stats, engine));
    },
    async close() {
      const closed = app.close();
      app.server.closeAllConnections();
      await closed;
      await quotas.flush();
      await Promise.all([store.close(), telemetry.close()]);
    },
  };
}

async function listen(app: App, config: Config): Promise<void> {
  try {
    await app.listen({ host: config.host, port: config.port });
  } catch (thrown) {
    const { code, message } = thrown as NodeJS.ErrnoException;
    const why = code === 'EADDRINUSE' ? 'another program listens there' : message;
    throw new StvError('config_invalid', `Cannot listen on ${config.host} port ${config.port}: ${why}.`, {
      cause: thrown,
    });
  }
}

function addressOf(app: App): string {
  const address = app.server.address();
  if (address === null || typeof address === 'string') return String(address);
  const host = address.family === 'IPv6' ? `[${address.address}]` : address.address;
  return `http://${host}:${address.port}`;
}
