import path from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { noApiKeys } from '../../src/api-keys.ts';
import { createClient, type SolveEvent } from '../../src/client/client.ts';
import { StvError } from '../../src/errors.ts';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import type { RunStore } from '../../src/stv/run-store.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { buildApp, listen, type TestApp } from './build-app.ts';
import { call, expectEvent, parseEvents, post } from './contract.ts';

const solveBody = { problem: 'PRIVATE 1 + 1', max_rounds: 2, seed: 7, store: true };
const slow = { reply: () => 'word '.repeat(40), delayMs: 5, accept: () => 0.2 };

async function openStore(): Promise<SqlRunStore> {
  const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
  onTestFinished(() => store.close());
  return store;
}

/** A store in which some methods behave otherwise. */
function withFaults(store: RunStore, faults: Partial<RunStore>): RunStore {
  return new Proxy(store, {
    get: (target, name) => {
      const fault = faults[name as keyof RunStore];
      if (fault !== undefined) return fault;
      const value: unknown = target[name as keyof RunStore];
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

async function eventsOf(app: TestApp['app'], id: string, after?: number) {
  const headers = after === undefined ? {} : { 'last-event-id': String(after) };
  return parseEvents((await app.inject({ url: `/solve/${id}/events`, headers })).body);
}

describe('a stored run', () => {
  it('can be read, replayed and listed after its end, and erased with everything', async () => {
    const store = await openStore();
    const { app } = await buildApp({ store });
    const answer = (await post(app, '/solve', solveBody)).json();
    const read = await call(app, { url: `/solve/${answer.id}` });
    expect(read.json()).toEqual(answer);

    const events = await eventsOf(app, answer.id);
    for (const { event, data } of events) expectEvent('solve', event, data);
    expect(events.map(({ id }) => Number(id))).toEqual(events.map((_, index) => index + 1));
    expect(events.at(-1)?.event).toBe('solve-end');
    expect(await eventsOf(app, answer.id, 4)).toEqual(events.slice(4));
    expect(await eventsOf(app, answer.id, events.length)).toEqual([]);

    const second = (await post(app, '/solve', { ...solveBody, seed: 8 })).json();
    const page = (await call(app, { url: '/solve?limit=1' })).json();
    expect(page).toMatchObject({ has_more: true, data: [{ id: second.id, status: 'accepted' }] });
    const next = (await call(app, { url: `/solve?limit=1&after=${second.id}` })).json();
    expect(next).toMatchObject({ has_more: false, data: [{ id: answer.id }] });

    const { chains: _, ...withoutRounds } = answer;
    expect(next.data[0]).toEqual({ ...withoutRounds, problem: solveBody.problem });

    expect((await call(app, { method: 'POST', url: `/solve/${answer.id}/cancel` })).statusCode).toBe(409);
    expect((await call(app, { url: `/solve/${answer.id}` })).json()).toEqual(answer);
    expect((await call(app, { method: 'DELETE', url: `/solve/${answer.id}` })).statusCode).toBe(204);
    expect((await call(app, { url: `/solve/${answer.id}` })).statusCode).toBe(404);
    expect((await call(app, { url: `/solve/${answer.id}/events` })).statusCode).toBe(404);
  });

  it('in the background: 202 at once, then it goes on by itself', async () => {
    const { app } = await buildApp({ store: await openStore(), engine: { delayMs: 5 } });
    const answer = await post(app, '/solve', { ...solveBody, store: false, background: true });
    expect(answer.statusCode).toBe(202);
    expect(['queued', 'running']).toContain(answer.json().status);
    const { id } = answer.json();
    await vi.waitFor(async () => expect((await call(app, { url: `/solve/${id}` })).json().status).toBe('accepted'));
  });

  it('goes on when its client hangs up', async () => {
    const { app } = await buildApp({ store: await openStore(), engine: { delayMs: 10 } });
    const address = await listen(app);
    const controller = new AbortController();
    const answer = await fetch(`${address}/solve`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
      body: JSON.stringify(solveBody),
      signal: controller.signal,
    });
    const first = await (answer.body as ReadableStream<Uint8Array>).getReader().read();
    const id = /slv_\w+/.exec(new TextDecoder().decode(first.value))?.[0];
    controller.abort();
    await vi.waitFor(async () => expect((await call(app, { url: `/solve/${id}` })).json().status).toBe('accepted'));
  });

  it('Idempotency-Key holds across a restart', async () => {
    const store = await openStore();
    const headers = { 'idempotency-key': 'k' };
    const before = await buildApp({ store });
    const first = (await post(before.app, '/solve', solveBody, headers)).json();
    const after = await buildApp({ store });
    const again = await post(after.app, '/solve', solveBody, headers);
    expect(again.json()).toEqual(first);
    expect(after.engine.requests).toHaveLength(0);
    expect((await post(after.app, '/solve', { ...solveBody, seed: 9 }, headers)).statusCode).toBe(422);
  });

  it('of a model that nobody serves is refused and not begun', async () => {
    const { app } = await buildApp({ store: await openStore() });
    for (const how of [{ store: true }, { background: true }]) {
      const answer = await post(app, '/solve', { problem: 'p', ...how, generator: { model: 'nope' } });
      expect(answer.json().error).toMatchObject({ code: 'model_not_found', param: 'generator.model' });
    }
    expect((await call(app, { url: '/solve' })).json().data).toEqual([]);
  });

  it('shares its Idempotency-Keys with the runs that are not stored', async () => {
    const { app } = await buildApp({ store: await openStore() });
    for (const [key, order] of [
      ['a', [true, false]],
      ['b', [false, true]],
    ] as const) {
      const answers = [];
      for (const store of order)
        answers.push(await post(app, '/solve', { ...solveBody, store }, { 'idempotency-key': key }));
      expect(answers.map(({ statusCode }) => statusCode)).toEqual([200, 422]);
    }
  });

  it('parked by one server goes on at the next from its last finished round; every event comes once', async () => {
    const store = await openStore();
    const first = await buildApp({ store, engine: slow });
    const { id } = (await post(first.app, '/solve', { ...solveBody, background: true })).json();
    // one round is finished, the second is under way
    await vi.waitFor(async () => {
      const state = (await call(first.app, { url: `/solve/${id}` })).json();
      expect(state.chains[0]?.rounds.length).toBe(2);
    }, 5000);
    await first.runs.park(new StvError('draining', 'The server shuts down.'));
    expect(first.engine.numOpen).toBe(0);
    const parked = (await call(first.app, { url: `/solve/${id}` })).json();
    expect(parked.status).toBe('parked');
    // a reader that comes back to the server that shuts down is sent away at once
    expect((await eventsOf(first.app, id)).at(-1)).toMatchObject({
      event: 'error',
      data: { error: { code: 'draining' } },
    });

    const second = await buildApp({ store, engine: { ...slow, delayMs: 1 } });
    second.runs.beginUpkeep();
    await vi.waitFor(async () => {
      expect((await call(second.app, { url: `/solve/${id}` })).json().status).toBe('exhausted');
    }, 5000);
    const events = await eventsOf(second.app, id);
    expect(events.map((event) => Number(event.id))).toEqual(events.map((_, index) => index + 1));
    expect(events.filter(({ event }) => event === 'solve-start')).toHaveLength(1);
    expect(events.filter(({ event }) => event === 'solve-end')).toHaveLength(1);
    const answer = (await call(second.app, { url: `/solve/${id}` })).json();
    expect(answer.chains[0].rounds.map(({ round }: { round: number }) => round)).toEqual([0, 1, 2]);
    expect((await call(second.app, { url: '/metrics' })).body).toContain('stv_solves_running 0');
    // round 0 was not computed again
    expect(second.engine.requests.filter(({ model }) => model.includes('generator'))).toHaveLength(2);
    await second.runs.close(new StvError('draining', 'The test is over.'));
  });

  it('that goes on elsewhere is followed through the database', async () => {
    const store = await openStore();
    const [here, there] = [await buildApp({ store, engine: slow }), await buildApp({ store })];
    const { id } = (await post(here.app, '/solve', { ...solveBody, background: true })).json();
    const events = await eventsOf(there.app, id);
    expect(events.at(-1)?.event).toBe('solve-end');
    expect(events.map((event) => Number(event.id))).toEqual(events.map((_, index) => index + 1));
  });
});

describe('Last-Event-ID', () => {
  const resumed = (app: TestApp['app'], id: string, eventId: number) =>
    call(app, { url: `/solve/${id}/events`, headers: { 'last-event-id': String(eventId) } });

  async function expectBeyond(app: TestApp['app'], id: string, eventId: number, newest: number): Promise<void> {
    const answer = await resumed(app, id, eventId);
    expect(answer.statusCode, answer.body).toBe(400);
    const { error } = answer.json();
    expect(error).toMatchObject({ code: 'invalid_value', param: 'Last-Event-ID' });
    expect(error.message).toContain(`at most ${newest}, the newest event of the run, got ${eventId}`);
  }

  it('of the last event of an ended run is answered 204, at which clients stop; one beyond is refused', async () => {
    const store = await openStore();
    const { app } = await buildApp({ store });
    const { id } = (await post(app, '/solve', solveBody)).json();
    const { length } = await eventsOf(app, id);
    const end = await resumed(app, id, length);
    expect([end.statusCode, end.body]).toEqual([204, '']);
    expect(await eventsOf(app, id, length - 1)).toHaveLength(1);
    await expectBeyond(app, id, length + 1, length);

    const client = createClient({ baseUrl: await listen(app), resumeForMs: 1000, retryDelayMs: 50 });
    const found: SolveEvent[] = [];
    for await (const event of client.solveEvents(id, { after: length })) found.push(event);
    expect(found).toEqual([]);
  });

  it('of the newest event of a live run waits for the next, at whatever server; one beyond is refused', async () => {
    const store = await openStore();
    const [here, there] = [await buildApp({ store, engine: slow }), await buildApp({ store })];
    const { id } = (await post(here.app, '/solve', { ...solveBody, background: true })).json();
    for (const { app } of [here, there]) {
      const newest = (await store.find(id))?.lastEventId ?? 0;
      const answer = await resumed(app, id, newest + 100_000);
      expect(answer.statusCode, answer.body).toBe(400);
      expect(answer.json().error).toMatchObject({ code: 'invalid_value', param: 'Last-Event-ID' });
    }
    const newest = (await store.find(id))?.lastEventId ?? 0;
    const tails = await Promise.all([here, there].map(({ app }) => eventsOf(app, id, newest)));
    expect(tails[0]?.at(-1)?.event).toBe('solve-end');
    expect(tails[0]?.map((event) => Number(event.id)).at(0)).toBe(newest + 1);
    expect(tails[1]).toEqual(tails[0]);
  });

  it('of an event of the server that has taken the run over is no mistake at the one that has yet to notice', async () => {
    const database = await openDatabase(path.join(temporaryFolder(), 'runs.db'));
    const store = new SqlRunStore(database);
    onTestFinished(() => store.close());
    const { app, runs } = await buildApp({ store, engine: { ...slow, delayMs: 60_000 } });
    const { id } = (await post(app, '/solve', { ...solveBody, background: true })).json();
    await vi.waitFor(async () => expect((await store.find(id))?.lastEventId).toBeGreaterThan(1));
    const newest = (await store.find(id))?.lastEventId ?? 0;
    await expectBeyond(app, id, newest + 1, newest);

    const later = new SqlRunStore(database, () => Date.now() + 60_000);
    const lease = { holder: 'another', ttlMs: 15_000 };
    expect(await later.claim(lease, 9)).toHaveLength(1);
    const next = { type: 'attempt-delta', id: newest + 1, solveId: id, chain: 0, round: 0, text: 'x' };
    await later.append(id, [next as never], lease);
    const controller = new AbortController();
    const answer = await fetch(`${await listen(app)}/solve/${id}/events`, {
      headers: { 'last-event-id': String(newest + 1) },
      signal: controller.signal,
    });
    expect(answer.status).toBe(200);
    controller.abort();
    await expectBeyond(app, id, newest + 2, newest + 1);
    await runs.close(new StvError('draining', 'The test is over.'));
  });
});

describe('cancelling through another server of the database', () => {
  const cancelled = async (app: TestApp['app'], id: string) =>
    vi.waitFor(async () => {
      const state = (await call(app, { url: `/solve/${id}` })).json();
      expect(state).toMatchObject({ status: 'cancelled', stop_reason: 'cancelled' });
      return state;
    }, 5000);

  for (const [method, path] of [
    ['POST', '/cancel'],
    ['DELETE', ''],
  ] as const) {
    it(`${method} /solve/{id}${path} ends the run where it goes on, and keeps it`, async () => {
      const store = await openStore();
      const [here, there] = [await buildApp({ store, engine: slow }), await buildApp({ store })];
      const { id } = (await post(here.app, '/solve', { ...solveBody, background: true })).json();
      await vi.waitFor(() => expect(here.engine.numOpen).toBeGreaterThan(0));
      const answer = await call(there.app, { method, url: `/solve/${id}${path}` });
      expect(answer.statusCode, answer.body).toBe(202);
      await cancelled(there.app, id);
      expect(here.engine.numOpen).toBe(0);
      expect((await eventsOf(there.app, id)).filter(({ event }) => event === 'solve-end')).toHaveLength(1);
    });
  }

  it('is kept of a run that goes on here too: whoever takes it over before its end is stored must know', async () => {
    const store = await openStore();
    const { app, engine } = await buildApp({ store, engine: slow });
    const { id } = (await post(app, '/solve', { ...solveBody, background: true })).json();
    await vi.waitFor(() => expect(engine.numOpen).toBeGreaterThan(0));
    const requested = vi.spyOn(store, 'requestCancel');
    expect((await call(app, { method: 'DELETE', url: `/solve/${id}` })).statusCode).toBe(202);
    expect(requested).toHaveBeenCalledWith(id);
    await cancelled(app, id);
  });

  it('a parked run ends as cancelled at the server that takes it up, without another call of a model', async () => {
    const store = await openStore();
    const first = await buildApp({ store, engine: slow });
    const { id } = (await post(first.app, '/solve', { ...solveBody, background: true })).json();
    await vi.waitFor(() => expect(first.engine.numOpen).toBeGreaterThan(0));
    await first.runs.park(new StvError('draining', 'The server shuts down.'));
    expect((await call(first.app, { method: 'POST', url: `/solve/${id}/cancel` })).json().status).toBe('parked');
    const second = await buildApp({ store });
    second.runs.beginUpkeep();
    await cancelled(second.app, id);
    expect(second.engine.requests).toHaveLength(0);
    await second.runs.close(new StvError('draining', 'The test is over.'));
  });
});

describe('sharing', () => {
  it('a token shows one run to read, and nothing else', async () => {
    const { app } = await buildApp({ store: await openStore() });
    const [one, other] = [(await post(app, '/solve', solveBody)).json(), (await post(app, '/solve', solveBody)).json()];
    const answer = await call(app, { method: 'POST', url: `/solve/${one.id}/share` });
    expect(answer.statusCode, answer.body).toBe(200);
    const { token, path: link } = answer.json();
    expect((await call(app, { url: link })).json()).toEqual(one);
    expect((await app.inject({ url: `/solve/${one.id}/events?token=${token}` })).statusCode).toBe(200);
    expect((await call(app, { url: `/solve/${other.id}?token=${token}` })).statusCode).toBe(404);
    expect((await call(app, { url: `/solve/${one.id}?token=shr_guess` })).statusCode).toBe(404);
    expect((await call(app, { method: 'POST', url: '/solve/slv_x/share' })).statusCode).toBe(404);
  });

  it('a token stands for a key on the read routes only', async () => {
    const store = await openStore();
    const key = { id: 'k', scopes: new Set(['infer'] as const), limits: {} };
    const { app } = await buildApp({
      store,
      keys: { ...noApiKeys, isRequired: true, find: (secret) => (secret === 'k' ? key : undefined) },
    });
    const headers = { authorization: 'Bearer k' };
    const { id } = (await post(app, '/solve', solveBody, headers)).json();
    const { token } = (await call(app, { method: 'POST', url: `/solve/${id}/share`, headers })).json();
    expect((await call(app, { url: `/solve/${id}?token=${token}` })).statusCode).toBe(200);
    expect((await call(app, { method: 'DELETE', url: `/solve/${id}?token=${token}` })).statusCode).toBe(401);
    expect((await call(app, { url: `/solve?token=${token}` })).statusCode).toBe(401);
  });
});

describe('a store that fails', () => {
  const full = async (): Promise<never> => {
    throw new StvError('storage_full', 'The store is full: no disk space is left.');
  };

  it('at the start is 503 storage_full', async () => {
    const { app, engine } = await buildApp({ store: withFaults(await openStore(), { create: full }) });
    const answer = await post(app, '/solve', solveBody);
    expect(answer.statusCode).toBe(503);
    expect(answer.json().error).toMatchObject({ type: 'overloaded_error', code: 'storage_full' });
    expect(engine.requests).toHaveLength(0);
    expect((await post(app, '/solve', { ...solveBody, store: false })).statusCode).toBe(200);
    const ready = await call(app, { url: '/health/ready' });
    expect(ready.statusCode).toBe(200);
    expect(ready.json()).toMatchObject({ status: 'ready', reason: expect.stringContaining('stored') });
  });

  it('with an error that is not ours ends the run in our words', async () => {
    const append = async (): Promise<never> => {
      throw new Error('insert into events values (the private text)');
    };
    const { app } = await buildApp({ store: withFaults(await openStore(), { append }), engine: slow });
    const answer = await post(app, '/solve', { ...solveBody, stream: true });
    const end = parseEvents(answer.body).at(-1)?.data as { error: { code: string; message: string } };
    expect(end.error).toMatchObject({ code: 'storage_full', message: 'What the run did could not be stored.' });
    expect(answer.body).not.toContain('private');
  });

  it('in mid-run ends it, and the caller keeps what was found', async () => {
    const store = await openStore();
    let appends = 0;
    const append: RunStore['append'] = async (...given) => {
      appends += 1;
      return appends > 3 ? full() : store.append(...given);
    };
    const { app, runs, engine } = await buildApp({ store: withFaults(store, { append }), engine: slow });
    const events = parseEvents((await post(app, '/solve', { ...solveBody, stream: true })).body);
    expect(events.filter(({ event }) => event === 'solve-end' || event === 'error')).toHaveLength(1);
    expect(events.at(-1)?.data).toMatchObject({ status: 'failed', error: { code: 'storage_full' } });
    expectEvent('solve', 'solve-end', events.at(-1)?.data);
    expect(runs.numLive).toBe(0);
    expect(engine.numOpen).toBe(0);
  });

  it('in mid-run and has room again gets the end that the caller was told', async () => {
    const store = await openStore();
    let isFull = false;
    let appends = 0;
    const append: RunStore['append'] = async (...given) => {
      appends += 1;
      isFull ||= appends === 4;
      return isFull ? full() : store.append(...given);
    };
    const { app, runs } = await buildApp({ store: withFaults(store, { append }), engine: slow });
    const seen = parseEvents((await post(app, '/solve', { ...solveBody, stream: true })).body);
    const { id } = JSON.parse(JSON.stringify(seen.at(-1)?.data)) as { id: string };
    expect((await call(app, { url: `/solve/${id}` })).json()).toMatchObject({ status: 'failed' });
    expect((await call(app, { method: 'DELETE', url: `/solve/${id}` })).json().error.code).toBe('storage_full');
    expect((await store.find(id))?.status).toBe('running');

    isFull = false;
    runs.beginUpkeep();
    await vi.waitFor(async () => expect((await store.find(id))?.status).toBe('failed'));
    expect(await eventsOf(app, id)).toEqual(seen);
    expect((await call(app, { method: 'DELETE', url: `/solve/${id}` })).statusCode).toBe(204);
  });

  it('that gave the run to another server ends the stream with an error, not with a second end', async () => {
    const store = await openStore();
    let appends = 0;
    const append: RunStore['append'] = async (...given) => {
      appends += 1;
      if (appends > 3) throw new StvError('conflict', 'The run is no longer held by this server.');
      return store.append(...given);
    };
    const { app, engine } = await buildApp({ store: withFaults(store, { append }), engine: slow });
    const events = parseEvents((await post(app, '/solve', { ...solveBody, stream: true })).body);
    expect(events.at(-1)).toMatchObject({ event: 'error', data: { error: { type: 'overloaded_error' } } });
    expect(events.some(({ event }) => event === 'solve-end')).toBe(false);
    expect(engine.numOpen).toBe(0);
  });
});
