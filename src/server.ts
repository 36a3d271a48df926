/** Puts the HTTP server together: plugins, checks, error handling, routes. Does not listen and loads no model. */
import fastifySwagger from '@fastify/swagger';
import fastifySwaggerUi from '@fastify/swagger-ui';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import fastify, { LogController } from 'fastify';
import { Type } from 'typebox';
import { type ApiKeys, noApiKeys } from './api-keys.ts';
import type { Config } from './config.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import type { ModelSwap } from './model-swap.ts';
import { hoistTitledSchemas } from './openapi-components.ts';
import { QuotaLedger } from './quotas/quota-ledger.ts';
import { registerAdmin } from './routes/admin.ts';
import { installAuth } from './routes/auth.ts';
import { registerChatCompletions } from './routes/chat-completions.ts';
import { registerCompletions } from './routes/completions.ts';
import { watchConnections } from './routes/connections.ts';
import {
  answerClientError,
  answerExpectation,
  answerFrameworkError,
  installErrorHandling,
  refuseWithoutHost,
} from './routes/error-handler.ts';
import { registerHealth } from './routes/health.ts';
import { installJsonBodies } from './routes/json-body.ts';
import { createLimitChecks, defaultLimits } from './routes/limits.ts';
import { withoutTexts } from './routes/logged-error.ts';
import { registerModels } from './routes/models.ts';
import { registerOperations } from './routes/operations.ts';
import { registerPlayground } from './routes/playground.ts';
import { registerRefine } from './routes/refine.ts';
import { requestIdOf } from './routes/request-id.ts';
import { registerResponses } from './routes/responses.ts';
import type { App, RouteDeps } from './routes/route-deps.ts';
import { errorAnswers } from './routes/schemas.ts';
import { installSecurityHeaders } from './routes/security-headers.ts';
import { registerSolve } from './routes/solve.ts';
import { registerTokenize } from './routes/tokenize.ts';
import { registerTraces } from './routes/traces.ts';
import { createValidatorCompiler } from './routes/validation.ts';
import { registerVerify } from './routes/verify.ts';
import { RunRegistry } from './runs/run-registry.ts';
import { Serving } from './serving.ts';
import type { Telemetry } from './telemetry/telemetry.ts';
import type { Traffic } from './traffic.ts';
import { version } from './version.ts';

export interface ServerDeps {
  readonly config: Config;
  readonly serving: Serving;
  readonly runs: RunRegistry;
  readonly metrics: Metrics;
  readonly keys?: ApiKeys;
  /** Absent: counts of this process alone, under the limits of the configuration. */
  readonly quotas?: QuotaLedger;
  /** JSON lines go to `stream`; absent = silence. */
  readonly logger?: { readonly level: string; readonly stream: NodeJS.WritableStream };
  /** Counts requests that a shutdown waits for. */
  readonly traffic?: Traffic;
  /** Spans of verifications and refinements; absent = none. */
  readonly telemetry?: Telemetry;
  /** Exchanges models; absent = the admin routes have nothing to show. */
  readonly models?: ModelSwap;
}

