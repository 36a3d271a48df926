/** What browsers and strangers are told, what no body may hold, and that nothing in a request is opened or fetched. */
import fs, { readFileSync } from 'node:fs';
import fsPromises, { readFile } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { loadApiKeys } from '../../src/api-keys.ts';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import { buildApp } from '../http/build-app.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

describe('headers', () => {
  it('forbid browsers everything on answers, errors and streams', async () => {
    const { app } = await buildApp();
    const chat = { model: 'generator', messages: [{ role: 'user', content: 'hi' }] };
    for (const answer of [
      await app.inject('/health/live'),
      await app.inject('/nowhere'),
      await app.inject({ method: 'POST', url: '/v1/chat/completions', payload: { ...chat, stream: true } }),
      await app.inject({ method: 'POST', url: '/v1/chat/completions', payload: '{' }),
    ]) {
      expect(answer.headers['content-security-policy']).toContain("default-src 'none'");
      expect(answer.headers).toMatchObject({
        'x-content-type-options': 'nosniff',
        'x-frame-options': 'SAMEORIGIN',
        'referrer-policy': 'no-referrer',
        'cross-origin-resource-policy': 'same-origin',
      });
      expect(answer.headers).not.toHaveProperty('x-powered-by');
      expect(answer.headers).not.toHaveProperty('access-control-allow-origin');
    }
    const docs = await app.inject('/docs/static/index.html');
    expect(docs.headers['content-security-policy'], '/docs keeps its own').toContain("script-src 'self'");
  });

  it('let pages of configured origins call, and no others', async () => {
    const { app } = await buildApp({ config: { corsOrigins: 'https://class.example, https://lab.example' } });
    const preflight = (origin: string) =>
      app.inject({
        method: 'OPTIONS',
        url: '/verify',
        headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization' },
      });
    expect((await preflight('https://lab.example')).headers['access-control-allow-origin']).toBe('https://lab.example');
    for (const origin of ['https://evil.example', 'null', 'https://lab.example.evil.example', 'http://lab.example']) {
      expect((await preflight(origin)).headers).not.toHaveProperty('access-control-allow-origin');
    }
    expect((await app.inject('/v2/nothing')).statusCode, 'a path of no route has no methods').toBe(404);
    expect((await app.inject('/verify')).headers['allow']).toBe('POST');
    const { app: closed } = await buildApp();
    const answer = await closed.inject({ url: '/health/live', headers: { origin: 'https://lab.example' } });
    expect(answer.headers).not.toHaveProperty('access-control-allow-origin');
  });
});

describe('bodies', () => {
  const nested = (levels: number): string => `{"problem":${'['.repeat(levels)}${']'.repeat(levels)},"solution":"s"}`;
  const send = async (payload: string) => {
    const { app } = await buildApp();
    return app.inject({ method: 'POST', url: '/verify', payload, headers: { 'content-type': 'application/json' } });
  };

  it('are refused above 64 levels, whatever is in their texts', async () => {
    expect((await send(nested(400_000))).json().error).toMatchObject({
      code: 'invalid_value',
      limit: { name: 'json_depth', value: 64 },
    });
    expect((await send(nested(63))).json().error, '64 levels are read').toMatchObject({ param: 'problem' });
    const text = JSON.stringify({ problem: `${'['.repeat(1000)}\\"${'{'.repeat(1000)}`, solution: '\\' });
    expect((await send(text)).statusCode).toBe(200);
  });

  it.each([
    '{"__proto__":{"x":1},"problem":"p","solution":"s"}',
    '{"constructor":{"prototype":{"x":1}},"problem":"p"}',
  ])('cannot reach a prototype: %s', async (payload) => {
    expect((await send(payload)).statusCode).toBe(400);
    expect(({} as { x?: number }).x).toBeUndefined();
  });
});

const paths = [
  '/etc/passwd',
  '../../../../etc/passwd',
  'file:///etc/passwd',
  'http://127.0.0.1:1/model',
  'https://huggingface.co/x',
  'hf:org/name',
  'pypi:package==1.0.0',
  'openai:http://127.0.0.1:1/v1#m',
  './packs/smollm2',
  '\\\\server\\share',
  '/dev/zero',
  'generator/../../etc/passwd',
  'generator\0.gguf',
];

