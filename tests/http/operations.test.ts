import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { type ApiKeys, loadApiKeys } from '../../src/api-keys.ts';
import { loadConfig } from '../../src/config.ts';
import type { EngineStats } from '../../src/engine/engine-stats.ts';
import type { ModelSwap } from '../../src/model-swap.ts';
import { describeContract } from '../../src/server.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { buildApp, testPack } from './build-app.ts';
import { call, committed, expectComponent, post } from './contract.ts';
import { TestEngine } from './test-engine.ts';

describe('health', () => {
  it('is live before it is ready, and says why not', async () => {
    const { app, serving, engine } = await buildApp({ ready: false });
    serving.loading('Converting weights.');
    expect((await call(app, { url: '/health/live' })).json()).toEqual({ status: 'live' });
    const early = await call(app, { url: '/health/ready' });
    expect(early.statusCode).toBe(503);
    const error = { message: 'Converting weights.', type: 'overloaded_error', code: 'not_ready', param: null };
    expect(early.json()).toEqual({ status: 'loading', reason: 'Converting weights.', error });
    expect((await call(app, { url: '/health/progress' })).statusCode).toBe(503);
    serving.ready({ engine, pack: testPack });
    expect((await call(app, { url: '/health/ready' })).json()).toEqual({ status: 'ready', reason: null });
    serving.drain();
    expect((await call(app, { url: '/health/ready' })).json().status).toBe('draining');
    const refused = await post(app, '/verify', { problem: 'p', solution: 's' });
    expect(refused.statusCode).toBe(503);
    expect(refused.json().error.code).toBe('draining');
  });

  it('is not ready while the engine restarts', async () => {
    const { app } = await buildApp({ engine: { status: { state: 'restarting', reason: 'The engine host crashed.' } } });
    const answer = await call(app, { url: '/health/ready' });
    expect(answer.statusCode).toBe(503);
    expect(answer.json()).toMatchObject({ status: 'restarting', reason: 'The engine host crashed.' });
  });

  it('progress is 503 when work waits and nothing moves for the limit, not before', async () => {
    const stuck = { running: 1, waiting: 2, lastStepMsAgo: 900_000, lastTokenMsAgo: 900_000 };
    const { app, serving } = await buildApp({ engine: { status: stuck }, config: { stallSeconds: 1 } });
    // a long idle time before this work says nothing about it
    const first = await call(app, { url: '/health/progress' });
    expect([first.statusCode, first.json().status]).toEqual([200, 'ok']);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    const later = await call(app, { url: '/health/progress' });
    expect(later.statusCode).toBe(503);
    expect(later.json()).toEqual({
      error: expect.objectContaining({ type: 'overloaded_error', code: 'not_ready' }),
      status: 'stalled',
      running: 1,
      waiting: 2,
      last_step_ms_ago: 900_000,
      last_token_ms_ago: 900_000,
    });
    // what came in its place has just begun
    serving.swap({ engine: new TestEngine({ status: stuck }), pack: testPack });
    expect((await call(app, { url: '/health/progress' })).json().status).toBe('ok');
  });

  it('progress of an idle server is 200', async () => {
    const { app } = await buildApp({ engine: { status: { lastStepMsAgo: 9e6, lastTokenMsAgo: 9e6 } } });
    expect((await call(app, { url: '/health/progress' })).json()).toMatchObject({
      status: 'idle',
      running: 0,
      waiting: 0,
    });
  });
});

const endedRequest = {
  type: 'request',
  model: 'm',
  kind: 'generate',
  finishReason: 'stop',
  usage: {
    promptTokens: 10,
    cachedTokens: 4,
    completionTokens: 5,
    acceptedPredictionTokens: 2,
    rejectedPredictionTokens: 1,
  },
  timings: { queueMs: 1, prefillMs: 2, decodeMs: 40 },
  firstTokenMs: 3,
} as const satisfies EngineStats;

