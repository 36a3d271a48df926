/** Who is calling and what the key allows. Runs before the body is read, so that strangers cost nothing. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type ApiKey, type ApiKeys, anonymous, type Scope } from '../api-keys.ts';
import { isLoopback } from '../config.ts';
import { StvError } from '../errors.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What a key must allow; absent = open to everybody. */
    scope?: Scope;
    /** A share token in the query (`?token=`) may stand for a key; the handler checks it. */
    isShareable?: boolean;
    /** Asks nothing of a model: it is not counted among what generates. */
    isLight?: boolean;
  }
  interface FastifyRequest {
    /** Set on every route that needs a scope. */
    apiKey: ApiKey;
  }
}

export function installAuth(app: FastifyInstance, keys: ApiKeys): void {
  app.decorateRequest('apiKey');
  app.addHook('onRequest', async (request) => {
    if (!keys.isRequired) refuseForeignHost(request);
    const scope = request.routeOptions.config.scope;
    const isOpen =
      scope === undefined || (request.routeOptions.config.isShareable && shareTokenOf(request) !== undefined);
    request.apiKey = isOpen ? nobody : authorize(request, keys, scope);
  });
}

/** Whoever calls an open route. */
const nobody: ApiKey = { id: 'nobody', scopes: new Set(), limits: {} };

export function shareTokenOf(request: FastifyRequest): string | undefined {
  const { token } = request.query as { readonly token?: unknown };
  return typeof token === 'string' && token !== '' ? token : undefined;
}

function authorize(request: FastifyRequest, keys: ApiKeys, scope: Scope): ApiKey {
  if (!keys.isRequired) return anonymous;
  const header = request.headers.authorization;
  if (header === undefined) {
    throw new StvError('invalid_api_key', 'This route needs an API key in the header `Authorization: Bearer KEY`.');
  }
  const secret = /^Bearer +(\S+) *$/i.exec(header)?.[1];
  const key = secret === undefined ? undefined : keys.find(secret);
  if (key === undefined) throw new StvError('invalid_api_key', 'The API key is not one of this server.');
  if (!key.scopes.has(scope)) {
    throw new StvError('insufficient_scope', `The API key does not have the scope \`${scope}\` that this route needs.`);
  }
  return key;
}

/**
 * Without keys only this machine is served. A web page of somebody else can still make a browser here send requests to
 * a name that it rebinds to 127.0.0.1; the Host header gives that away.
 */
function refuseForeignHost(request: FastifyRequest): void {
  if (isLoopback(request.hostname)) return;
  throw new StvError(
    'insufficient_scope',
    'Without API keys this server answers only to loopback names (localhost, 127.0.0.1, [::1]) in the Host header.',
  );
}
