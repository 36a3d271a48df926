import { appendFileSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { noApiKeys } from '../../src/api-keys.ts';
import { exportTraces } from '../../src/cli/traces.ts';
import { createClient, type Trace, type TracesQuery } from '../../src/client/client.ts';
import { StvError } from '../../src/errors.ts';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import { version } from '../../src/version.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { buildApp, listen, type TestApp, testPack } from './build-app.ts';
import { call, expectComponent, post } from './contract.ts';

const hard = { accept: () => 0.2 };
const label = { reference: 'PRIVATE reference', answer: '2' };

async function openStore(): Promise<SqlRunStore> {
  const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
  onTestFinished(() => store.close());
  return store;
}

interface TraceLine {
  readonly trace_id: string;
  readonly [field: string]: unknown;
}

async function traces({ app }: TestApp, query = '', headers: Record<string, string> = {}): Promise<TraceLine[]> {
  const answer = await app.inject({ url: `/traces${query}`, headers });
  expect(answer.statusCode, answer.body).toBe(200);
  expect(answer.headers['content-type']).toBe('application/jsonl; charset=utf-8');
  const lines = answer.body.split('\n');
  expect(lines.pop()).toBe('');
  const records = lines.map((line) => JSON.parse(line) as TraceLine);
  for (const record of records) expectComponent('Trace', record);
  return records;
}

describe('GET /traces', () => {
  it('gives every finished round as the run itself has it, with the state that it was made from', async () => {
    const test = await buildApp({ store: await openStore(), engine: hard });
    const body = { problem: 'p', max_rounds: 2, chains: 2, seed: 1, store: true, metadata: { caseId: 'A' } };
    const answer = (await post(test.app, '/solve', body)).json();
    const records = await traces(test);
    expect(records).toHaveLength(6);
    for (const { chain, rounds } of answer.chains) {
      const own = records.filter((record) => record['chain'] === chain);
      own.forEach((record, round) => {
        expect(record).toMatchObject({ ...rounds[round], object: 'trace', solve_id: answer.id, models: answer.models });
        expect(record).toMatchObject({ problem: 'p', metadata: { caseId: 'A' } });
        expect(record['versions']).toEqual({ server: version, pack: testPack.version });
        expect(record['previous_attempt']).toBe(round === 0 ? null : rounds[round - 1].attempt);
        expect(record['previous_feedback']).toBe(round === 0 ? null : rounds[round - 1].feedback);
      });
    }
  });

  it('pages by trace_id, beyond what is held in memory at once, and goes on where it stopped', async () => {
    const test = await buildApp({ store: await openStore(), engine: hard });
    await post(test.app, '/solve', { problem: 'p', max_rounds: 60, seed: 1, store: true });
    const all = await traces(test, '?limit=1000');
    expect(all.map((record) => record['round'])).toEqual(Array.from({ length: 61 }, (_, round) => round));
    expect(await traces(test, '?limit=7')).toEqual(all.slice(0, 7));
    expect(await traces(test, `?limit=53&after=${all[6]?.trace_id}`)).toEqual(all.slice(7, 60));
    expect(await traces(test, `?after=${all[60]?.trace_id}`)).toEqual([]);
  });

  it('holds the sampled tokens with their log-probabilities where the run asked for them', async () => {
    const test = await buildApp({ store: await openStore(), engine: { ...hard, reply: () => 'ab cde' } });
    await post(test.app, '/solve', { problem: 'p', max_rounds: 1, store: true, logprobs: true });
    const [first, second] = await traces(test);
    // the test engine's tokens are the lengths of its words and of its end
    const sampled = { ids: [2, 4, 5], logprobs: [-0.5, -0.5, -0.5] };
    const word = { accept: Math.log(0.2), reject: Math.log(0.8), undetermined: null };
    expect(second).toMatchObject({ logprobs: sampled, votes: [{ logprobs: { feedback: sampled, verdict: word } }] });
    expect(first).toMatchObject({ logprobs: sampled });

    await post(test.app, '/solve', { problem: 'q', max_rounds: 0, initial_attempt: 'x', store: true, logprobs: true });
    expect((await traces(test)).at(-1)).not.toHaveProperty('logprobs');
    await post(test.app, '/solve', { problem: 'r', max_rounds: 0, store: true });
    expect(JSON.stringify((await traces(test)).at(-1))).not.toContain('logprobs');
  });

  it('is read by the client, page after page', { timeout: 30_000 }, async () => {
    const test = await buildApp({ store: await openStore(), engine: hard });
    await post(test.app, '/solve', { problem: 'p', max_rounds: 69, chains: 3, seed: 1, store: true, label });
    const client = createClient({ baseUrl: await listen(test.app) });
    const read = async (query?: TracesQuery): Promise<Trace[]> => {
      const found: Trace[] = [];
      for await (const trace of client.traces(query)) found.push(trace);
      return found;
    };
    const all = await read();
    expect(all.map(({ trace_id: id }) => id)).toEqual((await traces(test, '?limit=1000')).map((one) => one.trace_id));
    expect(all).toHaveLength(210);
    expect(all[0]).not.toHaveProperty('label');
    expect(await read({ after: all[4]?.trace_id, limit: 203 })).toEqual(all.slice(5, 208));
    expect((await read({ limit: 1, labels: true }))[0]?.label).toEqual(label);
  });

  it('shows labels only where they are asked for, and nothing of runs that are not stored or were erased', async () => {
    const test = await buildApp({ store: await openStore() });
    await post(test.app, '/solve', { problem: 'p', label });
    expect(await traces(test)).toEqual([]);
    const { id } = (await post(test.app, '/solve', { problem: 'p', label, store: true })).json();
    await post(test.app, '/solve', { problem: 'q', store: true });
    expect(JSON.stringify(await traces(test))).not.toContain('PRIVATE');
    expect((await traces(test, '?labels=true')).map((record) => record['label'])).toEqual([label, undefined]);
    await call(test.app, { method: 'DELETE', url: `/solve/${id}` });
    expect((await traces(test, '?labels=true')).map((record) => record['problem'])).toEqual(['q']);
  });

  it('holds each round once when a run goes on at another server', async () => {
    const store = await openStore();
    const first = await buildApp({ store, engine: { ...hard, delayMs: 5, reply: () => 'word '.repeat(40) } });
    const { id } = (await post(first.app, '/solve', { problem: 'p', max_rounds: 2, seed: 1, background: true })).json();
    await vi.waitFor(async () => expect(await traces(first)).toHaveLength(1), 5000);
    await first.runs.park(new StvError('draining', 'The server shuts down.'));
    const second = await buildApp({ store, engine: hard });
    second.serving.swap({ engine: second.engine, pack: { ...testPack, version: '1.1.0' } });
    second.runs.beginUpkeep();
    await vi.waitFor(async () => {
      expect((await call(second.app, { url: `/solve/${id}` })).json().status).toBe('exhausted');
    }, 5000);
    const records = await traces(second);
    expect(records.map((record) => record['round'])).toEqual([0, 1, 2]);
    // of whoever wrote the round, not of whoever shows it
    expect((await traces(first)).map((record) => record['versions'])).toEqual(
      [testPack.version, '1.1.0', '1.1.0'].map((pack) => ({ server: version, pack })),
    );
    expect(records.map((record) => record['previous_attempt'])).toEqual([
      null,
      ...records.slice(0, 2).map((record) => record['attempt']),
    ]);
    await second.runs.close(new StvError('draining', 'The test is over.'));
  });

  it('needs the scope traces, which reads the runs of every key', async () => {
    const keys = new Map([
      ['user', { id: 'user', scopes: new Set(['infer'] as const), limits: {} }],
      ['trainer', { id: 'trainer', scopes: new Set(['traces'] as const), limits: {} }],
    ]);
    const test = await buildApp({
      store: await openStore(),
      keys: { ...noApiKeys, isRequired: true, find: (secret) => keys.get(secret) },
    });
    const headers = { authorization: 'Bearer user' };
    await post(test.app, '/solve', { problem: 'p', store: true }, headers);
    expect((await call(test.app, { url: '/traces', headers })).statusCode).toBe(403);
    expect((await call(test.app, { url: '/traces' })).statusCode).toBe(401);
    expect(await traces(test, '', { authorization: 'Bearer trainer' })).toHaveLength(1);
  });

  it('refuses a wrong query, and says so where there is no store', async () => {
    const { app } = await buildApp({ store: await openStore() });
    for (const query of ['after=slv_1', 'limit=0', 'limit=1001', 'labels=perhaps', 'owner=x']) {
      expect((await call(app, { url: `/traces?${query}` })).statusCode, query).toBe(400);
    }
    const without = await buildApp();
    expect((await call(without.app, { url: '/traces' })).json().error.code).toBe('unsupported_parameter');
  });
});

describe('stv traces export', () => {
  it('writes what the route gives, and goes on after the last line of its file', async () => {
    const test = await buildApp({ store: await openStore(), engine: hard });
    const url = await listen(test.app);
    const out = path.join(temporaryFolder(), 'traces.jsonl');
    const options = { url, after: undefined, withLabels: false, out };
    expect(await exportTraces(options)).toBe(0);
    const run = { problem: 'p', max_rounds: 3, seed: 1, store: true, label };
    await post(test.app, '/solve', run);
    expect(await exportTraces(options)).toBe(4);
    await post(test.app, '/solve', run);
    expect(await exportTraces(options)).toBe(4);
    expect(await exportTraces(options)).toBe(0);
    const read = (file: string) =>
      readFileSync(file, 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line));
    const all = await traces(test);
    expect(read(out)).toEqual(all);
    const some = path.join(temporaryFolder(), 'some.jsonl');
    expect(await exportTraces({ ...options, out: some, after: all[5]?.trace_id, withLabels: true })).toBe(2);
    expect(read(some).map((line) => line.label)).toEqual([label, label]);
  });

  it('does not write behind half a line or into a file of something else', async () => {
    const test = await buildApp({ store: await openStore() });
    const url = await listen(test.app);
    const out = path.join(temporaryFolder({ 'x.jsonl': '{"a": 1}\n' }), 'x.jsonl');
    const options = { url, after: undefined, withLabels: false, out };
    await expect(exportTraces(options)).rejects.toMatchObject({ code: 'config_invalid' });
    const own = path.join(temporaryFolder(), 'own.jsonl');
    await post(test.app, '/solve', { problem: 'p', store: true });
    await exportTraces({ ...options, out: own });
    appendFileSync(own, '{"trace_id": "trc_0000');
    await expect(exportTraces({ ...options, out: own })).rejects.toMatchObject({ code: 'config_invalid' });
  });
});
