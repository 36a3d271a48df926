import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { createClient, type SolveEvent, StvApiError, StvConnectionError } from '../../../src/client/client.ts';
import { answer, frame, misbehave, openStream, refuse, runEvents } from './misbehaving-server.ts';

const problem = '1 + 1';
const overloaded = { message: 'The queue is full.', type: 'rate_limit_error', code: 'queue_full', param: null };

async function collect<E>(events: AsyncIterable<E>): Promise<E[]> {
  const all: E[] = [];
  for await (const event of events) all.push(event);
  return all;
}

function idsOf(events: readonly SolveEvent[]): number[] {
  return events.map(({ id }) => id);
}

const upTo = (last: number): number[] => Array.from({ length: last }, (_, index) => index + 1);

describe('a stored run', () => {
  it('brings every event exactly once, wherever the connection tears and however much is sent again', async () => {
    const events = runEvents(12);
    const text = (from: number): string => events.slice(from).map(frame).join('');
    await fc.assert(
      fc.asyncProperty(
        // per connection: bytes until it tears, and how many known events are sent again
        fc.array(fc.record({ bytes: fc.nat(900), repeated: fc.nat(3) }), { maxLength: 4 }),
        async (connections) => {
          const asked: (string | null)[] = [];
          const client = createClient({
            retryDelayMs: 1,
            fetch: async (_url, init) => {
              const after = new Headers(init?.headers).get('last-event-id');
              const connection = connections[asked.length];
              asked.push(after);
              const bytes = new TextEncoder().encode(
                text(Math.max(0, Number(after ?? 0) - (connection?.repeated ?? 0))),
              );
              return new Response(tearing(bytes, connection?.bytes), {
                headers: { 'content-type': 'text/event-stream' },
              });
            },
          });
          expect(idsOf(await collect(client.solveStream({ problem, store: true })))).toEqual(upTo(14));
        },
      ),
      { numRuns: 25 },
    );
  });

  it('goes on over real sockets that are destroyed, after its last event', async () => {
    const events = runEvents(6);
    const { url, seen } = await misbehave((request, response, index) => {
      openStream(response);
      const after = Number(request.headers['last-event-id'] ?? 0);
      const rest = events.filter(({ id }) => id > after).map(frame);
      if (index === 2) {
        response.end(rest.join(''));
        return;
      }
      // two events and half of the third
      response.write(rest.slice(0, 2).join('') + (rest[2] ?? '').slice(0, 20), () => response.destroy());
    });
    const lost: Error[] = [];
    const client = createClient({ baseUrl: url, retryDelayMs: 5 });
    const found = await collect(
      client.solveStream({ problem, store: true }, { onReconnect: (error) => lost.push(error) }),
    );
    expect(idsOf(found)).toEqual(upTo(8));
    expect(seen.map(({ method, path, headers }) => [method, path, headers['last-event-id']])).toEqual([
      ['POST', '/solve', undefined],
      ['GET', '/solve/slv_1/events', '2'],
      ['GET', '/solve/slv_1/events', '4'],
    ]);
    expect(lost).toHaveLength(2);
    expect(lost[0]).toBeInstanceOf(StvConnectionError);
  });

  it('tells that a lost connection is there again before its next event comes', async () => {
    const events = runEvents(2);
    const { url } = await misbehave((request, response, index) => {
      if (index === 1) return void response.destroy();
      openStream(response);
      const after = Number(request.headers['last-event-id'] ?? 0);
      const rest = events.slice(after).map(frame);
      if (index === 0) response.write(rest[0] ?? '', () => response.destroy());
      else response.end(rest.join(''));
    });
    const told: (string | number)[] = [];
    const client = createClient({ baseUrl: url, maxRetries: 0, retryDelayMs: 5 });
    const stream = client.solveStream(
      { problem, store: true },
      { onReconnect: () => told.push('lost'), onReconnected: () => told.push('back') },
    );
    for await (const { id } of stream) told.push(id);
    expect(told).toEqual([1, 'lost', 'lost', 'back', 2, 3, 4]);
  });

  it('waits for a server that restarts: refused connections, 503, an error inside the stream', async () => {
    const events = runEvents(2);
    const { url, seen } = await misbehave((request, response, index) => {
      if (index === 1)
        return refuse(response, 503, { message: 'x', type: 'overloaded_error', code: 'not_ready', param: null });
      openStream(response);
      const after = Number(request.headers['last-event-id'] ?? 0);
      const rest = events.filter(({ id }) => id > after).map(frame);
      const leaving = { message: 'x', type: 'overloaded_error', code: 'draining', param: null };
      if (index === 0) response.end(`${rest[0]}event: error\ndata: ${JSON.stringify({ error: leaving })}\n\n`);
      else response.end(rest.join(''));
    });
    const client = createClient({ baseUrl: url, maxRetries: 0, retryDelayMs: 5 });
    expect(idsOf(await collect(client.solveStream({ problem, store: true })))).toEqual(upTo(4));
    expect(seen).toHaveLength(3);
  });

  it('begins once: the request is repeated with the same idempotency key when its answer is lost', async () => {
    const { url, seen } = await misbehave((_request, response, index) => {
      if (index === 0) {
        response.destroy();
        return;
      }
      openStream(response);
      response.end(runEvents(1).map(frame).join(''));
    });
    expect(
      await collect(createClient({ baseUrl: url, retryDelayMs: 5 }).solveStream({ problem, store: true })),
    ).toHaveLength(3);
    const keys = seen.map(({ headers }) => headers['idempotency-key']);
    expect(keys[0]).toMatch(/^[0-9a-f]{32}$/);
    expect(keys).toEqual([keys[0], keys[0]]);
  });

  it('gives up after resumeForMs without a new event and says where it was', async () => {
    const { url, seen } = await misbehave((_request, response, index) => {
      if (index > 0) {
        response.destroy();
        return;
      }
      openStream(response);
      response.write(runEvents(3).slice(0, 2).map(frame).join(''), () => response.destroy());
    });
    const client = createClient({ baseUrl: url, resumeForMs: 100, maxRetries: 0, retryDelayMs: 20 });
    const failed = collect(client.solveStream({ problem, store: true }));
    await expect(failed).rejects.toMatchObject({ name: 'StvConnectionError', solveId: 'slv_1', lastEventId: 2 });
    expect(seen.length).toBeGreaterThan(1);
  });

  it('counts from the loss: a run that waited long without an event is taken up again', async () => {
    const { url, seen } = await misbehave((request, response, index) => {
      openStream(response);
      const after = Number(request.headers['last-event-id'] ?? 0);
      const rest = runEvents(2).slice(after).map(frame);
      if (index > 0) {
        response.end(rest.join(''));
        return;
      }
      response.write(rest[0] ?? '');
      setTimeout(() => response.destroy(), 400);
    });
    const client = createClient({ baseUrl: url, resumeForMs: 200, maxRetries: 0, retryDelayMs: 5 });
    expect(idsOf(await collect(client.solveStream({ problem, store: true })))).toEqual(upTo(4));
    expect(seen).toHaveLength(2);
  });

  it('does not sleep until tomorrow where that is when the server lets it try again', async () => {
    const { url, seen } = await misbehave((_request, response) => {
      response.setHeader('retry-after', '30000');
      refuse(response, 429, { message: 'x', type: 'rate_limit_error', code: 'quota_exceeded', param: null });
    });
    const stream = createClient({ baseUrl: url }).solveStream({ problem, store: true });
    await expect(collect(stream)).rejects.toMatchObject({ code: 'quota_exceeded' });
    expect(seen).toHaveLength(1);
  });

  it('waits for the headers of a stream no longer than for a sign of life', async () => {
    const { url, seen } = await misbehave((_request, response, index) => {
      if (index === 0) return; // never an answer
      openStream(response);
      response.end(runEvents(2).map(frame).join(''));
    });
    const client = createClient({ baseUrl: url, idleTimeoutMs: 100, maxRetries: 0, retryDelayMs: 5 });
    expect(idsOf(await collect(client.solveStream({ problem, store: true })))).toEqual(upTo(4));
    expect(seen).toHaveLength(2);
  });

  it('says what cannot be sent, and sends nothing', async () => {
    const { url, seen } = await misbehave((_request, response) => void response.destroy());
    const withKey = createClient({ baseUrl: url, apiKey: 'stv_\u200babc' });
    await expect(collect(withKey.solveStream({ problem, store: true }))).rejects.toThrow(/header authorization holds/u);
    await expect(createClient({ baseUrl: 'nowhere' }).models()).rejects.toThrow(TypeError);
    expect(seen).toHaveLength(0);
  });

  it('does not insist when the run is unknown', async () => {
    const { url, seen } = await misbehave((_request, response) =>
      refuse(response, 404, {
        message: 'There is no such run.',
        type: 'not_found_error',
        code: 'not_found',
        param: null,
      }),
    );
    await expect(collect(createClient({ baseUrl: url }).solveEvents('slv_2'))).rejects.toMatchObject({
      status: 404,
      code: 'not_found',
    });
    expect(seen).toHaveLength(1);
  });

  it('is over where the server has nothing after the last event that is known', async () => {
    const { url, seen } = await misbehave((_request, response) => {
      response.writeHead(204).end();
    });
    expect(await collect(createClient({ baseUrl: url, resumeForMs: 0 }).solveEvents('slv_1', { after: 5 }))).toEqual(
      [],
    );
    expect(seen).toHaveLength(1);
  });

  it('can be joined after an event', async () => {
    const { url, seen } = await misbehave((_request, response) => {
      openStream(response);
      response.end(runEvents(3).slice(2).map(frame).join(''));
    });
    expect(idsOf(await collect(createClient({ baseUrl: url }).solveEvents('slv_1', { after: 2 })))).toEqual([3, 4, 5]);
    expect(seen[0]?.headers['last-event-id']).toBe('2');
  });
});