describe('metrics', () => {
  it('count verdicts, runs, tokens and errors without any text of a user', async () => {
    const { app } = await buildApp();
    await post(app, '/verify', { problem: 'PRIVATE', solution: 'PRIVATE' });
    await post(app, '/solve', { problem: 'PRIVATE', max_rounds: 1, metadata: { PRIVATE: 'PRIVATE' } });
    await post(app, '/verify', { PRIVATE: 1 });
    await app.inject({ url: '/PRIVATE' });
    const answer = await app.inject({ url: '/metrics' });
    expect(answer.headers['content-type']).toContain('text/plain');
    const text = answer.body;
    expect(text).toContain('stv_verdicts_total{verdict="accept",mode="full"} 1');
    expect(text).toContain('stv_solves_total{status="accepted",stop_reason="accepted"} 1');
    expect(text).toContain('stv_solves_running 0');
    expect(text).toContain('stv_tokens_total{role="generator",kind="completion"} 3');
    expect(text).toContain('stv_errors_total{code="not_found"} 1');
    expect(text).toMatch(/stv_http_request_duration_seconds_count\{route="\/verify",method="POST",status="200"\} 1/);
    expect(text).toContain('stv_event_loop_lag_seconds{quantile="0.99"}');
    expect(text).not.toContain('PRIVATE');
  });

  it('take what the engine tells', async () => {
    const { app, metrics } = await buildApp();
    metrics.setEngineStatus(() => ({ state: 'ready', running: 3, waiting: 4, lastStepMsAgo: 1, lastTokenMsAgo: 2000 }));
    metrics.observeEngine(endedRequest);
    const step = {
      numLanes: 2,
      numTokens: 9,
      numPromptTokens: 0,
      numOutputTokens: 6,
      numDraftTokens: 8,
      numAcceptedTokens: 5,
      numRepeatDraftTokens: 7,
      numRepeatAcceptedTokens: 4,
      forwardMs: 1,
      outsideMs: 1,
      running: 2,
      waiting: 0,
      slotsUsed: 2,
      slotsCached: 0,
      prefixHitTokens: 0,
      prefixQueryTokens: 0,
      copiedTokens: 0,
      numPreemptions: 0,
      numEvictions: 0,
    };
    metrics.observeEngine({ type: 'step', model: 'm', ...step });
    expect((await app.inject({ url: '/metrics' })).body).toContain('stv_kv_cache_slots{model="m",state="used"} 2');
    metrics.observeEngine({ type: 'slots', model: 'm', used: 0, cached: 1 });
    const text = (await app.inject({ url: '/metrics' })).body;
    for (const line of [
      'stv_sequences_running 3',
      'stv_kv_cache_slots{model="m",state="used"} 0',
      'stv_kv_cache_slots{model="m",state="cached"} 1',
      'stv_sequences_waiting 4',
      'stv_last_token_age_seconds 2',
      'stv_requests_total{model="m",kind="generate",finish_reason="stop"} 1',
      'stv_output_tokens_total{model="m"} 5',
      'stv_prediction_tokens_total{model="m",source="prediction",outcome="accepted"} 2',
      'stv_prediction_tokens_total{model="m",source="prediction",outcome="rejected"} 1',
      'stv_prediction_tokens_total{model="m",source="repeat",outcome="accepted"} 4',
      'stv_prediction_tokens_total{model="m",source="repeat",outcome="rejected"} 3',
      'stv_time_to_first_token_seconds_sum{model="m"} 0.003',
      'stv_inter_token_latency_seconds_sum{model="m"} 0.01',
    ]) {
      expect(text).toContain(line);
    }
  });

  it('add up what two engines hold during a swap, and forget models that are loaded no more', async () => {
    const { app, metrics } = await buildApp();
    const engineOf = (...names: string[]) => ({ models: () => names.map((name) => ({ name, aliases: [] })) });
    const old = { engine: engineOf('both', 'old') };
    const current = { engine: engineOf('both', 'new') };
    const models = { current: old, draining: [] as object[], counts: {} };
    metrics.setModels(models as unknown as ModelSwap);
    const expose = async () => (await app.inject('/metrics')).body;
    const hold = (tokens: number, used: number, { engine }: typeof old) => {
      metrics.observeEngine({ type: 'queue', queuedRequests: 1, queuedTokens: tokens }, engine);
      for (const { name } of engine.models()) {
        metrics.observeEngine({ type: 'slots', model: name, used, cached: 0 }, engine);
        metrics.observeEngine({ type: 'error', model: name, code: 'queue_full' }, engine);
      }
    };
    hold(5, 2, old);
    models.current = current;
    models.draining = [old];
    hold(7, 3, current);
    const during = await expose();
    for (const line of [
      'stv_queued_tokens 12',
      'stv_kv_cache_slots{model="both",state="used"} 5',
      'stv_kv_cache_slots{model="old",state="used"} 2',
      'stv_engine_errors_total{model="old",code="queue_full"} 1',
    ]) {
      expect(during).toContain(line);
    }
    metrics.observeEngine({ ...endedRequest, model: 'old' });
    models.draining = [];
    const after = await expose();
    expect(after).not.toContain('model="old"');
    for (const line of [
      'stv_queued_tokens 7',
      'stv_kv_cache_slots{model="both",state="used"} 3',
      'stv_engine_errors_total{model="both",code="queue_full"} 2',
      'stv_engine_errors_total{model="new",code="queue_full"} 1',
    ]) {
      expect(after).toContain(line);
    }
  });

  it('tell how each remote server does', async () => {
    const remote = {
      remote: 'gpu:8000',
      model: 'm',
      dialect: 'vllm',
      circuit: 'half-open',
      failuresInARow: 5,
    } as const;
    const counts = {
      circuitOpened: 2,
      running: 3,
      waiting: 4,
      requests: 50,
      retries: 6,
      failures: 7,
      estimatedUsages: 8,
    };
    const { app, metrics, engine } = await buildApp();
    metrics.setEngineStatus(() => ({ ...engine.status(), remotes: [{ ...remote, ...counts }] }));
    for (let scrape = 0; scrape < 2; scrape++) {
      const text = (await app.inject({ url: '/metrics' })).body;
      for (const line of [
        'stv_remote_requests_total{remote="gpu:8000",model="m"} 50',
        'stv_remote_retries_total{remote="gpu:8000",model="m"} 6',
        'stv_remote_failures_total{remote="gpu:8000",model="m"} 7',
        'stv_remote_circuit_opened_total{remote="gpu:8000",model="m"} 2',
        'stv_remote_estimated_usages_total{remote="gpu:8000",model="m"} 8',
        'stv_remote_circuit_state{remote="gpu:8000",model="m"} 1',
        'stv_remote_sequences{remote="gpu:8000",model="m",state="running"} 3',
        'stv_remote_sequences{remote="gpu:8000",model="m",state="waiting"} 4',
      ]) {
        expect(text).toContain(line);
      }
    }
  });
});

