import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { promisify } from 'node:util';
import { Client } from 'undici';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { StvError } from '../../src/errors.ts';
import type { TraceRecord } from '../../src/stv/traces.ts';
import { collectSse, readSse } from '../support/read-sse.ts';
import { buildApp, closeApp, createApp, listen, type TestApp } from './build-app.ts';
import { call, expectComponent, expectEvent, type ParsedEvent, parseEvents, post } from './contract.ts';

let shared: TestApp;

function numConnections({ server }: TestApp['app']): Promise<number> {
  return promisify(server.getConnections.bind(server))();
}

beforeAll(async () => {
  shared = await createApp();
});

afterAll(() => closeApp(shared));

const verifyBody = { problem: '1 + 1', solution: '1 + 1 = 2' };
const refineBody = { problem: '1 + 1', attempt: '3', feedback: 'Count again.' };
const solveBody = { problem: '1 + 1', max_rounds: 2, seed: 7 };
const accepts = { accept: 'text/event-stream' };

describe('POST /verify', () => {
  it('answers verdict, score, votes and the model by its full name', async () => {
    const answer = await post(shared.app, '/verify', { ...verifyBody, votes: 3, early_stop: false, seed: 5 });
    expect(answer.statusCode, answer.body).toBe(200);
    const body = answer.json();
    expect(body.id).toMatch(/^vrf_[0-9A-HJKMNP-TV-Z]{26}$/);
    expect(body).toMatchObject({
      object: 'verification',
      verdict: 'accept',
      agreement: 1,
      leak: null,
      first_error: null,
    });
    expect(body.model).toBe('test/verifier@sha256:fedcba9876543210');
    expect(body.votes).toHaveLength(3);
    expect(body.raw_score).toBeCloseTo(0.9);
    expect(Math.abs(body.created - Date.now() / 1000)).toBeLessThan(5);
  });

  it('scores in one prefill', async () => {
    const before = shared.engine.requests.length;
    const answer = await post(shared.app, '/verify', { ...verifyBody, mode: 'score' });
    expect(answer.json().usage.completion_tokens).toBe(0);
    expect(shared.engine.requests.length).toBe(before);
  });

  it.each([
    ['stream: true', { ...verifyBody, stream: true }, {}],
    ['Accept', verifyBody, accepts],
  ])('streams by %s; the JSON answer is its terminal event', async (_name, body, headers) => {
    const answer = await post(shared.app, '/verify', body, headers);
    expect(answer.headers['content-type']).toBe('text/event-stream; charset=utf-8');
    expect(answer.headers['cache-control']).toBe('no-store');
    expect(answer.headers['x-accel-buffering']).toBe('no');
    expect(answer.headers['x-request-id']).toMatch(/^req_/);
    const events = parseEvents(answer.body);
    for (const { event, data } of events) expectEvent('verify', event, data);
    const names = events.map(({ event }) => event);
    expect(names).toEqual([
      'verification-start',
      ...Array(3).fill('verification-delta'),
      'vote-end',
      'verification-end',
    ]);
    expect(events.map(({ id }) => Number(id))).toEqual(names.map((_, index) => index + 1));
    expectComponent('Verification', events.at(-1)?.data);
  });

  it('stream: false wins over Accept', async () => {
    const answer = await post(shared.app, '/verify', { ...verifyBody, stream: false }, accepts);
    expect(answer.headers['content-type']).toBe('application/json; charset=utf-8');
  });
});

describe('POST /refine', () => {
  it('answers a new attempt with its final answer', async () => {
    const { app } = await buildApp({ engine: { reply: () => 'It is \\boxed{2}.' } });
    const answer = await post(app, '/refine', refineBody);
    expect(answer.statusCode, answer.body).toBe(200);
    expect(answer.json()).toMatchObject({
      object: 'refinement',
      attempt: 'It is \\boxed{2}.',
      answer: '2',
      finish_reason: 'stop',
    });
  });

  it('takes feedback with its verdict, and streams', async () => {
    const answer = await post(shared.app, '/refine', {
      ...refineBody,
      feedback: { verdict: 'undetermined', text: 'Unclear.' },
      stream: true,
    });
    const events = parseEvents(answer.body);
    for (const { event, data } of events) expectEvent('refine', event, data);
    expect(events.map(({ event }) => event)).toEqual([
      'refinement-start',
      ...Array(3).fill('attempt-delta'),
      'refinement-end',
    ]);
  });

  it('reports length where the budget ended the text', async () => {
    const answer = await post(shared.app, '/refine', { ...refineBody, max_tokens: 2 });
    expect(answer.json()).toMatchObject({ finish_reason: 'length', attempt: 'one two' });
  });
});