describe('a run that is not stored', () => {
  it('ends with its connection, and is not begun again', async () => {
    const { url, seen } = await misbehave((_request, response) => {
      openStream(response);
      response.write(runEvents(3).slice(0, 3).map(frame).join(''), () => response.destroy());
    });
    const failed = collect(createClient({ baseUrl: url }).solveStream({ problem }));
    await expect(failed).rejects.toMatchObject({ name: 'StvConnectionError', solveId: 'slv_1', lastEventId: 3 });
    expect(seen).toHaveLength(1);
    expect(seen[0]?.headers['idempotency-key']).toBeUndefined();
  });

  it('is not sent again when the connection breaks before an answer', async () => {
    const { url, seen } = await misbehave((_request, response) => {
      response.destroy();
    });
    await expect(createClient({ baseUrl: url }).solve({ problem })).rejects.toBeInstanceOf(StvConnectionError);
    expect(seen).toHaveLength(1);
  });

  it('ends as the answer alone, without what belongs to the stream', async () => {
    const { url, seen } = await misbehave((_request, response) => {
      openStream(response);
      response.end(runEvents(2).map(frame).join(''));
    });
    expect(await createClient({ baseUrl: url }).solve({ problem })).toEqual({
      id: 'slv_1',
      object: 'solve',
      status: 'accepted',
    });
    expect(seen[0]?.body).toEqual({ problem, stream: true });
  });
});