describe('contract', () => {
  it('openapi/openapi.json is what the schemas give', async () => {
    const document = await describeContract(loadConfig({ env: { STV_DATA_DIR: '/' }, cwd: '/nonexistent' }));
    // as JSON, which knows no undefined
    expect(committed, 'run `npm run openapi`').toEqual(JSON.parse(JSON.stringify(document)));
  });

  it('the server answers its own contract with the limits that it was started with', async () => {
    const { app } = await buildApp({ config: { maxTextLength: 99, maxOutputTokens: 77 } });
    const document = (await app.inject({ url: '/openapi.json' })).json();
    const { properties } = document.components.schemas.VerifyRequest;
    expect(properties.problem.maxLength).toBe(99);
    expect(properties.max_tokens.maximum).toBe(77);
    expect(Object.keys(document.paths)).toEqual(Object.keys(committed.paths));
  });

  it('/docs shows it without anything from outside', async () => {
    const { app } = await buildApp();
    const answer = await app.inject({ url: '/docs/' });
    expect(answer.statusCode).toBe(200);
    expect(answer.headers['content-security-policy']).toContain("default-src 'self'");
    expect(answer.body).not.toMatch(/(?:src|href)="https?:/);
    expect((await app.inject({ url: '/docs/static/swagger-ui-bundle.js' })).statusCode).toBe(200);
  });
});

describe('x-request-id', () => {
  it.each(['abc-123', 'a'.repeat(128)])('%s is echoed', async (id) => {
    const { app } = await buildApp();
    const answer = await app.inject({ url: '/health/live', headers: { 'x-request-id': id } });
    expect(answer.headers['x-request-id']).toBe(id);
  });

  it.each(['a'.repeat(129), 'a b', 'a"b', 'ä', ''])('%j is replaced', async (id) => {
    const { app } = await buildApp();
    const answer = await app.inject({ url: '/nope', headers: { 'x-request-id': id } });
    expect(answer.headers['x-request-id']).toMatch(/^req_[0-9A-Z]{26}$/);
  });
});

describe('keys and scopes', () => {
  function keys(): ApiKeys {
    const file = path.join(temporaryFolder(), 'keys');
    writeFileSync(file, '# keys\nkey-infer infer one\nkey-metrics metrics two\n\nkey-all infer,metrics,traces,admin\n');
    return loadApiKeys(file);
  }
  const body = { problem: 'p', solution: 's' };

  it.each([
    [undefined, 401, 'invalid_api_key'],
    ['Bearer wrong', 401, 'invalid_api_key'],
    ['Basic key-infer', 401, 'invalid_api_key'],
    ['Bearer key-metrics', 403, 'insufficient_scope'],
    ['Bearer key-infer', 200, undefined],
    ['bearer key-all', 200, undefined],
  ])('%s on /verify: %i', async (authorization, status, code) => {
    const { app, engine } = await buildApp({ keys: keys() });
    const answer = await post(app, '/verify', body, authorization === undefined ? {} : { authorization });
    expect(answer.statusCode).toBe(status);
    if (code === undefined) return;
    expect(answer.json().error.code).toBe(code);
    expect(answer.headers['www-authenticate']).toBe(status === 401 ? 'Bearer' : undefined);
    expect(engine.requests).toHaveLength(0);
  });

  it('guard every route that is not open', async () => {
    const { app } = await buildApp({ keys: keys() });
    const open = ['/health/live', '/health/ready', '/health/progress', '/openapi.json'];
    for (const [template, operations] of Object.entries(committed.paths)) {
      for (const method of Object.keys(operations)) {
        const url = template.replaceAll(/\{\w+\}/g, 'x');
        const answer = await app.inject({ method: method.toUpperCase() as 'GET', url });
        if (open.includes(template)) expect(answer.statusCode, url).toBe(200);
        else expect(answer.statusCode, `${method} ${url}`).toBe(401);
      }
    }
    expect((await app.inject({ url: '/metrics', headers: { authorization: 'Bearer key-infer' } })).statusCode).toBe(
      403,
    );
    expect((await app.inject({ url: '/metrics', headers: { authorization: 'Bearer key-metrics' } })).statusCode).toBe(
      200,
    );
    expect((await app.inject({ url: '/docs/' })).statusCode).toBe(200);
  });

  it('without keys only loopback names are answered', async () => {
    const { app } = await buildApp();
    for (const host of ['127.0.0.1:8000', 'localhost:8000', '[::1]:8000']) {
      expect((await app.inject({ url: '/v1/models', headers: { host } })).statusCode, host).toBe(200);
    }
    const answer = await app.inject({ url: '/v1/models', headers: { host: 'rebound.example:8000' } });
    expect(answer.statusCode).toBe(403);
    expectComponent('Error', answer.json());
  });
});
