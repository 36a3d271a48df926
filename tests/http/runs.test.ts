import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { loadApiKeys } from '../../src/api-keys.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { buildApp, listen, type TestApp } from './build-app.ts';
import { call, expectEvent, parseEvents, post } from './contract.ts';

const solveBody = { problem: '1 + 1', max_rounds: 2, seed: 7 };
const slow = { engine: { reply: () => 'word '.repeat(200), delayMs: 5 } };

/** Starts a run over a socket and resolves with its id once it is under way. */
async function begin(address: string, body: object = solveBody, headers: Record<string, string> = {}) {
  const controller = new AbortController();
  const answer = await fetch(`${address}/solve`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream', ...headers },
    body: JSON.stringify(body),
    signal: controller.signal,
  });
  const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
  let text = '';
  while (!text.includes('\n\n')) text += new TextDecoder().decode((await reader.read()).value);
  const id = /"solve_id":"(slv_\w+)"/.exec(text)?.[1] as string;
  const rest = async (): Promise<string> => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text;
      text += new TextDecoder().decode(value);
    }
  };
  return { id, rest, hangUp: () => controller.abort() };
}

async function liveRun(
  options = slow,
): Promise<TestApp & { address: string; id: string; rest: () => Promise<string> }> {
  const built = await buildApp(options);
  const address = await listen(built.app);
  return { ...built, address, ...(await begin(address)) };
}

describe('a live run', () => {
  it('shows its state', async () => {
    const { app, id, rest } = await liveRun();
    const answer = await call(app, { url: `/solve/${id}` });
    expect(answer.statusCode, answer.body).toBe(200);
    expect(answer.json()).toMatchObject({ id, object: 'solve', status: 'running', stop_reason: null, seed: 7 });
    await call(app, { method: 'DELETE', url: `/solve/${id}` });
    await rest();
  });

  it('is cancelled by DELETE; the stream still ends with solve-end', async () => {
    const { app, id, rest, engine } = await liveRun();
    const answer = await call(app, { method: 'DELETE', url: `/solve/${id}` });
    expect(answer.statusCode).toBe(202);
    const events = parseEvents(await rest());
    expect(events.at(-1)?.event).toBe('solve-end');
    expectEvent('solve', 'solve-end', events.at(-1)?.data);
    expect(events.at(-1)?.data).toMatchObject({ status: 'cancelled', stop_reason: 'cancelled' });
    expect(engine.numOpen).toBe(0);
    // it was not stored, so it is unknown now
    await vi.waitFor(async () => expect((await call(app, { url: `/solve/${id}` })).statusCode).toBe(404));
    expect((await call(app, { method: 'DELETE', url: `/solve/${id}` })).statusCode).toBe(404);
    expect((await call(app, { url: `/solve/${id}/events` })).json().error.code).toBe('not_found');
  });

  it('is replayed from the beginning, or after Last-Event-ID, and followed to its end', async () => {
    const { app, address, id, rest } = await liveRun();
    const whole = await fetch(`${address}/solve/${id}/events`);
    const tail = await fetch(`${address}/solve/${id}/events`, { headers: { 'last-event-id': '3' } });
    await call(app, { method: 'DELETE', url: `/solve/${id}` });
    const original = parseEvents(await rest());
    expect(original.length).toBeGreaterThan(5);
    expect(parseEvents(await whole.text())).toEqual(original);
    expect(parseEvents(await tail.text())).toEqual(original.slice(3));
  });

  it('refuses a Last-Event-ID that is no number', async () => {
    const { app, id, rest } = await liveRun();
    const answer = await call(app, { url: `/solve/${id}/events`, headers: { 'last-event-id': 'abc' } });
    expect(answer.statusCode).toBe(400);
    await call(app, { method: 'DELETE', url: `/solve/${id}` });
    await rest();
  });

  it('a reader of its events may leave without ending it', async () => {
    const { app, address, id, rest, runs } = await liveRun();
    const controller = new AbortController();
    await fetch(`${address}/solve/${id}/events`, { signal: controller.signal });
    controller.abort();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(runs.numLive).toBe(1);
    await call(app, { method: 'DELETE', url: `/solve/${id}` });
    await rest();
  });

  it('belongs to the key that made it', async () => {
    const file = path.join(temporaryFolder(), 'keys');
    writeFileSync(file, 'key-a infer a\nkey-b infer b\nkey-c infer,admin c\n');
    const { app } = await buildApp({ ...slow, keys: loadApiKeys(file) });
    const address = await listen(app);
    const { id, rest } = await begin(address, solveBody, { authorization: 'Bearer key-a' });
    const status = async (key: string, method: 'GET' | 'DELETE', url: string): Promise<number> =>
      (await call(app, { method, url, headers: { authorization: `Bearer ${key}` } })).statusCode;
    expect(await status('key-a', 'GET', `/solve/${id}`)).toBe(200);
    expect(await status('key-b', 'GET', `/solve/${id}`)).toBe(404);
    expect(await status('key-b', 'GET', `/solve/${id}/events`)).toBe(404);
    expect(await status('key-b', 'DELETE', `/solve/${id}`)).toBe(404);
    expect(await status('key-c', 'DELETE', `/solve/${id}`)).toBe(202);
    await rest();
  });

  it('the list of stored runs is empty without a store', async () => {
    const { app } = await buildApp();
    const answer = await call(app, { url: '/solve?limit=5' });
    expect(answer.json()).toEqual({ object: 'list', data: [], has_more: false });
    expect((await call(app, { url: '/solve?limit=0' })).json().error.param).toBe('limit');
    expect((await call(app, { url: '/solve?page=2' })).json().error.code).toBe('unknown_field');
  });
});

