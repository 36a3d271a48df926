import { once } from 'node:events';
import { connect } from 'node:net';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildApp, closeApp, createApp, listen, type TestApp } from './build-app.ts';
import { call, expectComponent, post } from './contract.ts';

let shared: TestApp;

beforeAll(async () => {
  shared = await createApp();
});

afterAll(() => closeApp(shared));

const verify = { problem: 'p', solution: 's' };
const chat = { model: 'generator', messages: [{ role: 'user', content: 'hi' }] };

/** The words are those that the message must hold. */
type Refused = [url: string, payload: object, param: string, code: string, ...words: string[]];

const refused: Refused[] = [
  ['/verify', { problem: 'p' }, 'solution', 'invalid_value', 'required'],
  ['/verify', { ...verify, problem: 7 }, 'problem', 'invalid_value', 'a string', '7'],
  ['/verify', { ...verify, problem: null }, 'problem', 'invalid_value', 'null'],
  ['/verify', { ...verify, problem: '' }, 'problem', 'invalid_value', 'at least 1', 'got 0'],
  ['/verify', { ...verify, solution: 'x'.repeat(65_537) }, 'solution', 'invalid_value', '65536', '65537'],
  ['/verify', { ...verify, votes: 65 }, 'votes', 'invalid_value', 'at most 64', '65'],
  ['/verify', { ...verify, votes: 0 }, 'votes', 'invalid_value', 'at least 1', '0'],
  ['/verify', { ...verify, votes: '3' }, 'votes', 'invalid_value', 'an integer', '"3"'],
  ['/verify', { ...verify, votes: 1.5 }, 'votes', 'invalid_value', 'an integer', '1.5'],
  ['/verify', { ...verify, votes: 2, mode: 'score' }, 'votes', 'invalid_value', '`score`', '2'],
  ['/verify', { ...verify, mode: 'fast' }, 'mode', 'invalid_value', '"full", "score"', '"fast"'],
  ['/verify', { ...verify, temperature: 2.1 }, 'temperature', 'invalid_value', 'at most 2', '2.1'],
  ['/verify', { ...verify, max_tokens: 8193 }, 'max_tokens', 'invalid_value', '8192', '8193'],
  ['/verify', { ...verify, top_p: 0 }, 'top_p', 'invalid_value', 'more than 0', '0'],
  ['/verify', { ...verify, seed: -1 }, 'seed', 'invalid_value', 'at least 0', '-1'],
  ['/verify', { ...verify, early_stop: 'yes' }, 'early_stop', 'invalid_value', 'a boolean'],
  ['/verify', { ...verify, temprature: 1 }, 'temprature', 'unknown_field', '`temprature`', 'temperature'],
  ['/refine', { problem: 'p', attempt: 'a' }, 'feedback', 'invalid_value', 'required'],
  ['/refine', { problem: 'p', attempt: 'a', feedback: 7 }, 'feedback', 'invalid_value', '{verdict, text}', '7'],
  [
    '/refine',
    { problem: 'p', attempt: 'a', feedback: { verdict: 'no', text: 't' } },
    'feedback.verdict',
    'invalid_value',
    '"no"',
  ],
  [
    '/refine',
    { problem: 'p', attempt: 'a', feedback: { verdict: 'reject' } },
    'feedback.text',
    'invalid_value',
    'required',
  ],
  ['/solve', { problem: 'p', max_rounds: 101 }, 'max_rounds', 'invalid_value', 'at most 100', '101'],
  ['/solve', { problem: 'p', chains: 65 }, 'chains', 'invalid_value', 'at most 64'],
  ['/solve', { problem: 'p', accept: { rule: 'votes', k: 70, n: 3 } }, 'accept.k', 'invalid_value', 'at most 64', '70'],
  [
    '/solve',
    { problem: 'p', accept: { rule: 'votes', k: 4, n: 3 } },
    'accept.k',
    'invalid_value',
    '`accept.n`',
    '4 of 3',
  ],
  ['/solve', { problem: 'p', accept: { rule: 'consecutive' } }, 'accept.k', 'invalid_value', 'required'],
  ['/solve', { problem: 'p', accept: { rule: 'best' } }, 'accept', 'invalid_value', '"consecutive"'],
  ['/solve', { problem: 'p', accept: { rule: 'single', k: 3 } }, 'accept.k', 'unknown_field'],
  [
    '/solve',
    { problem: 'p', accept: { rule: 'votes', k: 3, n: 5 }, chains: 64 },
    'chains',
    'invalid_value',
    '256',
    '5 x 64 = 320',
  ],
  ['/solve', { problem: 'p', budget: { tokens: 0 } }, 'budget.tokens', 'invalid_value', 'at least 1'],
  ['/solve', { problem: 'p', generator: { modle: 'x' } }, 'generator.modle', 'unknown_field'],
  ['/solve', { problem: 'p', metadata: { k: 'v'.repeat(513) } }, 'metadata.k', 'invalid_value', '512', '513'],
  [
    '/solve',
    { problem: 'p', metadata: { ['k'.repeat(65)]: 'v' } },
    'metadata',
    'invalid_value',
    'at most 64',
    'got 65',
  ],
  ['/solve', { problem: 'p', metadata: { '': 'v' } }, 'metadata', 'invalid_value', 'a key', 'at least 1', 'got 0'],
  [
    '/solve',
    { problem: 'p', metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, 'v'])) },
    'metadata',
    'invalid_value',
    '16',
    '17',
  ],
  ['/solve', { problem: 'p', store: true }, 'store', 'unsupported_parameter', 'run store'],
  ['/solve', { problem: 'p', background: true }, 'store', 'unsupported_parameter', 'run store'],
  ['/tokenize', { model: 'generator', text: 'a', x: 1 }, 'x', 'unknown_field'],
  ['/detokenize', { model: 'generator', tokens: [-1] }, 'tokens.0', 'invalid_value'],
  ['/v1/chat/completions', { messages: chat.messages }, 'model', 'invalid_value', 'required'],
  ['/v1/chat/completions', { ...chat, messages: [] }, 'messages', 'invalid_value', 'at least 1'],
  [
    '/v1/chat/completions',
    { ...chat, messages: [{ role: 'robot', content: 'x' }] },
    'messages.0.role',
    'invalid_value',
  ],
  ['/v1/chat/completions', { ...chat, n: 17 }, 'n', 'invalid_value', '16', '17'],
  ['/v1/chat/completions', { ...chat, tools: [{ type: 'function' }] }, 'tools', 'unsupported_parameter'],
  [
    '/v1/chat/completions',
    { ...chat, response_format: { type: 'json_object' } },
    'response_format',
    'unsupported_parameter',
  ],
  [
    '/v1/chat/completions',
    { ...chat, messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
    'messages.0.content.0',
    'unsupported_parameter',
  ],
  [
    '/v1/chat/completions',
    { ...chat, messages: [{ role: 'tool', content: 'x' }] },
    'messages.0.role',
    'unsupported_parameter',
  ],
  ['/v1/chat/completions', { ...chat, logit_bias: { a: 1 } }, 'logit_bias', 'invalid_value', 'a key', '[0-9]', '"a"'],
  [
    '/v1/chat/completions',
    { ...chat, logit_bias: { ['7'.repeat(40)]: 1 } },
    'logit_bias',
    'invalid_value',
    '40 UTF-16',
  ],
  ['/v1/responses', { model: 'generator', input: 'x', logit_bias: { a: 1 } }, 'logit_bias', 'invalid_value'],
  ['/v1/responses', { model: 'generator', input: 'x', logit_bias: { 7: '1' } }, 'logit_bias.7', 'invalid_value'],
  ['/v1/responses', { model: 'generator', input: 'x', repetition_penalty: '2' }, 'repetition_penalty', 'invalid_value'],
  ['/v1/chat/completions', { ...chat, model: 'solve', n: 2 }, 'n', 'unsupported_parameter'],
  ['/v1/chat/completions', { ...chat, model: 'solve', x_solve: { rounds: 2 } }, 'x_solve.rounds', 'unknown_field'],
  [
    '/v1/chat/completions',
    { ...chat, model: 'solve', x_solve: { accept: { rule: 'votes', k: 4, n: 3 } } },
    'x_solve.accept.k',
    'invalid_value',
    '`x_solve.accept.k`',
    '`x_solve.accept.n`',
  ],
  [
    '/v1/responses',
    { model: 'solve', input: 'x', x_solve: { store: true } },
    'x_solve.store',
    'unsupported_parameter',
    'run store',
  ],
  ['/v1/completions', { model: 'generator', prompt: 'x', best_of: 2 }, 'best_of', 'unsupported_parameter'],
  ['/v1/completions', { model: 'generator', prompt: 'x', suffix: 'y' }, 'suffix', 'unsupported_parameter'],
  [
    '/v1/completions',
    { model: 'generator', prompt: Array.from({ length: 20 }, () => 'x'), n: 16 },
    'n',
    'invalid_value',
    '256',
    '320',
  ],
  ['/v1/completions', { model: 'solve', prompt: 'x' }, 'model', 'unsupported_parameter'],
];

