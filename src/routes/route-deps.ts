/** What every route is given. */

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify';
import type { Config } from '../config.ts';
import type { Metrics } from '../metrics.ts';
import type { ModelSwap } from '../model-swap.ts';
import type { QuotaLedger } from '../quotas/quota-ledger.ts';
import type { RunRegistry } from '../runs/run-registry.ts';
import type { Serving } from '../serving.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';

export interface RouteDeps {
  readonly config: Config;
  readonly serving: Serving;
  readonly runs: RunRegistry;
  readonly metrics: Metrics;
  /** What each key has used, and may use. */
  readonly quotas: QuotaLedger;
  /** Spans of calls that belong to no run; absent = none. */
  readonly telemetry?: Telemetry;
  /** Exchanges models; absent where the server was built without. */
  readonly models?: ModelSwap;
}

/** A Fastify instance whose handlers get their types from TypeBox schemas. */
export type App = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;
