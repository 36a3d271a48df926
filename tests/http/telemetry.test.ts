/** Spans of runs, as a collector receives them. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { noSpan } from '../../src/stv/spans.ts';
import { openTelemetry } from '../../src/telemetry/open-telemetry.ts';
import { parseTraceparent, type Telemetry } from '../../src/telemetry/telemetry.ts';
import { type OtlpReceiver, type ReceivedSpan, startOtlpReceiver } from '../support/otlp-receiver.ts';
import { buildApp } from './build-app.ts';
import { call, post } from './contract.ts';

const traceId = '0af7651916cd43dd8448eb211c80319c';
const traceparent = `00-${traceId}-b7ad6b7169203331-01`;

async function traced(): Promise<{ readonly receiver: OtlpReceiver; readonly telemetry: Telemetry }> {
  const receiver = await startOtlpReceiver();
  onTestFinished(() => receiver.close());
  const telemetry = await openTelemetry({ otlpEndpoint: receiver.url.href, offline: true });
  return { receiver, telemetry };
}

const named = (spans: readonly ReceivedSpan[], name: string): ReceivedSpan[] =>
  spans.filter((span) => span.name === name);

describe('spans of a run', () => {
  it('nest run, round, generate, verify and vote below the trace of the request, with its tokens and no text', async () => {
    const { receiver, telemetry } = await traced();
    const { app } = await buildApp({ telemetry, engine: { reply: () => 'SECRET words', accept: () => 0.2 } });
    const body = {
      problem: 'PRIVATE problem',
      max_rounds: 1,
      chains: 2,
      accept: { rule: 'votes', k: 2, n: 2 },
      metadata: { name: 'HIDDEN' },
    };
    const answer = (await post(app, '/solve', body, { traceparent })).json();
    await telemetry.close();

    const { spans } = receiver;
    expect(new Set(spans.map((span) => span.traceId))).toEqual(new Set([traceId]));
    const [run] = named(spans, 'stv.solve');
    expect(run).toMatchObject({
      parentSpanId: 'b7ad6b7169203331',
      isError: false,
      attributes: {
        'stv.solve_id': answer.id,
        'stv.status': 'exhausted',
        'stv.stop_reason': 'max_rounds',
        'stv.usage.total_tokens': answer.usage.total_tokens,
      },
    });
    const byId = new Map(spans.map((span) => [span.spanId, span]));
    const parents = {
      'stv.round': 'stv.solve',
      'stv.generate': 'stv.round',
      'stv.verify': 'stv.round',
      'stv.vote': 'stv.verify',
    };
    for (const [name, parent] of Object.entries(parents)) {
      const found = named(spans, name);
      expect(found.map(({ parentSpanId }) => byId.get(parentSpanId ?? '')?.name)).toEqual(found.map(() => parent));
    }
    for (const { parentSpanId, startNs, endNs } of spans) {
      const parent = byId.get(parentSpanId ?? '');
      if (parent === undefined) continue;
      // starts are read from a clock of milliseconds
      expect(Number(parent.startNs - startNs)).toBeLessThanOrEqual(2e6);
      expect(Number(endNs - parent.endNs)).toBeLessThanOrEqual(2e6);
    }
    const rounds = named(spans, 'stv.round').map(
      ({ attributes }) => `${attributes['stv.chain']}.${attributes['stv.round']}`,
    );
    expect(rounds.sort()).toEqual(['0.0', '0.1', '1.0', '1.1']);

    const tokens = (name: string, kind: 'input' | 'output'): number =>
      named(spans, name).reduce((sum, { attributes }) => sum + Number(attributes[`gen_ai.usage.${kind}_tokens`]), 0);
    const { generator, verifier } = answer.usage;
    expect(tokens('stv.generate', 'input')).toBe(generator.prompt_tokens);
    expect(tokens('stv.generate', 'output')).toBe(generator.completion_tokens);
    expect(tokens('stv.verify', 'input')).toBe(verifier.prompt_tokens);
    expect(tokens('stv.verify', 'output')).toBe(verifier.completion_tokens);
    // prefixes that are scored to find the first error are no votes
    expect(tokens('stv.vote', 'output')).toBe(verifier.completion_tokens);
    expect(receiver.bodies.join()).not.toMatch(/PRIVATE|SECRET|HIDDEN|words/);
  });

  it('end all, with the reason, when the run is cancelled', async () => {
    const { receiver, telemetry } = await traced();
    const { app, runs, engine } = await buildApp({ telemetry, engine: { delayMs: 20 } });
    const running = post(app, '/solve', { problem: 'p', seed: 1 }, { 'idempotency-key': 'k' });
    while (engine.numOpen === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    const [id] = engine.requests.map((request) => request.id.split('-')[0]);
    await call(app, { method: 'POST', url: `/solve/${id}/cancel` });
    expect((await running).json().status).toBe('cancelled');
    expect(runs.numLive).toBe(0);
    await telemetry.close();
    expect(named(receiver.spans, 'stv.generate')).toMatchObject([
      { isError: true, attributes: { 'error.type': 'cancelled' } },
    ]);
    expect(named(receiver.spans, 'stv.round')).toHaveLength(1);
    expect(named(receiver.spans, 'stv.solve')).toMatchObject([
      { isError: false, attributes: { 'stv.status': 'cancelled' } },
    ]);
  });

  it('begin a trace of their own without a context, and are dropped where the caller samples nothing', async () => {
    const { receiver, telemetry } = await traced();
    const { app } = await buildApp({ telemetry });
    await post(app, '/solve', { problem: 'p' }, { traceparent: traceparent.replace(/1$/, '0') });
    await post(app, '/solve', { problem: 'p' }, { traceparent: 'nonsense' });
    await telemetry.close();
    const [run, ...others] = named(receiver.spans, 'stv.solve');
    expect(others).toEqual([]);
    expect(run?.parentSpanId).toBeUndefined();
    expect(run?.traceId).not.toBe(traceId);
  });
});

describe('spans of calls without a run', () => {
  it('a verification holds its votes and a refinement its tokens, below the trace of the request', async () => {
    const { receiver, telemetry } = await traced();
    const { app } = await buildApp({ telemetry, engine: { reply: () => 'SECRET words' } });
    const body = { problem: 'PRIVATE problem', solution: 'PRIVATE', votes: 2, early_stop: false };
    const verified = (await post(app, '/verify', body, { traceparent })).json();
    const attempt = { problem: 'PRIVATE problem', attempt: 'PRIVATE', feedback: 'PRIVATE', stream: true };
    await post(app, '/refine', attempt, { traceparent });
    await telemetry.close();

    const { spans } = receiver;
    expect(spans).toHaveLength(4);
    expect(new Set(spans.map((span) => span.traceId))).toEqual(new Set([traceId]));
    const [call] = named(spans, 'stv.verify');
    expect(call).toMatchObject({
      parentSpanId: 'b7ad6b7169203331',
      isError: false,
      attributes: {
        'stv.call_id': verified.id,
        'stv.verdict': verified.verdict,
        'stv.votes': 2,
        'gen_ai.request.model': 'verifier',
        'gen_ai.usage.output_tokens': verified.usage.completion_tokens,
      },
    });
    expect(named(spans, 'stv.vote').map(({ parentSpanId }) => parentSpanId)).toEqual([call?.spanId, call?.spanId]);
    expect(named(spans, 'stv.refine')).toMatchObject([
      { parentSpanId: 'b7ad6b7169203331', isError: false, attributes: { 'stv.finish_reason': 'stop' } },
    ]);
    expect(receiver.bodies.join()).not.toMatch(/PRIVATE|SECRET|words/);
  });

  it('end with the code of the failure', async () => {
    const { receiver, telemetry } = await traced();
    const { app } = await buildApp({ telemetry });
    await post(app, '/verify', { problem: 'p', solution: 's', model: 'nobody' });
    await post(app, '/refine', { problem: 'p', attempt: 'a', feedback: 'f', model: 'nobody' });
    await telemetry.close();
    for (const name of ['stv.verify', 'stv.refine']) {
      expect(named(receiver.spans, name)).toMatchObject([
        { isError: true, attributes: { 'error.type': 'model_not_found' } },
      ]);
    }
  });
});

describe('telemetry', () => {
  it('is off by default', async () => {
    const config = loadConfig({ env: {}, cwd: '/nonexistent' });
    const telemetry = await openTelemetry(config);
    expect(telemetry.startRun({ id: 'slv_1' }, false)).toBe(noSpan);
    expect(telemetry.startCall('verify', { id: 'vrf_1', model: 'verifier' })).toBe(noSpan);
  });

  it('a collector that is away holds nobody up', async () => {
    const { receiver, telemetry } = await traced();
    await receiver.close();
    telemetry.startRun({ id: 'slv_1' }, false).end();
    await telemetry.close();
  });

  it.each([
    ['ftp://collector', false],
    ['collector', false],
    ['https://collector.example', true],
  ])('%s is refused', async (otlpEndpoint, offline) => {
    await expect(openTelemetry({ otlpEndpoint, offline })).rejects.toMatchObject({ code: 'config_invalid' });
  });

  it.each([
    [undefined, undefined],
    ['', undefined],
    [traceparent, { traceId, spanId: 'b7ad6b7169203331', traceFlags: 1 }],
    [`cc-${traceId}-b7ad6b7169203331-00-more`, { traceId, spanId: 'b7ad6b7169203331', traceFlags: 0 }],
    [`ff-${traceId}-b7ad6b7169203331-01`, undefined],
    [`00-${'0'.repeat(32)}-b7ad6b7169203331-01`, undefined],
    [`00-${traceId}-${'0'.repeat(16)}-01`, undefined],
    [traceparent.toUpperCase(), undefined],
  ])('reads the header %s', (header, parts) => {
    expect(parseTraceparent(header)).toEqual(parts);
  });
});
