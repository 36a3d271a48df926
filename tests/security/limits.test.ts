/** Quotas of keys and addresses: what is refused, how it is said, what survives a restart, and that no key sees another's. */
import net from 'node:net';
import path from 'node:path';
import fastify, { type FastifyReply, type FastifyRequest } from 'fastify';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type ApiKeys, loadApiKeys } from '../../src/api-keys.ts';
import { loadConfig } from '../../src/config.ts';
import { StvError } from '../../src/errors.ts';
import { meterEngine } from '../../src/quotas/metered-engine.ts';
import { QuotaLedger } from '../../src/quotas/quota-ledger.ts';
import { createLimitChecks } from '../../src/routes/limits.ts';
import type { App } from '../../src/routes/route-deps.ts';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlQuotaStore } from '../../src/store/sql-quota-store.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import { buildApp, listen, type TestApp } from '../http/build-app.ts';
import { TestEngine } from '../http/test-engine.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

function keysOf(...lines: string[]): ApiKeys {
  return loadApiKeys(path.join(temporaryFolder({ keys: lines.join('\n') }), 'keys'));
}

const chat = { model: 'generator', messages: [{ role: 'user', content: 'hi' }] };

function ask(
  { app }: TestApp,
  key: string,
  url = '/v1/chat/completions',
  payload: object = chat,
  address = '127.0.0.1',
) {
  const headers = { authorization: `Bearer ${key}` };
  return app.inject({ method: 'POST', url, payload, headers, remoteAddress: address });
}

describe('requests per minute', () => {
  it('refuse a key at its own limit, name it, and leave the other key alone', async () => {
    const keys = keysOf('a infer one requests_per_minute=2', 'b infer two');
    const built = await buildApp({ keys, config: { addressRequestsPerMinute: 0 } });
    const first = await ask(built, 'a');
    expect(first.statusCode).toBe(200);
    expect(first.headers).toMatchObject({
      'x-ratelimit-limit': '2',
      'x-ratelimit-remaining': '1',
      'x-ratelimit-limit-requests': '2',
    });
    expect(first.headers['x-ratelimit-reset-requests']).toMatch(/^\d+s$/);
    expect((await ask(built, 'a')).statusCode).toBe(200);
    const refused = await ask(built, 'a');
    expect(refused.statusCode).toBe(429);
    expect(refused.json()).toMatchObject({
      error: { code: 'quota_exceeded', type: 'rate_limit_error', limit: { name: 'requests_per_minute', value: 2 } },
    });
    const wait = Number(refused.headers['retry-after']);
    expect(wait).toBeGreaterThanOrEqual(1);
    expect(wait).toBeLessThanOrEqual(60);
    expect(refused.headers['x-ratelimit-remaining']).toBe('0');
    const other = await ask(built, 'b');
    expect(other.statusCode).toBe(200);
    expect(other.headers).not.toHaveProperty('x-ratelimit-limit');
  });

  it('stand in the configuration for keys that name none, and 0 frees a key', async () => {
    const keys = keysOf('a infer one', 'b infer two requests_per_minute=0');
    const built = await buildApp({ keys, config: { keyRequestsPerMinute: 1 } });
    expect((await ask(built, 'a')).statusCode).toBe(200);
    expect((await ask(built, 'a')).statusCode).toBe(429);
    for (let i = 0; i < 3; i++) expect((await ask(built, 'b')).statusCode).toBe(200);
  });

  it('bound what an address may try, before any key is looked at', async () => {
    const built = await buildApp({ keys: keysOf('a infer one'), config: { addressRequestsPerMinute: 3 } });
    const guess = () => ask(built, 'wrong', '/verify', {}, '203.0.113.9');
    const statuses = [];
    for (let i = 0; i < 5; i++) statuses.push((await guess()).statusCode);
    expect(statuses).toEqual([401, 401, 401, 429, 429]);
    expect((await guess()).json().error.limit).toEqual({ name: 'address_requests_per_minute', value: 3 });
    // another address does not pay for it
    expect((await ask(built, 'a', undefined, chat, '203.0.113.10')).statusCode).toBe(200);
    // an IPv6 host that changes its address within its subnet stays one caller
    const v6 = [];
    for (let i = 0; i < 4; i++) v6.push((await ask(built, 'a', undefined, chat, `2001:db8::${i + 1}`)).statusCode);
    expect(v6).toEqual([200, 200, 200, 429]);
  });

  it('bound loopback where keys are required, as a proxy may stand there, and nowhere else', async () => {
    const config = { addressRequestsPerMinute: 2 };
    const behindProxy = await buildApp({ keys: keysOf('a infer one'), config });
    for (const address of ['127.0.0.1', '::1']) {
      const statuses = [];
      for (let i = 0; i < 4; i++) statuses.push((await ask(behindProxy, 'wrong', '/verify', {}, address)).statusCode);
      expect(statuses, address).toEqual([401, 401, 429, 429]);
    }
    const alone = await buildApp({ config });
    for (let i = 0; i < 4; i++) expect((await ask(alone, 'none')).statusCode).toBe(200);
    expect((await ask(alone, 'none')).headers).not.toHaveProperty('x-ratelimit-limit');
  });

  it('remember more addresses than ask in a minute', async () => {
    const app: App = fastify();
    const config = loadConfig({ env: {}, cwd: '/nonexistent', flags: { addressRequestsPerMinute: 1 } });
    const limits = createLimitChecks(app, { config, keys: keysOf('a'), ledger: new QuotaLedger() });
    await app.ready();
    const reply = { headers: () => undefined } as unknown as FastifyReply;
    const from = (ip: string) => limits.address({ ip, routeOptions: {} } as FastifyRequest, reply);
    await from('203.0.113.1');
    for (let i = 0; i < 10_000; i++) await from(`10.0.${i >> 8}.${i & 255}`);
    await expect(from('203.0.113.1')).rejects.toMatchObject({ code: 'quota_exceeded' });
  });

  it('end a request whose client has gone, without a word of a defect', async () => {
    const { app } = await buildApp({ keys: keysOf('a infer one') });
    const address = await listen(app);
    app.server.on('connection', (socket) => Object.defineProperty(socket, 'remoteAddress', { value: undefined }));
    const answer = await fetch(`${address}/health/live`);
    expect(answer.status).toBe(499);
    expect(await answer.json()).toMatchObject({ error: { code: 'cancelled' } });
  });

  it('believe X-Forwarded-For of configured proxies only', async () => {
    const config = { addressRequestsPerMinute: 1 };
    const from = (built: TestApp, address: string, forwarded: string) =>
      built.app.inject({ url: '/health/live', headers: { 'x-forwarded-for': forwarded }, remoteAddress: address });
    const plain = await buildApp({ keys: keysOf('a'), config });
    expect((await from(plain, '203.0.113.1', '198.51.100.1')).statusCode).toBe(200);
    expect((await from(plain, '203.0.113.1', '198.51.100.2')).statusCode, 'a new name is no new address').toBe(429);
    const proxied = await buildApp({ keys: keysOf('a'), config: { ...config, trustedProxies: '203.0.113.1' } });
    expect((await from(proxied, '203.0.113.1', '198.51.100.1')).statusCode).toBe(200);
    expect((await from(proxied, '203.0.113.1', '198.51.100.2')).statusCode).toBe(200);
    expect((await from(proxied, '203.0.113.1', '198.51.100.1')).statusCode).toBe(429);
  });
});

