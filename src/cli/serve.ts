/**
 * `stv serve`: puts the parts together, listens at once, loads the models meanwhile, and ends in good order. The first line on
 * stdout names the address; progress and logs go to stderr.
 */
import path from 'node:path';
import { ulid } from 'ulid';
import { loadApiKeys, noApiKeys } from '../api-keys.ts';
import type { Config } from '../config.ts';
import { StvError, toStvError } from '../errors.ts';
import { createMetrics } from '../metrics.ts';
import type { App } from '../routes/route-deps.ts';
import { RunRegistry } from '../runs/run-registry.ts';
import { buildServer, version } from '../server.ts';
import { Serving } from '../serving.ts';
import { openDatabase } from '../store/open-database.ts';
import { SqlRunStore } from '../store/sql-run-store.ts';
import { solve } from '../stv/solve.ts';
import { Traffic } from '../traffic.ts';
import { type LoadedService, loadService } from './load-service.ts';
import { createProgressLine } from './progress.ts';

/** Resolves with the exit code once the server has ended. */
export async function serve(config: Config): Promise<number> {
  const keys = config.apiKeysFile === undefined ? noApiKeys : loadApiKeys(config.apiKeysFile);
  const serving = new Serving();
  const metrics = createMetrics();
  const traffic = new Traffic();
  const db = await openDatabase(config.database ?? path.join(config.dataDir, 'runs.db'));
  const store = new SqlRunStore(db);
  const runs = new RunRegistry({
    store,
    retention: { maxAgeMs: config.retainDays * 86_400_000, maxBytes: config.retainMegabytes * 1_000_000 },
    loop: (request, signal, resume) => solve(request, serving.service(), { signal, resume }),
    maxEventChars: config.maxRunEventBytes,
    holder: ulid(),
    onEvent: (event) => metrics.observeSolveEvent(event),
    onError: (error) => app.log.error({ err: error }, 'upkeep of stored runs failed'),
  });
  const app: App = buildServer({
    config,
    serving,
    metrics,
    runs,
    keys,
    traffic,
    logger: { level: config.logLevel, stream: process.stderr },
  });
  await listen(app, config);
  say(`STV server ${version} listens on ${addressOf(app)}`);
  if (!keys.isRequired) say('No API keys are configured: only this machine is served.');

  const ending = firstSignal();
  const loading = new AbortController();
  let loaded: LoadedService | undefined;
  try {
    const load = loadWithProgress(config, serving, loading.signal);
    const outcome = await Promise.race([load, ending]);
    if (typeof outcome === 'number') {
      loading.abort();
      await load.catch(() => undefined);
    }
    if (typeof outcome !== 'number') {
      loaded = outcome;
      const { engine, pack } = outcome;
      metrics.setEngineStatus(() => engine.status());
      engine.onStats((stats) => metrics.observeEngine(stats));
      serving.ready({ engine, pack });
      runs.beginUpkeep();
      announce(outcome, config, addressOf(app));
    }
    await ending;
  } catch (thrown) {
    loading.abort();
    await app.close();
    await store.close();
    throw thrown;
  }
  loading.abort();
  await drain({ config, serving, runs, traffic, app, loaded });
  await store.close();
  return 0;
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

async function loadWithProgress(config: Config, serving: Serving, signal: AbortSignal): Promise<LoadedService> {
  const progress = createProgressLine();
  try {
    return await loadService({
      config,
      signal,
      report: ({ what, done, total, unit }) => {
        serving.loading(done === undefined ? what : `${what}.`);
        if (done !== undefined) progress.update(what, done, total, unit);
      },
    });
  } catch (thrown) {
    const error = toStvError(thrown);
    serving.failed(error.message);
    throw error;
  } finally {
    progress.finish();
  }
}

function announce({ pack, models, engine }: LoadedService, config: Config, url: string): void {
  const contexts = engine.models().map((model) => model.contextLength);
  say(
    `Serves the pack ${pack.name} ${pack.version} (${config.weights}, context ${[...new Set(contexts)].join(' and ')}):`,
  );
  for (const model of models) say(`  ${model.aliases.slice(0, model.aliases.length / 2).join(' and ')}: ${model.name}`);
  const body = '{"problem": "What is 12 + 30 * 2?", "solution": "12 + 30 = 42\\n42 * 2 = 84"}';
  say(`Try: curl -s ${url}/verify -H 'content-type: application/json' -d '${body}'`);
  say(`Every route: ${url}/docs`);
}

interface Drain {
  readonly config: Config;
  readonly serving: Serving;
  readonly runs: RunRegistry;
  readonly traffic: Traffic;
  readonly app: App;
  readonly loaded: LoadedService | undefined;
}

/** New requests get 503, running ones their time, stored runs a place in the database; then everything is closed. */
async function drain({ config, serving, runs, traffic, app, loaded }: Drain): Promise<void> {
  serving.drain();
  const reason = new StvError('draining', 'The server shut down before this was finished.');
  await runs.park(reason);
  if (traffic.count > 0) {
    process.stderr.write(`Waiting up to ${config.drainSeconds} s for ${traffic.count} running requests.\n`);
  }
  await traffic.idle(config.drainSeconds * 1000);
  await runs.close(reason);
  await loaded?.engine.close();
  // what still streams has just been told that the engine is gone
  await traffic.idle(1000);
  app.server.closeAllConnections();
  await app.close();
}

/** Resolves at the first SIGTERM or SIGINT; the second ends the process at once. */
function firstSignal(): Promise<number> {
  return new Promise((resolve) => {
    let count = 0;
    for (const [signal, number] of [
      ['SIGINT', 2],
      ['SIGTERM', 15],
    ] as const) {
      process.on(signal, () => {
        count += 1;
        if (count > 1) process.exit(128 + number);
        resolve(number);
      });
    }
  });
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
