/**
 * How much each address and each key may ask for: requests per minute (fixed windows, in memory), and the quotas of the ledger
 * for requests that generate. All of it before the body is read.
 */
import rateLimit, { type RateLimitOptions } from '@fastify/rate-limit';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { ApiKeys } from '../api-keys.ts';
import { type Config, isLoopback } from '../config.ts';
import { StvError } from '../errors.ts';
import { type KeyLimits, limitOf } from '../quotas/limits.ts';
import { meterEngine } from '../quotas/metered-engine.ts';
import { exceeded, type QuotaLedger } from '../quotas/quota-ledger.ts';
import type { Service } from '../serving.ts';
import type { App, RouteDeps } from './route-deps.ts';

const windowMs = 60_000;
/** Addresses, and keys, that are remembered at the same time; the one longest unseen is forgotten first. */
const maxTracked = 20_000;
/** Whoever has an IPv6 address has the whole subnet. */
const ipv6Subnet = 64;

/** The limits of keys that name none of their own. */
export function defaultLimits(config: Config): KeyLimits {
  return {
    requests_per_minute: config.keyRequestsPerMinute,
    requests_per_day: config.keyRequestsPerDay,
    tokens_per_day: config.keyTokensPerDay,
    concurrent: config.keyConcurrent,
  };
}

/** What serves this request, charged to its key. Throws `not_ready` or `draining`. */
export function serviceFor({ serving, quotas }: RouteDeps, request: FastifyRequest): Service {
  const { engine, pack } = serving.require();
  return { engine: meterEngine(engine, request.apiKey.id, quotas), pack };
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Gives the request's place among those of its key back before its connection closes: a stored run is counted by itself. */
    leaveQuota?: () => void;
  }
}

type Check = (request: FastifyRequest, reply: FastifyReply) => Promise<void>;

export interface LimitChecks {
  /** Before the key is looked at, so that guessing keys is bounded as well. */
  readonly address: Check;
  /** After `installAuth`. */
  readonly key: Check;
}

interface LimitSources {
  readonly config: Config;
  readonly keys: ApiKeys;
  readonly ledger: QuotaLedger;
}

export function createLimitChecks(app: App, { config, keys, ledger }: LimitSources): LimitChecks {
  const defaults = defaultLimits(config);
  app.decorateRequest('leaveQuota');
  app.register(rateLimit, { global: false, ipv6Subnet, timeWindow: windowMs });
  // each counter has a store of its own
  const store: RateLimitOptions = { cache: maxTracked };
  const perMinuteOf = (request: FastifyRequest): number | undefined =>
    limitOf('requests_per_minute', request.apiKey.limits, defaults);
  // made at the first request, when the plugin is there
  let byAddress: Counter | undefined;
  let byKey: Counter | undefined;
  return {
    async address(request, reply) {
      // nothing is known any more of a connection that its client has reset
      if ((request.ip as string | undefined) === undefined) {
        throw new StvError('cancelled', 'The client closed the connection.');
      }
      const limit = config.addressRequestsPerMinute;
      // where keys are required, loopback may be a proxy with everybody behind it
      if (limit === 0 || (!keys.isRequired && isLoopback(request.ip))) return;
      byAddress ??= app.createRateLimit({ ...store, max: limit });
      const { isOver, ttl } = await count(byAddress, request, reply);
      if (!isOver) return;
      const name = 'address_requests_per_minute';
      throw new StvError('quota_exceeded', `This address has reached its limit ${name} of ${limit}.`, {
        retryAfterMs: ttl,
        limit: { name, value: limit },
      });
    },
    async key(request, reply) {
      const { scope } = request.routeOptions.config;
      const { apiKey } = request;
      // a monitor that is refused would see an outage where there is none; a key without scopes is nobody's
      if (scope === undefined || scope === 'metrics' || apiKey.scopes.size === 0) return;
      const limit = perMinuteOf(request);
      if (limit !== undefined) {
        byKey ??= app.createRateLimit({
          ...store,
          max: (each) => perMinuteOf(each) ?? 0,
          keyGenerator: (each) => each.apiKey.id,
        });
        const { isOver, ttl } = await count(byKey, request, reply);
        if (isOver) throw exceeded('requests_per_minute', limit, 'the next window has not begun', ttl);
      }
      if (!isGeneration(request)) return;
      const leave = await ledger.admit(apiKey, request.routeOptions.config.isLight);
      request.leaveQuota = leave;
      if (reply.raw.destroyed) leave();
      else reply.raw.once('close', leave);
      addTokenHeaders(reply, ledger, apiKey.id);
    },
  };
}

/** What begins work; looking at a run, or cancelling it, is none of it. */
function isGeneration({ method, routeOptions: { url = '', config } }: FastifyRequest): boolean {
  return method === 'POST' && config.scope === 'infer' && !url.includes('/:');
}

type Counter = ReturnType<App['createRateLimit']>;

/** Counts the request and tells the client how it stands; a key's own window is told in place of its address's. */
async function count(
  counter: Counter,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<{ readonly isOver: boolean; readonly ttl: number }> {
  const window = await counter(request);
  if (window.isAllowed) return { isOver: false, ttl: 0 };
  const seconds = Math.ceil(window.ttl / 1000);
  reply.headers({
    'x-ratelimit-limit': window.max,
    'x-ratelimit-remaining': window.remaining,
    'x-ratelimit-reset': seconds,
    'x-ratelimit-limit-requests': window.max,
    'x-ratelimit-remaining-requests': window.remaining,
    'x-ratelimit-reset-requests': `${seconds}s`,
  });
  return { isOver: window.isExceeded, ttl: window.ttl };
}

function addTokenHeaders(reply: FastifyReply, ledger: QuotaLedger, id: string): void {
  const left = ledger.tokensLeft(id);
  if (left === undefined) return;
  reply.headers({
    'x-ratelimit-limit-tokens': left.limit,
    'x-ratelimit-remaining-tokens': left.remaining,
    'x-ratelimit-reset-tokens': `${Math.ceil(left.resetMs / 1000)}s`,
  });
}