describe('cancelling', () => {
  it('throws the reason of the signal and closes the connection, in mid-stream', async () => {
    const { url, hungUp } = await misbehave((_request, response) => {
      openStream(response);
      response.write(runEvents(3).slice(0, 2).map(frame).join(''));
    });
    const controller = new AbortController();
    const reason = new Error('the user left');
    const reading = (async () => {
      for await (const event of createClient({ baseUrl: url }).solveStream(
        { problem, store: true },
        { signal: controller.signal },
      )) {
        if (event.id === 2) controller.abort(reason);
      }
    })();
    await expect(reading).rejects.toBe(reason);
    await vi.waitFor(() => expect(hungUp.count).toBe(1));
  });

  it('works while waiting for an answer and while waiting to try again', async () => {
    const { url } = await misbehave((request, response) => {
      if (request.path === '/refine')
        refuse(response, 429, overloaded, { 'retry-after': '30', 'x-should-retry': 'true' });
    });
    for (const call of ['verify', 'refine'] as const) {
      const client = createClient({ baseUrl: url });
      const signal = AbortSignal.timeout(100);
      const started = Date.now();
      const given = { problem, solution: '2', attempt: '2', feedback: 'no' };
      await expect(client[call](given, { signal })).rejects.toMatchObject({ name: 'TimeoutError' });
      expect(Date.now() - started).toBeLessThan(5000);
    }
  });

  it('leaving the loop closes the connection', async () => {
    const { url, hungUp } = await misbehave((_request, response) => {
      openStream(response);
      response.write(runEvents(3).slice(0, 2).map(frame).join(''));
    });
    for await (const _ of createClient({ baseUrl: url }).solveStream({ problem })) break;
    await vi.waitFor(() => expect(hungUp.count).toBe(1));
  });

  it('cancelSolve never deletes: a run that has ended is given back as it is', async () => {
    const { url, seen } = await misbehave((request, response) => {
      const isLive = request.path.includes('live');
      if (request.method === 'GET') answer(response, { id: 'slv', status: 'accepted' }, 200);
      else if (isLive) answer(response, { id: 'slv', status: 'running' }, 202);
      else answer(response, { error: { message: 'The run has already ended.', type: 'conflict_error' } }, 409);
    });
    const client = createClient({ baseUrl: url });
    expect(await client.cancelSolve('slv_ended')).toMatchObject({ status: 'accepted' });
    expect(await client.cancelSolve('slv_live')).toMatchObject({ status: 'running' });
    expect(seen.map(({ method, path }) => `${method} ${path}`)).toEqual([
      'POST /solve/slv_ended/cancel',
      'GET /solve/slv_ended',
      'POST /solve/slv_live/cancel',
    ]);
  });
});

