/**
 * `GET /`: the page on which people try the loop, and its files. Everything comes from this server, and the policy that goes
 * with it lets the browser fetch nothing from anywhere else.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fastifyStatic, { type SetHeadersResponse } from '@fastify/static';
import type { App } from './route-deps.ts';

/** Built beside the server; the same place seen from `src` and from `dist`. */
const builtPage = fileURLToPath(new URL('../../dist/page/', import.meta.url));

const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
].join('; ');

/** Adds nothing where the page has not been built. */
export function registerPlayground(app: App, root: string = builtPage): void {
  if (!existsSync(root)) return;
  app.register(fastifyStatic, {
    root,
    prefix: '/assets/',
    // one route a file, so that what does not exist is the 404 of every other route
    wildcard: false,
    globIgnore: ['index.html'],
    index: false,
    cacheControl: false,
    setHeaders: (reply) => addHeaders(reply),
  });
  app.get('/', { schema: { hide: true } }, (_request, reply) => reply.sendFile('index.html'));
}

function addHeaders(reply: SetHeadersResponse): void {
  reply.setHeader('content-security-policy', policy);
  reply.setHeader('x-content-type-options', 'nosniff');
  reply.setHeader('referrer-policy', 'no-referrer');
  reply.setHeader('cross-origin-opener-policy', 'same-origin');
  reply.setHeader('cross-origin-resource-policy', 'same-origin');
  // asked for again at every visit and not sent again while it is the same
  reply.setHeader('cache-control', 'no-cache');
}