describe('POST /solve', () => {
  it('answers the accepted solution with its rounds', async () => {
    const answer = await post(shared.app, '/solve', { ...solveBody, metadata: { studentId: 'a', snake_case: 'b' } });
    expect(answer.statusCode, answer.body).toBe(200);
    const body = answer.json();
    expect(body).toMatchObject({
      object: 'solve',
      status: 'accepted',
      stop_reason: 'accepted',
      solution: 'one two three',
      seed: 7,
    });
    expect(body.id).toMatch(/^slv_/);
    expect(body.metadata, 'the caller keeps his own spelling').toEqual({ studentId: 'a', snake_case: 'b' });
    const { generator, verifier, total_tokens } = body.usage;
    expect(total_tokens).toBe(generator.total_tokens + verifier.total_tokens);
  });

  it('goes on to max_rounds when nothing is accepted, and keeps the best attempt', async () => {
    const { app } = await buildApp({ engine: { accept: () => 0.2 } });
    const body = (await post(app, '/solve', { ...solveBody, chains: 2 })).json();
    expect(body).toMatchObject({ status: 'exhausted', stop_reason: 'max_rounds', solution: 'one two three' });
    expect(body.chains.map((chain: { rounds: unknown[] }) => chain.rounds.length)).toEqual([3, 3]);
  });

  it('streams events whose fold is the JSON answer', async () => {
    const answer = await post(shared.app, '/solve', { ...solveBody, stream: true });
    const events = parseEvents(answer.body);
    for (const { event, data } of events) {
      expectEvent('solve', event, data);
      expect((data as { solve_id: string }).solve_id).toMatch(/^slv_/);
    }
    expect(events.map(({ id }) => Number(id))).toEqual(events.map((_, index) => index + 1));
    expect(events[0]?.event).toBe('solve-start');
    expect(events.filter(({ event }) => event === 'solve-end' || event === 'error')).toEqual([events.at(-1)]);
    const { solve_id, ...end } = (events.at(-1) as ParsedEvent).data as { solve_id: string };
    expectComponent('Solve', end);
    const json = (await post(shared.app, '/solve', solveBody)).json();
    const comparable = (answered: Record<string, unknown>): unknown =>
      JSON.parse(JSON.stringify(answered, (key, value) => (/^(id|created|timings)$/.test(key) ? undefined : value)));
    expect(comparable(end)).toEqual(comparable(json));
  });

  it('begins with the attempt of the caller', async () => {
    const body = (await post(shared.app, '/solve', { ...solveBody, initial_attempt: 'It is 2.' })).json();
    expect(body.solution).toBe('It is 2.');
    expect(body.usage.generator.completion_tokens).toBe(0);
  });

  it('never shows the label to a model', async () => {
    const { app, engine } = await buildApp();
    await post(app, '/solve', { ...solveBody, label: { reference: 'SECRET-REFERENCE', answer: 'SECRET-ANSWER' } });
    expect(JSON.stringify([engine.requests, engine.scores])).not.toContain('SECRET');
  });
});