describe('errors', () => {
  it('carry all that the server said', async () => {
    const error = {
      message: '`votes` must be <= 64, got 65.',
      type: 'invalid_request_error',
      code: 'invalid_value',
      param: 'votes',
    };
    const { url } = await misbehave((_request, response) => refuse(response, 400, error, { 'x-request-id': 'req_1' }));
    const failed = createClient({ baseUrl: url }).verify({ problem, solution: '2', votes: 65 });
    await expect(failed).rejects.toBeInstanceOf(StvApiError);
    await expect(failed).rejects.toMatchObject({
      message: error.message,
      status: 400,
      type: 'invalid_request_error',
      code: 'invalid_value',
      param: 'votes',
      requestId: 'req_1',
      retryAfterMs: undefined,
    });
  });

  it('inside a stream are thrown as well', async () => {
    const error = { message: 'The engine ended.', type: 'overloaded_error', code: 'engine_crashed', param: null };
    const { url } = await misbehave((_request, response) => {
      openStream(response);
      response.end(`event: error\ndata: ${JSON.stringify({ error })}\n\n`);
    });
    await expect(createClient({ baseUrl: url }).verify({ problem, solution: '2' })).rejects.toMatchObject({
      name: 'StvApiError',
      status: undefined,
      code: 'engine_crashed',
    });
  });

  it('of a proxy in front are errors too: a page for an answer, a page for a stream', async () => {
    const { url } = await misbehave((request, response) => {
      response.writeHead(request.path === '/verify' ? 200 : 404, { 'content-type': 'text/html' });
      response.end('<h1>hello</h1>');
    });
    const client = createClient({ baseUrl: url });
    await expect(client.verify({ problem, solution: '2' })).rejects.toThrow('text/html where a stream was expected');
    await expect(client.getSolve('slv_1')).rejects.toThrow('The server answered 404 and gave no reason.');
  });

  it('half an answer is a lost connection', async () => {
    const { url } = await misbehave((_request, response) => {
      openStream(response);
      response.end('event: verification-end\ndata: {"verd');
    });
    await expect(createClient({ baseUrl: url }).verify({ problem, solution: '2' })).rejects.toThrow(
      'ended before the answer was complete',
    );
  });
});