describe('values and fields', () => {
  it.each(refused)('%s %j: 400 for %s', async (url, payload, param, code, ...words) => {
    const { app, engine } = shared;
    const before = engine.requests.length;
    const answer = await post(app, url, payload);
    expect(answer.statusCode, answer.body).toBe(400);
    const { error } = answer.json<{ error: { message: string; type: string; code: string; param: string | null } }>();
    expect({ param: error.param, code: error.code, type: error.type }).toEqual({
      param,
      code,
      type: 'invalid_request_error',
    });
    for (const word of words) expect(error.message).toContain(word);
    expect(engine.requests.length, 'nothing may reach the engine').toBe(before);
  });

  it('never repeats a long text of the user', async () => {
    const { app } = shared;
    const secret = 'my private solution '.repeat(10);
    const answer = await post(app, '/verify', { ...verify, mode: secret });
    expect(answer.statusCode).toBe(400);
    expect(answer.body).not.toContain('private');
    expect(answer.body).toContain('200 UTF-16 units');
  });

  it('counts texts in UTF-16 units', async () => {
    const { app } = await buildApp({ config: { maxTextLength: 10 } });
    // five astral characters are ten units
    expect((await post(app, '/verify', { problem: '\u{1D465}'.repeat(5), solution: 's' })).statusCode).toBe(200);
    expect((await post(app, '/verify', { problem: `${'\u{1D465}'.repeat(5)}x`, solution: 's' })).statusCode).toBe(400);
  });

  it('ignores unknown fields on /v1 and takes null for absent', async () => {
    const { app } = shared;
    const answer = await post(app, '/v1/chat/completions', {
      ...chat,
      user: 'u',
      vendor_field: { a: 1 },
      stop: null,
      tools: null,
      response_format: { type: 'text' },
      tool_choice: 'none',
      logit_bias: null,
      seed: null,
    });
    expect(answer.statusCode).toBe(200);
  });

  it.each(['/verify', '/v1/chat/completions', '/v1/completions', '/tokenize', '/refine', '/solve'])(
    '%s: a model that does not exist is 404',
    async (url) => {
      const { app } = shared;
      const bodies: Record<string, object> = {
        '/verify': { ...verify, model: 'nope' },
        '/refine': { problem: 'p', attempt: 'a', feedback: 'f', model: 'nope' },
        '/solve': { problem: 'p', generator: { model: 'nope' } },
        '/tokenize': { model: 'nope', text: 't' },
        '/v1/completions': { model: 'nope', prompt: 't' },
        '/v1/chat/completions': { ...chat, model: 'nope' },
      };
      const answer = await post(app, url, bodies[url] as object);
      expect(answer.statusCode, answer.body).toBe(404);
      expect(answer.json().error.code).toBe('model_not_found');
    },
  );

  it.each([
    ['/v1/chat/completions', chat],
    ['/v1/responses', { input: 'x' }],
  ])('%s: names a model of `x_solve` that does not exist', async (url, body) => {
    const answer = await post(shared.app, url, { ...body, model: 'solve', x_solve: { generator: { model: 'nope' } } });
    expect(answer.statusCode, answer.body).toBe(404);
    expect(answer.json().error).toMatchObject({ code: 'model_not_found', param: 'x_solve.generator.model' });
    expect(answer.json().error.message).toContain('`x_solve.generator.model`');
  });
});

