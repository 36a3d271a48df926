/** Headers that tell browsers what they may do with an answer. The page and `/docs` replace the policy by their own. */
import cors from '@fastify/cors';
import helmet from '@fastify/helmet';
import type { Config } from '../config.ts';
import type { App } from './route-deps.ts';

/** What a page of another origin may read beside the body, where it may read at all. */
const exposedHeaders = ['x-request-id', 'retry-after', 'retry-after-ms', 'x-should-retry'].concat(
  ['limit', 'remaining', 'reset'].flatMap((part) => [
    `x-ratelimit-${part}`,
    `x-ratelimit-${part}-requests`,
    `x-ratelimit-${part}-tokens`,
  ]),
);

export function installSecurityHeaders(app: App, config: Config): void {
  app.register(helmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { 'default-src': ["'none'"], 'frame-ancestors': ["'none'"], 'base-uri': ["'none'"] },
    },
    referrerPolicy: { policy: 'no-referrer' },
    // whether there is TLS is known to the proxy that ends it
    strictTransportSecurity: false,
    // without TLS, browsers ignore it and warn
    originAgentCluster: false,
  });
  const origins = originsOf(config);
  if (origins.length === 0) return;
  app.register(cors, {
    origin: origins,
    methods: ['GET', 'POST', 'DELETE'],
    // keys travel in a header that the page sets, never in cookies
    credentials: false,
    exposedHeaders,
    maxAge: 600,
  });
}

function originsOf({ corsOrigins }: Config): string[] {
  return corsOrigins === undefined ? [] : corsOrigins.split(',').map((origin) => origin.trim());
}