describe('names and texts of a request', () => {
  it('reach neither the file system nor the network', async () => {
    const { app } = await buildApp();
    // everything that is loaded on first use, once
    const first = { model: 'generator', messages: [{ role: 'user', content: 'x' }] };
    await app.inject({ method: 'POST', url: '/v1/chat/completions', payload: first });
    await app.inject({ method: 'POST', url: '/verify', payload: { problem: 'p', solution: 's' } });
    const touched: unknown[] = [];
    const note = (...args: unknown[]): never => {
      touched.push(args[0]);
      throw new Error('touched');
    };
    const spies = [
      ...(['open', 'openSync', 'readFile', 'readFileSync', 'stat', 'statSync', 'createReadStream'] as const).map(
        (name) => vi.spyOn(fs, name).mockImplementation(note as never),
      ),
      ...(['open', 'readFile', 'stat', 'realpath', 'readdir'] as const).map((name) =>
        vi.spyOn(fsPromises, name).mockImplementation(note as never),
      ),
      vi.spyOn(net.Socket.prototype, 'connect').mockImplementation(note as never),
    ];
    syncBuiltinESMExports();
    try {
      // the traps are set: this is seen
      expect(() => readFileSync('/etc/hostname')).toThrow('touched');
      expect(() => readFile('/etc/hostname')).toThrow('touched');
      expect(touched.splice(0)).toHaveLength(2);
      for (const name of paths) {
        const messages = [{ role: 'user', content: name }];
        for (const [url, payload] of [
          ['/v1/chat/completions', { model: name, messages }],
          ['/v1/completions', { model: name, prompt: name }],
          ['/v1/responses', { model: name, input: name }],
          ['/verify', { model: name, problem: name, solution: name }],
          ['/refine', { model: name, problem: name, attempt: name, feedback: name }],
          ['/solve', { problem: name, generator: { model: name }, verifier: { model: name } }],
          ['/tokenize', { model: name, text: name }],
        ] as const) {
          const answer = await app.inject({ method: 'POST', url, payload });
          expect([400, 404], `${url} ${name}`).toContain(answer.statusCode);
        }
        const found = await app.inject(`/v1/models/${encodeURIComponent(name)}`);
        expect([400, 404]).toContain(found.statusCode);
        await app.inject({ method: 'POST', url: '/solve', payload: { problem: name, metadata: { path: name } } });
      }
    } finally {
      for (const spy of spies) spy.mockRestore();
      syncBuiltinESMExports();
    }
    expect(touched).toEqual([]);
  });

  it('are texts where an image or a file may be named: no address is fetched', async () => {
    const { app } = await buildApp();
    const image = { type: 'image_url', image_url: { url: 'http://127.0.0.1:1/x.png' } };
    const payload = { model: 'generator', messages: [{ role: 'user', content: [image] }] };
    const answer = await app.inject({ method: 'POST', url: '/v1/chat/completions', payload });
    expect(answer.statusCode).toBe(400);
  });
});

describe('a key', () => {
  it('sees, follows, cancels and shares its own runs only, and no traces without the scope', async () => {
    const folder = temporaryFolder({ keys: 'a infer one\nb infer two\nc traces three\nd admin,infer four' });
    const database = await openDatabase(path.join(folder, 'runs.db'));
    const store = new SqlRunStore(database);
    const { app, runs } = await buildApp({ keys: loadApiKeys(path.join(folder, 'keys')), store });
    const as = (key: string, method: 'GET' | 'POST' | 'DELETE', url: string, payload?: object) =>
      app.inject({
        method,
        url,
        headers: { authorization: `Bearer ${key}` },
        ...(payload === undefined ? {} : { payload }),
      });
    const body = { problem: 'p', store: true, max_rounds: 1 };
    const { id } = (await as('a', 'POST', '/solve', body)).json();
    expect((await as('a', 'GET', `/solve/${id}`)).statusCode).toBe(200);
    const unknown = (await as('b', 'GET', '/solve/slv_01ARZ3NDEKTSV4RRFFQ69G5FAV')).json();
    for (const [method, url] of [
      ['GET', `/solve/${id}`],
      ['GET', `/solve/${id}/events`],
      ['POST', `/solve/${id}/cancel`],
      ['POST', `/solve/${id}/share`],
      ['DELETE', `/solve/${id}`],
    ] as const) {
      const answer = await as('b', method, url);
      expect([url, answer.statusCode]).toEqual([url, 404]);
      expect(answer.json(), 'as if it did not exist').toEqual(unknown);
    }
    expect((await as('b', 'GET', '/solve')).json().data).toEqual([]);
    expect((await as('a', 'GET', '/solve')).json().data).toHaveLength(1);
    expect((await as('a', 'GET', '/traces')).statusCode).toBe(403);
    expect((await as('c', 'GET', '/traces')).statusCode).toBe(200);
    expect((await as('c', 'POST', '/solve', body)).statusCode).toBe(403);
    expect((await as('d', 'GET', `/solve/${id}`)).statusCode, 'an admin sees all').toBe(200);
    // the same idempotency key of two callers is two keys
    const headers = (key: string) => ({ authorization: `Bearer ${key}`, 'idempotency-key': 'same' });
    const mine = await app.inject({ method: 'POST', url: '/solve', headers: headers('a'), payload: body });
    const theirs = await app.inject({ method: 'POST', url: '/solve', headers: headers('b'), payload: body });
    expect(theirs.json().id).not.toBe(mine.json().id);
    await runs.close(new Error('end') as never);
    await database.destroy();
  });
});