describe('requests that are no JSON of ours', () => {
  it.each([
    ['broken JSON', '{"problem": "secret', 'application/json', 400, 'invalid_json'],
    ['an empty body', '', 'application/json', 400, 'invalid_json'],
    ['a JSON array', '[]', 'application/json', 400, 'invalid_value'],
    ['a JSON string', '"secret"', 'application/json', 400, 'invalid_value'],
    ['forbidden keys', '{"__proto__": {"secret": 1}, "problem": "p"}', 'application/json', 400, 'invalid_value'],
    ['forbidden keys', '{"a": [{"constructor": {"prototype": 1}}]}', 'application/json', 400, 'invalid_value'],
    ['another content type', 'problem=p', 'application/x-www-form-urlencoded', 415, 'unsupported_media_type'],
    ['plain text', '{}', 'text/plain', 415, 'unsupported_media_type'],
    ['too much', JSON.stringify({ problem: 'x'.repeat(1_048_577) }), 'application/json', 413, 'body_too_large'],
  ] as const)('%s', async (_name, payload, contentType, status, code) => {
    const { app } = shared;
    const answer = await call(app, {
      method: 'POST',
      url: '/verify',
      payload,
      headers: { 'content-type': contentType },
    });
    expect(answer.statusCode, answer.body).toBe(status);
    const { error } = answer.json();
    expect(error.type).toBe('invalid_request_error');
    expect(error.code).toBe(code);
    expect(answer.body).not.toContain('secret');
    if (_name === 'forbidden keys') expect(error.message).toMatch(/`__proto__`.*not allowed|neither is allowed/);
    if (status === 413) {
      expect(error.message).toContain('1048576');
      expect(answer.headers['x-should-retry']).toBe('false');
    }
    // and the server keeps serving
    expect((await post(app, '/verify', verify)).statusCode).toBe(200);
  });

  it('a missing content type is 415', async () => {
    const { app } = shared;
    const answer = await app.inject({ method: 'POST', url: '/verify', body: Buffer.from('{}') });
    expect(answer.statusCode).toBe(415);
    expectComponent('Error', answer.json());
  });
});

