/** The whole HTTP server over the test engine; closes itself with the test. */
import { ulid } from 'ulid';
import { onTestFinished } from 'vitest';
import type { ApiKeys } from '../../src/api-keys.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import { createMetrics, type Metrics } from '../../src/metrics.ts';
import { countRun, meterEngine } from '../../src/quotas/metered-engine.ts';
import { QuotaLedger, type QuotaStore } from '../../src/quotas/quota-ledger.ts';
import { defaultLimits } from '../../src/routes/limits.ts';
import type { App } from '../../src/routes/route-deps.ts';
import { RunRegistry } from '../../src/runs/run-registry.ts';
import { buildServer, type ServerDeps } from '../../src/server.ts';
import { Serving } from '../../src/serving.ts';
import type { LoopPack, RoleDefaults } from '../../src/stv/loop-pack.ts';
import type { RunStore } from '../../src/stv/run-store.ts';
import { checkModels, solve } from '../../src/stv/solve.ts';
import type { Telemetry } from '../../src/telemetry/telemetry.ts';
import { version } from '../../src/version.ts';
import { TestEngine, type TestEngineOptions } from './test-engine.ts';

const role: RoleDefaults = {
  sampling: {
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    presencePenalty: 0,
    frequencyPenalty: 0,
    repetitionPenalty: 1,
  },
  maxTokens: 64,
};

export const testPack: LoopPack = {
  name: 'test',
  version: '1.0.0',
  prompts: {
    attempt: { messages: [{ role: 'user', template: 'Solve: {{ problem }}' }] },
    refine: { messages: [{ role: 'user', template: 'Improve: {{ problem }} {{ attempt }} {{ feedback }}' }] },
    verify: { messages: [{ role: 'user', template: 'Check: {{ problem }} {{ solution }}' }] },
    verifyWithReference: {
      messages: [{ role: 'user', template: 'Check: {{ problem }} {{ solution }} {{ reference }}' }],
    },
  },
  feedback: { open: '<feedback>', close: '</feedback>', stop: ['</feedback>'] },
  verdict: { open: '<verdict>', close: '</verdict>', words: { accept: 'accept', reject: 'reject' }, minMass: 0.5 },
  answer: { kind: 'boxed' },
  calibration: { kind: 'none' },
  defaults: { generator: role, verifier: role },
};

export interface TestApp {
  readonly app: App;
  readonly engine: TestEngine;
  readonly serving: Serving;
  readonly metrics: Metrics;
  readonly runs: RunRegistry;
  readonly quotas: QuotaLedger;
}

export interface TestAppOptions {
  readonly engine?: TestEngineOptions;
  readonly config?: Readonly<Partial<Record<keyof Config, unknown>>>;
  readonly keys?: ApiKeys;
  readonly store?: RunStore;
  readonly quotaStore?: QuotaStore;
  /** Clock of the quotas. */
  readonly now?: () => number;
  readonly telemetry?: Telemetry;
  readonly logger?: NonNullable<ServerDeps['logger']>;
  /** False: the models are still loading. */
  readonly ready?: boolean;
}

/** One for a single test; closes itself. */
export async function buildApp(options: TestAppOptions = {}): Promise<TestApp> {
  const built = await createApp(options);
  onTestFinished(() => closeApp(built));
  return built;
}

/** Clients of the tests keep connections open that have never carried a request; the server would wait for them. */
export async function closeApp({ app }: TestApp): Promise<void> {
  const closed = app.close();
  app.server.closeAllConnections();
  await closed;
}

/** One for several tests, which close it. */
export async function createApp(options: TestAppOptions = {}): Promise<TestApp> {
  const engine = new TestEngine(options.engine);
  const config = loadConfig({ env: {}, cwd: '/nonexistent', flags: options.config ?? {} });
  const serving = new Serving();
  const metrics = createMetrics();
  const quotas = new QuotaLedger({
    defaults: defaultLimits(config),
    limitsOf: options.keys?.limitsOf,
    store: options.quotaStore,
    now: options.now,
  });
  const runs = new RunRegistry({
    loop: (request, signal, resume, owner) => {
      const span = options.telemetry?.startRun(request, resume !== undefined);
      const metered = meterEngine(engine, owner, quotas);
      return countRun(
        solve(request, { engine: metered, pack: testPack }, { signal, resume, span }),
        request,
        owner,
        quotas,
      );
    },
    check: (request) => checkModels(request, engine),
    maxEventChars: config.maxRunEventBytes,
    holder: ulid(),
    onEvent: (event) => metrics.observeSolveEvent(event),
    onError: (error) => app.log.error({ err: error }, 'upkeep of stored runs failed'),
    store: options.store,
    versions: () => ({ server: version, pack: serving.service().pack.version }),
  });
  metrics.setRuns(runs);
  const app: App = buildServer({
    config,
    serving,
    metrics,
    runs,
    quotas,
    ...(options.keys === undefined ? {} : { keys: options.keys }),
    ...(options.telemetry === undefined ? {} : { telemetry: options.telemetry }),
    ...(options.logger === undefined ? {} : { logger: options.logger }),
  });
  if (options.ready !== false) serving.ready({ engine, pack: testPack });
  await app.ready();
  return { app, engine, serving, metrics, runs, quotas };
}

/** Listens on a free loopback port; for what `inject` cannot show: sockets, streaming, real clients. */
export async function listen(app: App): Promise<string> {
  return app.listen({ host: '127.0.0.1', port: 0 });
}