describe('quotas of a day', () => {
  const noon = Date.UTC(2026, 0, 5, 12);

  it('refuse requests above the number until midnight UTC, across a restart', async () => {
    const database = await openDatabase(path.join(temporaryFolder(), 'runs.db'));
    const options = {
      keys: keysOf('a infer one requests_per_day=2', 'b infer two requests_per_day=2'),
      quotaStore: new SqlQuotaStore(database),
    };
    const before = await buildApp({ ...options, now: () => noon });
    expect((await ask(before, 'a')).statusCode).toBe(200);
    await before.quotas.flush();
    const after = await buildApp({ ...options, now: () => noon });
    expect((await ask(after, 'a')).statusCode).toBe(200);
    const refused = await ask(after, 'a');
    expect(refused.statusCode).toBe(429);
    expect(refused.json().error.limit).toEqual({ name: 'requests_per_day', value: 2 });
    expect(refused.headers['retry-after']).toBe(`${12 * 3600}`);
    expect((await ask(after, 'b')).statusCode, "another key's day").toBe(200);
    await after.quotas.flush();
    const tomorrow = await buildApp({ ...options, now: () => noon + 12 * 3_600_000 });
    expect((await ask(tomorrow, 'a')).statusCode).toBe(200);
    await tomorrow.quotas.flush();
    const days = await database.selectFrom('quotas').select('day').distinct().execute();
    expect(days, 'past days are forgotten').toEqual([{ day: '2026-01-06' }]);
    await database.destroy();
  });

  it('add up what several servers count', async () => {
    const database = await openDatabase(path.join(temporaryFolder(), 'runs.db'));
    const store = new SqlQuotaStore(database);
    await store.add('one', '2026-01-05', { requests: 3, tokens: 10 });
    expect(await store.add('one', '2026-01-05', { requests: 1, tokens: 5 })).toEqual({ requests: 4, tokens: 15 });
    expect(await store.read('one', '2026-01-05')).toEqual({ requests: 4, tokens: 15 });
    expect(await store.read('two', '2026-01-05')).toEqual({ requests: 0, tokens: 0 });
    await database.destroy();
  });

  it('charge tokens of every way to generate and stop a run between its steps', async () => {
    const built = await buildApp({
      keys: keysOf('a infer one tokens_per_day=12', 'b infer two tokens_per_day=1000'),
      engine: { reply: () => 'one two three four', accept: () => 0.1 },
    });
    const first = await ask(built, 'a');
    expect(first.headers['x-ratelimit-limit-tokens']).toBe('12');
    expect(first.headers['x-ratelimit-remaining-tokens']).toBe('12');
    const spent = first.json().usage.total_tokens;
    const run = await ask(built, 'a', '/solve', { problem: 'p', max_rounds: 50 });
    expect(run.json().usage.total_tokens + spent).toBeLessThan(12 + 12);
    expect(built.engine.requests.length, 'no step of the fifty rounds after the tokens were used up').toBeLessThan(8);
    const refused = await ask(built, 'a', '/verify', { problem: 'p', solution: 's' });
    expect(refused.statusCode).toBe(429);
    expect(refused.json().error.limit).toEqual({ name: 'tokens_per_day', value: 12 });

    const other = await ask(built, 'b', '/verify', { problem: 'p', solution: 's' });
    const next = await ask(built, 'b');
    expect(next.headers['x-ratelimit-remaining-tokens']).toBe(`${1000 - other.json().usage.total_tokens}`);
  });
});