describe('failures', () => {
  const failing = (error: StvError) => ({
    engine: {
      reply: () => {
        throw error;
      },
    },
  });

  it.each([
    ['queue_full', 429, 'rate_limit_error', 'true'],
    ['context_length_exceeded', 400, 'invalid_request_error', undefined],
    ['engine_crashed', 503, 'overloaded_error', 'true'],
    ['deadline_exceeded', 504, 'timeout_error', 'false'],
    ['internal', 500, 'server_error', undefined],
  ] as const)('%s is %i on every route, before anything has been sent', async (code, status, type, shouldRetry) => {
    const { app } = await buildApp(failing(new StvError(code, 'The private text failed.', { retryAfterMs: 2500 })));
    for (const [url, body] of [
      ['/verify', verifyBody],
      ['/verify', { ...verifyBody, stream: true }],
      ['/refine', refineBody],
      ['/refine', { ...refineBody, stream: true }],
      ['/solve', solveBody],
      ['/solve', { ...solveBody, stream: true }],
      ['/v1/chat/completions', { model: 'solve', stream: true, messages: [{ role: 'user', content: 'x' }] }],
      ['/v1/chat/completions', { model: 'generator', messages: [{ role: 'user', content: 'x' }] }],
      ['/v1/chat/completions', { model: 'generator', stream: true, messages: [{ role: 'user', content: 'x' }] }],
      ['/v1/chat/completions', { model: 'solve', messages: [{ role: 'user', content: 'x' }] }],
      ['/v1/completions', { model: 'generator', prompt: 'x' }],
    ] as const) {
      const answer = await post(app, url, body);
      expect(answer.statusCode, `${url} ${answer.body}`).toBe(status);
      expect(answer.json().error).toMatchObject({ type, code });
      expect(answer.headers['x-should-retry'], url).toBe(shouldRetry);
      if (status === 500) {
        expect(answer.body, 'a defect never carries text').not.toContain('private');
        expect(answer.json().error.message).toContain(answer.headers['x-request-id']);
      }
      if (status === 429) {
        expect(answer.headers['retry-after']).toBe('3');
        expect(answer.headers['retry-after-ms']).toBe('2500');
      }
    }
  });

  it('a failure after solve-start ends the stream with solve-end and its error', async () => {
    const onWord = (_: unknown, numWords: number): void => {
      if (numWords > 0) throw new StvError('engine_crashed', 'The engine was restarted.');
    };
    const { app } = await buildApp({ engine: { onWord } });
    const events = parseEvents((await post(app, '/solve', { ...solveBody, stream: true })).body);
    expect(events.at(-1)?.event).toBe('solve-end');
    const end = events.at(-1)?.data as { status: string; error: object };
    expect(end).toMatchObject({ status: 'failed', stop_reason: 'engine_error' });
    expectComponent('ErrorObject', end.error);
    expect(end.error).toMatchObject({ type: 'overloaded_error', code: 'engine_crashed' });
  });

  it.each([true, false])(
    'a run whose first verification is refused is 429 (stream: %s), also for its own attempt',
    async (stream) => {
      const refuse = (): never => {
        throw new StvError('queue_full', 'Busy.', { retryAfterMs: 7100 });
      };
      const { app } = await buildApp({ engine: { reply: refuse } });
      const answer = await post(app, '/solve', { ...solveBody, initial_attempt: 'x = 1', stream });
      expect(answer.statusCode, answer.body).toBe(429);
      expect(answer.headers['retry-after']).toBe('8');
      expect(answer.json().error.code).toBe('queue_full');
    },
  );

  it('with a full queue nothing is prepared: 429 before a prompt is counted, on every route of the loop', async () => {
    const checkRoom = (): never => {
      throw new StvError('queue_full', 'Busy.', { retryAfterMs: 7100 });
    };
    const { app, engine } = await buildApp({ engine: { checkRoom } });
    for (const [url, body] of [
      ['/verify', verifyBody],
      ['/verify', { ...verifyBody, mode: 'score' }],
      ['/refine', refineBody],
      ['/solve', solveBody],
      ['/solve', { ...solveBody, initial_attempt: 'x = 1' }],
    ] as const) {
      for (const stream of [false, true]) {
        const answer = await post(app, url, { ...body, stream });
        expect(answer.statusCode, answer.body).toBe(429);
        expect(answer.headers['retry-after']).toBe('8');
      }
    }
    expect(engine.numCounts).toBe(0);
    expect(engine.requests).toEqual([]);
  });

  it('a refusal does not answer the retry with its Idempotency-Key', async () => {
    let isFull = true;
    const reply = (): string => {
      if (isFull) throw new StvError('queue_full', 'Busy.');
      return 'one';
    };
    const { app } = await buildApp({ engine: { reply } });
    const key = { 'idempotency-key': 'again' };
    expect((await post(app, '/solve', { ...solveBody, stream: true }, key)).statusCode).toBe(429);
    isFull = false;
    expect((await post(app, '/solve', { ...solveBody, stream: true }, key)).statusCode).toBe(200);
  });

  it('a run that waits longer than a moment shows its beginning, and how it ends', async () => {
    let fail = (_: Error): void => {};
    const { app, engine } = await buildApp();
    vi.spyOn(engine, 'generate').mockImplementation(async function* () {
      await new Promise((_, reject) => {
        fail = reject;
      });
      yield* [];
    });
    const address = await listen(app);
    const answer = await fetch(`${address}/solve`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...solveBody, stream: true }),
    });
    expect(answer.status).toBe(200);
    fail(new StvError('engine_crashed', 'The engine was restarted.'));
    const events = parseEvents(await answer.text());
    expect(events.map(({ event }) => event)).toEqual([
      'solve-start',
      'round-start',
      'attempt-start',
      'round-end',
      'solve-end',
    ]);
  });

  it('keeps what was found before the failure', async () => {
    let calls = 0;
    const { app } = await buildApp({
      engine: {
        accept: () => 0.2,
        reply: () => {
          calls += 1;
          if (calls > 2) throw new StvError('engine_crashed', 'The engine was restarted.');
          return 'first attempt';
        },
      },
    });
    const answer = await post(app, '/solve', solveBody);
    expect(answer.statusCode).toBe(200);
    expect(answer.json()).toMatchObject({
      status: 'failed',
      solution: 'first attempt',
      error: { code: 'engine_crashed' },
    });
  });

  it('a failure in mid-stream of /verify is the terminal event error', async () => {
    const { app } = await buildApp({
      engine: {
        accept: () => {
          throw new StvError('engine_crashed', 'Gone.');
        },
      },
    });
    const events = parseEvents((await post(app, '/verify', { ...verifyBody, stream: true })).body);
    expect(events.at(-1)?.event).toBe('error');
    expectEvent('verify', 'error', events.at(-1)?.data);
    expect(events.filter(({ event }) => event === 'error' || event === 'verification-end')).toHaveLength(1);
    expect((await app.inject('/metrics')).body).toContain('stv_errors_total{code="engine_crashed"} 1');
  });

  it('before the models are loaded every route says so', async () => {
    const { app, serving } = await buildApp({ ready: false });
    serving.loading('Converting weights.');
    const answer = await post(app, '/verify', verifyBody);
    expect(answer.statusCode).toBe(503);
    expect(answer.headers['retry-after']).toBe('5');
    expect(answer.json().error).toMatchObject({ type: 'overloaded_error', code: 'not_ready' });
    expect(answer.json().error.message).toContain('Converting weights.');
  });
});