/** Sends raw bytes and reads until the server closes. */
async function exchange(url: string, bytes: string): Promise<string> {
  const { port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), '127.0.0.1', () => socket.write(bytes));
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (part) => {
      text += part;
    });
    socket.on('close', () => resolve(text));
    socket.on('error', reject);
  });
}

function bodyOf(answer: string): unknown {
  return JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4));
}

describe('routes and methods', () => {
  it('an unknown route is 404', async () => {
    const { app } = shared;
    const answer = await call(app, { url: '/v2/nothing' });
    expect(answer.statusCode).toBe(404);
    expect(answer.json().error).toMatchObject({ type: 'not_found_error', code: 'not_found' });
  });

  it.each([
    ['GET', '/verify', 'POST'],
    ['PUT', '/solve', 'POST, GET, HEAD'],
    ['POST', '/solve/slv_x', 'GET, HEAD, DELETE'],
    ['DELETE', '/v1/models', 'GET, HEAD'],
    ['POST', '/health/live', 'GET, HEAD'],
  ] as const)('%s %s is 405', async (method, url, allow) => {
    const { app } = shared;
    const answer = await app.inject({ method, url });
    expect(answer.statusCode).toBe(405);
    expect(answer.headers['allow']).toBe(allow);
    expectComponent('Error', answer.json());
    expect(answer.json().error.code).toBe('method_not_allowed');
  });

  it.each([
    '/docs/static/..%2f..%2f..%2fpackage.json',
    '/docs/static/%2e%2e/%2e%2e/package.json',
    '/docs/static/../../package.json',
    '/docs/static/nothing',
    '/docs/static/.hidden',
    '/docs/static/%00',
  ])('%s, a file that is not there, is 404', async (target) => {
    const { app } = await buildApp();
    const url = await listen(app);
    for (const method of ['GET', 'HEAD']) {
      const bytes = `${method} ${target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n`;
      const answer = await exchange(url, bytes);
      expect(answer).toMatch(/^HTTP\/1.1 404 /);
      expect(answer).not.toMatch(/^allow:/im);
      if (method === 'HEAD') continue;
      expect(bodyOf(answer)).toMatchObject({ error: { type: 'not_found_error', code: 'not_found' } });
    }
  });

  it('a path that cannot be decoded is 400', async () => {
    const { app } = shared;
    const answer = await app.inject({ url: '/v1/models/%E0%A4%A' });
    expect(answer.statusCode).toBe(400);
    expectComponent('Error', answer.json());
  });
});