/** Builds the server; `ready()` or `listen()` finishes its set-up. */
export function buildServer(deps: ServerDeps): App {
  const { config, keys = noApiKeys } = deps;
  const quotas = deps.quotas ?? new QuotaLedger({ defaults: defaultLimits(config), limitsOf: keys.limitsOf });
  const app: App = fastify({
    logger: deps.logger === undefined ? false : { ...deps.logger, ...withoutTexts },
    // one line a request of our own, below
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: config.maxBodyBytes,
    requestTimeout: config.requestTimeoutMs,
    keepAliveTimeout: config.keepAliveTimeoutMs,
    // a drain lets running requests finish, so idle connections only are closed at once
    forceCloseConnections: 'idle',
    return503OnClosing: false,
    http: {
      maxHeaderSize: config.maxHeaderBytes,
      // refused below, in the form of every other error
      requireHostHeader: false,
      headersTimeout: Math.min(config.requestTimeoutMs, 60_000),
      connectionsCheckingInterval: Math.min(5000, Math.max(50, config.requestTimeoutMs / 4)),
    },
    genReqId: requestIdOf,
    requestIdHeader: false,
    trustProxy: config.trustedProxies ?? false,
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 512 },
    clientErrorHandler: answerClientError,
    frameworkErrors: answerFrameworkError,
    exposeHeadRoutes: true,
  }).withTypeProvider<TypeBoxTypeProvider>();
  app.server.maxConnections = config.maxConnections;
  app.server.on('checkExpectation', answerExpectation);

  // JSON only; whatever else comes is 415
  app.removeContentTypeParser('text/plain');
  installJsonBodies(app);
  app.setValidatorCompiler(createValidatorCompiler());
  // answers are checked against their schemas by the tests; at run time a second serializer could only disagree with the type
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  installErrorHandling(app, { maxBodyBytes: config.maxBodyBytes, onError: (code) => deps.metrics.countError(code) });
  watchConnections(app, config.slowReaderMs);
  installRequestTrail(app, deps);
  installSecurityHeaders(app, config);
  app.addHook('onRequest', refuseWithoutHost);
  const limits = createLimitChecks(app, { config, keys, ledger: quotas });
  app.addHook('onRequest', limits.address);
  installAuth(app, keys);
  app.addHook('onRequest', limits.key);

  app.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'STV server',
        version,
        description:
          'Verification, refinement and the verification-refinement loop over a generator and a verifier model.',
        license: { name: 'Apache-2.0' },
      },
      tags: [
        { name: 'loop', description: 'Verify, refine, solve' },
        { name: 'openai', description: 'OpenAI-compatible routes' },
        { name: 'models', description: 'Tokens' },
        { name: 'operations', description: 'Health, metrics, contract' },
      ],
      components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } } },
    },
    transform: ({ schema, url, route }) => {
      const scope = route.config?.scope;
      const security = scope === undefined ? {} : { security: [{ bearer: [] }] };
      // whatever a key is asked for, the key or its address may ask too often
      const refusals = scope === undefined || scope === 'metrics' ? {} : errorAnswers(429);
      const response = { ...(schema?.response as object | undefined), ...refusals };
      // names of models hold slashes, so the route itself is a wildcard
      const params = url.endsWith('*') ? { params: Type.Object({ model: Type.String() }) } : {};
      return { schema: { ...schema, response, ...security, ...params }, url: url.replace('*', ':model') };
    },
    transformObject: (document) =>
      hoistTitledSchemas(
        ('openapiObject' in document ? document.openapiObject : document.swaggerObject) as Record<string, unknown>,
      ) as never,
  });
  app.register(fastifySwaggerUi, { routePrefix: '/docs', staticCSP: true, uiConfig: { docExpansion: 'list' } });

  // inside a plugin, so that the contract above sees the routes
  app.register((scope, _options, done) => {
    registerRoutes(scope as App, { ...deps, quotas });
    done();
  });
  return app;
}

function registerRoutes(app: App, deps: RouteDeps): void {
  registerVerify(app, deps);
  registerRefine(app, deps);
  registerSolve(app, deps);
  registerTraces(app, deps);
  registerChatCompletions(app, deps);
  registerCompletions(app, deps);
  registerResponses(app, deps);
  registerModels(app, deps);
  registerTokenize(app, deps);
  registerAdmin(app, deps);
  registerHealth(app, deps);
  registerOperations(app, deps);
  registerPlayground(app);
}

/** `x-request-id` on every answer; one metric and one log line a request, without a word of its content. */
function installRequestTrail(app: App, { metrics, traffic, serving }: ServerDeps): void {
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
    const started = performance.now();
    const isWork = request.routeOptions.config.scope === 'infer';
    const leave = isWork ? traffic?.enter() : undefined;
    // whatever only reads has no use of the models
    const leaveService = isWork && request.method === 'POST' ? serving.enter() : undefined;
    // `close` comes in any case, also for clients that leave early and for streams
    reply.raw.once('close', () => {
      leave?.();
      leaveService?.();
      const route = request.routeOptions.url ?? 'unknown';
      const status = reply.raw.writableEnded ? reply.raw.statusCode : 499;
      const ms = performance.now() - started;
      metrics.observeHttp(route, request.method, status, ms / 1000);
      request.log.debug({ route, method: request.method, status, ms: Math.round(ms) }, 'request');
    });
  });
}

/** The contract as a document, without serving anything. */
export async function describeContract(config: Config): Promise<object> {
  const loop = (): never => {
    throw new Error('the contract runs nothing');
  };
  const runs = new RunRegistry({ loop, maxEventChars: 0, holder: 'contract' });
  const app = buildServer({ config, serving: new Serving(), runs, metrics: createMetrics() });
  await app.ready();
  const document = app.swagger();
  await app.close();
  return document;
}