describe('Idempotency-Key', () => {
  const key = { 'idempotency-key': 'k1' };

  it('attaches a repeated request to the same run', async () => {
    const { app, engine } = await buildApp({ engine: { delayMs: 10 } });
    const [first, second] = await Promise.all([
      post(app, '/solve', solveBody, key),
      post(app, '/solve', solveBody, key),
    ]);
    const third = await post(app, '/solve', solveBody, key);
    expect(second.json()).toEqual(first.json());
    expect(third.json()).toEqual(first.json());
    expect(engine.requests.filter(({ model }) => model.includes('generator'))).toHaveLength(1);
  });

  it('with another body is 422', async () => {
    const { app } = await buildApp();
    await post(app, '/solve', solveBody, key);
    const answer = await post(app, '/solve', { ...solveBody, seed: 8 }, key);
    expect(answer.statusCode).toBe(422);
    expect(answer.json().error).toMatchObject({ type: 'conflict_error', code: 'idempotency_key_reused' });
    expect(answer.headers['x-should-retry']).toBe('false');
  });

  it('does not answer a retry with a run that its client abandoned', async () => {
    const { app, runs } = await buildApp(slow);
    const address = await listen(app);
    const abandoned = await begin(address, solveBody, key);
    abandoned.hangUp();
    await vi.waitFor(() => expect(runs.numLive).toBe(0));
    const again = await begin(address, solveBody, key);
    expect(again.id).not.toBe(abandoned.id);
    await call(app, { method: 'DELETE', url: `/solve/${again.id}` });
    await again.rest();
  });

  it('one client of two may leave', async () => {
    const { app, runs } = await buildApp(slow);
    const address = await listen(app);
    const first = await begin(address, solveBody, key);
    const second = await begin(address, solveBody, key);
    expect(second.id).toBe(first.id);
    first.hangUp();
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(runs.numLive).toBe(1);
    second.hangUp();
    await vi.waitFor(() => expect(runs.numLive).toBe(0));
  });

  it('must be a plain token', async () => {
    const { app } = await buildApp();
    expect((await post(app, '/solve', solveBody, { 'idempotency-key': 'a b' })).json().error.param).toBe(
      'Idempotency-Key',
    );
  });
});