describe('a client that hangs up', () => {
  const slow = { engine: { reply: () => 'word '.repeat(500), delayMs: 5 } };

  it.each([
    ['/verify', { ...verifyBody, max_tokens: 500 }],
    ['/verify', { ...verifyBody, max_tokens: 500, votes: 4 }],
    ['/refine', { ...refineBody, max_tokens: 500 }],
    ['/solve', { ...solveBody, chains: 3, generator: { max_tokens: 500 } }],
    ['/v1/chat/completions', { model: 'generator', max_tokens: 500, n: 2, messages: [{ role: 'user', content: 'x' }] }],
    ['/v1/chat/completions', { model: 'solve', max_tokens: 500, messages: [{ role: 'user', content: 'x' }] }],
    ['/v1/completions', { model: 'generator', max_tokens: 500, prompt: ['x', 'y'] }],
  ] as const)('%s %j: everything it began is aborted, streaming or not', async (url, body) => {
    const { app, engine, runs } = await buildApp(slow);
    const address = await listen(app);
    for (const stream of [false, true]) {
      const before = engine.requests.length;
      const request = httpRequest(`${address}${url}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
      });
      request.on('error', () => {});
      request.end(JSON.stringify({ ...body, stream }));
      await vi.waitFor(() => expect(engine.numOpen).toBeGreaterThan(0), { timeout: 5000 });
      await new Promise((resolve) => setTimeout(resolve, 30));
      request.destroy();
      await vi.waitFor(() => expect(engine.numOpen).toBe(0), { timeout: 5000 });
      expect(engine.requests.length).toBeGreaterThan(before);
      await vi.waitFor(() => expect(runs.numLive).toBe(0), { timeout: 5000 });
    }
    expect(engine.aborted.length).toBeGreaterThanOrEqual(2);
  });

  it('hanging up while the body is still on its way starts nothing', async () => {
    const { app, engine } = await buildApp();
    const address = await listen(app);
    const request = httpRequest(`${address}/verify`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'content-length': '1000' },
    });
    request.on('error', () => {});
    request.write('{"problem": "p"');
    await once(request, 'socket');
    await new Promise((resolve) => setTimeout(resolve, 50));
    request.destroy();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(engine.requests).toHaveLength(0);
    expect((await call(app, { url: '/health/live' })).statusCode).toBe(200);
  });
});

describe('over a socket', () => {
  it('undici reads the events of a run as they come', async () => {
    const { app } = await buildApp({ engine: { delayMs: 20 } });
    const client = new Client(await listen(app));
    const answer = await client.request({
      method: 'POST',
      path: '/solve',
      headers: { 'content-type': 'application/json', ...accepts },
      body: JSON.stringify(solveBody),
    });
    const arrivals: number[] = [];
    const names: (string | undefined)[] = [];
    for await (const { event } of readSse(answer.body)) {
      arrivals.push(performance.now());
      names.push(event);
    }
    await client.close();
    expect(names[0]).toBe('solve-start');
    expect(names.at(-1)).toBe('solve-end');
    // six deltas of 20 ms each: they cannot have come in one piece
    expect((arrivals.at(-1) as number) - (arrivals[0] as number)).toBeGreaterThan(60);
  });

  it('each event is one write', async () => {
    const { app } = await buildApp({ engine: { delayMs: 10 } });
    const answer = await fetch(`${await listen(app)}/verify`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...accepts },
      body: JSON.stringify(verifyBody),
    });
    const decoder = new TextDecoder();
    for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) {
      expect(decoder.decode(chunk)).toMatch(/\n\n$/);
    }
  });

  it('sends headers and heartbeats while nothing else comes', async () => {
    const { app } = await buildApp({ engine: { delayMs: 300 }, config: { heartbeatMs: 40 } });
    const answer = await fetch(`${await listen(app)}/verify`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...accepts },
      body: JSON.stringify(verifyBody),
    });
    const text = await answer.text();
    expect(text.split(': keep-alive\n\n').length).toBeGreaterThan(5);
    expect(parseEvents(text).at(-1)?.event).toBe('verification-end');
  });

  it('cuts off a reader that takes nothing, and frees what it held', async () => {
    const { app, engine } = await buildApp({
      engine: { reply: () => `${'x'.repeat(20_000)} `.repeat(2000) },
      config: { slowReaderMs: 150, maxOutputTokens: 8192 },
    });
    const request = httpRequest(`${await listen(app)}/refine`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...accepts },
    });
    request.on('error', () => {});
    request.end(JSON.stringify({ ...refineBody, max_tokens: 2000 }));
    const [response] = await once(request, 'response');
    response.on('error', () => {});
    response.pause();
    await vi.waitFor(() => expect(engine.numOpen).toBe(0), { timeout: 8000 });
    request.destroy();
  });

  it.each([
    ['a JSON answer', { method: 'POST', path: '/refine' }, { ...refineBody, max_tokens: 2000 }],
    ['traces', { method: 'GET', path: '/traces' }, undefined],
  ])('cuts off a reader that takes nothing of %s', async (_name, target, body) => {
    const { app, runs } = await buildApp({
      engine: { reply: () => `${'x'.repeat(20_000)} `.repeat(2000) },
      config: { slowReaderMs: 150, maxOutputTokens: 8192 },
    });
    const trace = { traceId: 't', problem: 'x'.repeat(1_000_000) } as TraceRecord;
    vi.spyOn(runs, 'traces').mockResolvedValue(Array(50).fill(trace));
    const { port } = new URL(await listen(app));
    const request = httpRequest({
      ...target,
      host: '127.0.0.1',
      port,
      headers: { 'content-type': 'application/json' },
    });
    request.on('error', () => {});
    request.end(body === undefined ? undefined : JSON.stringify(body));
    const [response] = await once(request, 'response');
    response.on('error', () => {});
    response.pause();
    await vi.waitFor(async () => expect(await numConnections(app)).toBe(0), { timeout: 8000 });
    request.destroy();
  });

  it('keeps the connection of a reader that only waits, for an answer or between two', async () => {
    const { app } = await buildApp({ engine: { delayMs: 150 }, config: { slowReaderMs: 100, keepAliveTimeoutMs: 0 } });
    const client = new Client(await listen(app));
    const ask = async (): Promise<number> => {
      const answer = await client.request({
        method: 'POST',
        path: '/refine',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(refineBody),
      });
      await answer.body.dump();
      return answer.statusCode;
    };
    let connections = 0;
    app.server.on('connection', () => {
      connections += 1;
    });
    expect(await ask()).toBe(200);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(await ask()).toBe(200);
    expect(connections).toBe(1);
    await client.close();
  });

  it('collects a whole stream with a standard parser', async () => {
    const { app } = await buildApp();
    const answer = await fetch(`${await listen(app)}/solve`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...solveBody, stream: true, problem: 'line one\r\nline two\u2028 end' }),
    });
    const events = await collectSse(answer.body as unknown as AsyncIterable<Uint8Array>);
    expect(events[0]).toMatchObject({ data: { problem: 'line one\r\nline two\u2028 end' } });
  });
});