describe('the tokens of a score', () => {
  const prompt = { kind: 'text', text: 'one two three' } as const;
  const score = { id: 's', model: 'verifier', prompt, candidates: ['a', 'b'], priority: 'interactive' } as const;

  it.each([
    ['cancelled', 3],
    ['deadline_exceeded', 3],
    ['engine_crashed', 3],
    ['queue_full', 0],
    ['not_ready', 0],
    ['invalid_value', 0],
  ] as const)('that ends as %s: %i are charged', async (code, tokens) => {
    const accept = (): never => {
      throw new StvError(code, 'It ended early.');
    };
    const ledger = new QuotaLedger({ defaults: { tokens_per_day: 100 } });
    const engine = meterEngine(new TestEngine({ accept }), 'key', ledger);
    await expect(engine.score(score)).rejects.toMatchObject({ code });
    await new Promise((resolve) => setImmediate(resolve));
    expect(ledger.tokensLeft('key')?.remaining).toBe(100 - tokens);
  });
});

describe('concurrent requests', () => {
  it('are bounded for a key, free their place however they end, and name their share', async () => {
    const built = await buildApp({
      keys: keysOf('a infer one concurrent=1', 'b infer two concurrent=1'),
      engine: { reply: () => 'one two three', delayMs: 30 },
    });
    const running = ask(built, 'a');
    await expect.poll(() => built.engine.numOpen).toBe(1);
    const refused = await ask(built, 'a');
    expect(refused.statusCode).toBe(429);
    expect(refused.json().error.limit).toEqual({ name: 'concurrent', value: 1 });
    expect(refused.headers['retry-after']).toBe('1');
    expect((await ask(built, 'b')).statusCode).toBe(200);
    expect((await running).statusCode).toBe(200);
    expect((await ask(built, 'a', '/v1/chat/completions', { nonsense: true })).statusCode).toBe(400);
    expect((await ask(built, 'a')).statusCode, 'a refused request leaves its place').toBe(200);
    const tokenized = await ask(built, 'a', '/tokenize', { model: 'generator', text: 'x' });
    expect(tokenized.statusCode).toBe(200);
    expect(new Set(built.engine.requests.map(({ shareKey }) => shareKey))).toEqual(new Set(['one', 'two']));
  });

  it('leave their place when their connection closes before it was their turn on it', async () => {
    const built = await buildApp({
      keys: keysOf('a infer one concurrent=1', 'b infer two'),
      engine: { reply: () => 'one two three', delayMs: 30 },
    });
    const { port } = new URL(await listen(built.app));
    const body = JSON.stringify(chat);
    const requestOf = (key: string): string =>
      `POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${key}\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    const socket = net.connect(Number(port), '127.0.0.1');
    socket.write(requestOf('b') + requestOf('a'));
    await expect.poll(() => built.engine.numOpen).toBe(2);
    socket.destroy();
    await expect.poll(async () => (await ask(built, 'a')).statusCode).toBe(200);
    expect(built.engine.aborted).toHaveLength(2);
  });

  it('count a stored run once, and as long as it goes on, whoever hangs up', async () => {
    const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
    onTestFinished(() => store.close());
    const built = await buildApp({
      keys: keysOf('a infer one concurrent=2'),
      engine: { reply: () => 'word '.repeat(40), delayMs: 5, accept: () => 0.2 },
      store,
    });
    const address = await listen(built.app);
    const begin = async (): Promise<AbortController> => {
      const connection = new AbortController();
      const answer = await fetch(`${address}/solve`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept: 'text/event-stream', authorization: 'Bearer a' },
        body: JSON.stringify({ problem: 'p', max_rounds: 5, store: true }),
        signal: connection.signal,
      });
      expect(answer.status).toBe(200);
      await answer.body?.getReader().read();
      return connection;
    };
    const connections = [await begin(), await begin()];
    for (const connection of connections) connection.abort();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect((await ask(built, 'a')).json().error.limit).toEqual({ name: 'concurrent', value: 2 });
    await built.runs.close(new StvError('draining', 'The test is over.'));
  });
});