describe('below HTTP', () => {
  it('headers that are too large are 431', async () => {
    const { app } = await buildApp({ config: { maxHeaderBytes: 2048 } });
    const answer = await exchange(
      await listen(app),
      `GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ${'x'.repeat(4000)}\r\n\r\n`,
    );
    expect(answer).toMatch(/^HTTP\/1.1 431 /);
    expectComponent('Error', bodyOf(answer));
  });

  it('a body that comes too slowly is 408', async () => {
    const { app } = await buildApp({ config: { requestTimeoutMs: 200 } });
    const answer = await exchange(
      await listen(app),
      'POST /verify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"prob',
    );
    expect(answer).toMatch(/^HTTP\/1.1 408 /);
    expectComponent('Error', bodyOf(answer));
  });

  it('a body that comes too slowly behind an answer that nobody reads ends the connection', async () => {
    const { app } = await buildApp({
      engine: { reply: () => 'x'.repeat(40_000_000) },
      config: { requestTimeoutMs: 200 },
    });
    const body = JSON.stringify({ problem: 'p', attempt: 'a', feedback: 'f' });
    const head = 'Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length:';
    const socket = connect(Number(new URL(await listen(app)).port), '127.0.0.1');
    socket.on('error', () => {});
    socket.pause();
    socket.write(`POST /refine HTTP/1.1\r\n${head} ${body.length}\r\n\r\n${body}GET /health/live HTTP/1.1\r\nHo`);
    await once(app.server, 'connection');
    const numConnections = promisify(app.server.getConnections.bind(app.server));
    await expect.poll(numConnections, { timeout: 8000 }).toBe(0);
    socket.destroy();
  });

  it('a request without the header Host is 400', async () => {
    const { app } = await buildApp();
    const url = await listen(app);
    const answer = await exchange(url, 'GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n');
    expect(answer).toMatch(/^HTTP\/1.1 400 /);
    expectComponent('Error', bodyOf(answer));
    expect(bodyOf(answer)).toMatchObject({ error: { code: 'invalid_value', param: 'Host' } });
  });

  it('an expectation that nobody can meet is 417, and that of a body is met', async () => {
    const { app } = await buildApp();
    const url = await listen(app);
    const head = 'Host: 127.0.0.1\r\nConnection: close\r\n';
    const answer = await exchange(url, `GET /health/live HTTP/1.1\r\n${head}Expect: foo\r\n\r\n`);
    expect(answer).toMatch(/^HTTP\/1.1 417 /);
    expectComponent('Error', bodyOf(answer));
    expect(bodyOf(answer)).toMatchObject({ error: { code: 'expectation_failed', param: 'Expect' } });
    const text = JSON.stringify(verify);
    const post = `POST /verify HTTP/1.1\r\n${head}Content-Type: application/json\r\nContent-Length: ${text.length}\r\n`;
    expect(await exchange(url, `${post}Expect: 100-continue\r\n\r\n${text}`)).toMatch(
      /^HTTP\/1.1 100 [\s\S]*HTTP\/1.1 200 /,
    );
  });

  it('bytes that are no HTTP are 400', async () => {
    const { app } = await buildApp();
    const answer = await exchange(await listen(app), 'this is not HTTP\r\n\r\n');
    expect(answer).toMatch(/^HTTP\/1.1 400 /);
    expectComponent('Error', bodyOf(answer));
  });
});