describe('retries', () => {
  async function timesSent(
    headers: Record<string, string>,
    call: (client: ReturnType<typeof createClient>) => Promise<unknown>,
    status = 429,
  ): Promise<number> {
    const { url, seen } = await misbehave((_request, response) => refuse(response, status, overloaded, headers));
    await expect(call(createClient({ baseUrl: url, retryDelayMs: 5 }))).rejects.toMatchObject({ status });
    return seen.length;
  }
  const now = { 'retry-after-ms': '1', 'x-should-retry': 'true' };

  it('obey the server: as often as asked, never against its word, never sooner than it says', async () => {
    expect(await timesSent(now, (client) => client.solve({ problem }))).toBe(3);
    expect(await timesSent({ ...now, 'x-should-retry': 'false' }, (client) => client.models())).toBe(1);
    // longer than anybody wants to wait
    expect(await timesSent({ ...now, 'retry-after-ms': '600000' }, (client) => client.models())).toBe(1);
    const { url } = await misbehave((_request, response, index) => {
      if (index === 0) refuse(response, 503, overloaded, { 'retry-after': '1' });
      else answer(response, { data: [] });
    });
    const started = Date.now();
    await createClient({ baseUrl: url }).models();
    expect(Date.now() - started).toBeGreaterThanOrEqual(995);
  });

  it('without a word from the server happen only where repeating does nothing twice', async () => {
    expect(await timesSent({}, (client) => client.models(), 502)).toBe(3);
    expect(await timesSent({}, (client) => client.solve({ problem }), 502)).toBe(1);
    expect(await timesSent({}, (client) => client.deleteSolve('slv_1'), 502)).toBe(1);
    expect(await timesSent({}, (client) => client.models(), 500)).toBe(1);
  });

  it('of a lost DELETE never happen: the second would erase what the first cancelled', async () => {
    const { url, seen } = await misbehave((_request, response) => {
      response.destroy();
    });
    await expect(createClient({ baseUrl: url }).deleteSolve('slv_1')).rejects.toBeInstanceOf(StvConnectionError);
    expect(seen).toHaveLength(1);
  });
});

it('keys, base paths and unusual ids reach the server', async () => {
  const { url, seen } = await misbehave((_request, response) => answer(response, { status: 'accepted' }));
  let key = 'first';
  const client = createClient({ baseUrl: `${url}/behind/a/proxy/`, apiKey: () => key, headers: { 'x-extra': '1' } });
  await client.getSolve('../v1/models?');
  key = 'second';
  await client.listSolves({ limit: 5, after: 'slv_9' });
  expect(seen.map(({ path, headers }) => [path, headers.authorization, headers['x-extra']])).toEqual([
    ['/behind/a/proxy/solve/..%2Fv1%2Fmodels%3F', 'Bearer first', '1'],
    ['/behind/a/proxy/solve?limit=5&after=slv_9', 'Bearer second', '1'],
  ]);
});

/** The first bytes, then an error; all of them and a proper end without a limit. */
function tearing(bytes: Uint8Array<ArrayBuffer>, limit: number | undefined): ReadableStream<Uint8Array<ArrayBuffer>> {
  const whole = limit === undefined || limit >= bytes.length;
  let isSent = false;
  return new ReadableStream({
    pull(controller) {
      if (!isSent) {
        isSent = true;
        const piece = whole ? bytes : bytes.slice(0, limit);
        if (piece.length > 0) {
          controller.enqueue(piece);
          return;
        }
      }
      if (whole) controller.close();
      else controller.error(new TypeError('terminated'));
    },
  });
}

describe('an answer that is no stream', () => {
  it('is asked for again when it breaks off, and its loss is a lost connection', async () => {
    const whole = JSON.stringify({ object: 'list', data: [] });
    const { url, seen } = await misbehave((_request, response, index) => {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': whole.length });
      if (index === 1) response.end(whole);
      else response.write(whole.slice(0, 5), () => response.destroy());
    });
    const client = createClient({ baseUrl: url, retryDelayMs: 1, maxRetries: 1 });
    expect(await client.models()).toEqual({ object: 'list', data: [] });
    expect(seen).toHaveLength(2);
    await expect(client.getSolve('slv_1')).rejects.toThrow(StvConnectionError);
    await expect(client.traces().next()).rejects.toThrow('was lost before its answer was complete');
  });
});
