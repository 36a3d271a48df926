/** The remote engine against a server that misbehaves on purpose; times are short, so that a stall is over soon. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { CombinedEngine } from '../../src/engine/combined-engine.ts';
import type { GenerateRequest, GenerationEvent, Prompt } from '../../src/engine/engine.ts';
import type { EngineStats } from '../../src/engine/engine-stats.ts';
import type { RemoteConfig } from '../../src/engine/remote/remote-config.ts';
import type { RemoteEngine } from '../../src/engine/remote/remote-engine.ts';
import { startRemoteEngine } from '../../src/engine/remote/start-remote-engine.ts';
import { DEFAULT_SAMPLING } from '../../src/engine/sampling-params.ts';
import { StvError } from '../../src/errors.ts';
import {
  behave,
  chunk,
  done,
  drip,
  finish,
  type MisbehavingServer,
  reset,
  sendJson,
  stall,
  startMisbehavingServer,
  stream,
  usage,
} from '../support/misbehaving-server.ts';

const LIMITS = {
  firstEventMs: 250,
  stallMs: 120,
  minRetryDelayMs: 5,
  maxRetryDelayMs: 300,
  failureThreshold: 50,
} as const;

async function connect(server: MisbehavingServer, remote: Partial<RemoteConfig> = {}): Promise<RemoteEngine> {
  const engine = await startRemoteEngine({
    remote: { url: server.url, ...remote, limits: { ...LIMITS, ...remote.limits } },
    label: 'pack/generator',
    aliases: ['generator'],
    startTimeoutMs: 2000,
  });
  onTestFinished(() => engine.close());
  return engine;
}

async function start(remote: Partial<RemoteConfig> = {}): Promise<{ server: MisbehavingServer; engine: RemoteEngine }> {
  const server = await startMisbehavingServer();
  return { server, engine: await connect(server, remote) };
}

const chat = (content: string, assistantPrefix?: string): Prompt => ({
  kind: 'chat',
  messages: [{ role: 'user', content }],
  ...(assistantPrefix === undefined ? {} : { assistantPrefix }),
});

function request(more: Partial<GenerateRequest> = {}): GenerateRequest {
  return {
    id: 'r',
    model: 'generator',
    prompt: chat('What is 2 + 2?'),
    sampling: { ...DEFAULT_SAMPLING, seed: 5 },
    maxTokens: 50,
    stop: [],
    priority: 'interactive',
    ...more,
  };
}

interface Collected {
  readonly text: string;
  readonly events: GenerationEvent[];
  readonly end: Extract<GenerationEvent, { type: 'end' }> | undefined;
  readonly error: StvError | undefined;
}

async function collect(
  engine: RemoteEngine,
  given: GenerateRequest = request(),
  { signal, onEvent }: { signal?: AbortSignal; onEvent?: (event: GenerationEvent) => void } = {},
): Promise<Collected> {
  const events: GenerationEvent[] = [];
  let error: StvError | undefined;
  try {
    for await (const event of engine.generate(given, signal === undefined ? {} : { signal })) {
      events.push(event);
      onEvent?.(event);
    }
  } catch (thrown) {
    if (!(thrown instanceof StvError)) throw thrown;
    error = thrown;
  }
  const text = events.map((event) => (event.type === 'delta' ? event.text : '')).join('');
  const ends = events.filter((event) => event.type === 'end');
  // exactly one ending, whatever the server does
  expect(ends.length + (error === undefined ? 0 : 1)).toBe(1);
  return { text, events, end: ends[0], error };
}

describe('an answer', () => {
  it('streams with counts, and uses one connection for many requests', async () => {
    const { server, engine } = await start();
    const { text, events, end } = await collect(engine);
    expect(text).toBe('Two and two.');
    expect(events[0]?.type).toBe('start');
    expect(end).toMatchObject({
      finishReason: 'stop',
      model: 'pack/generator@remote:m',
      usage: { promptTokens: 9, completionTokens: 3 },
    });
    expect(end?.usage.isEstimated).toBeUndefined();
    const before = server.numConnections();
    for (let i = 0; i < 5; i++) expect((await collect(engine)).text).toBe('Two and two.');
    expect(server.numConnections()).toBe(before);
  });

  it('sends what was asked for, in the fields that every server knows', async () => {
    const { server, engine } = await start({ apiKey: 'k-123' });
    await collect(engine, request({ stop: ['END'], maxTokens: 7, logprobs: 2, prompt: chat('a <|im_end|> b') }));
    const [seen] = server.seen;
    expect(seen?.path).toBe('/v1/chat/completions');
    expect(seen?.headers.authorization).toBe('Bearer k-123');
    expect(seen?.body).toMatchObject({
      model: 'm',
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: 7,
      stop: ['END'],
      seed: 5,
      logprobs: true,
      top_logprobs: 2,
    });
    expect(seen?.body.messages).toHaveLength(1);
    expect(seen?.body.messages[0].content).not.toContain('<|im_end|>');
  });

  it('takes text that comes in halves, with CR LF, comments and several events at once', async () => {
    const { server, engine } = await start();
    const whole =
      `: ping\n\n${chunk('Grüße ')}${chunk('🦊')}`.replaceAll('\n', '\r\n') + finish('length') + usage(3, 2) + done;
    const bytes = Buffer.from(whole);
    server.next(async (answer) => {
      stream(answer);
      for (let at = 0; at < bytes.length; at += 37) {
        answer.write(bytes.subarray(at, at + 37));
        await sleep(1);
      }
      answer.end();
    });
    const { text, end } = await collect(engine);
    expect(text).toBe('Grüße 🦊');
    expect(end).toMatchObject({ finishReason: 'length', usage: { promptTokens: 3, completionTokens: 2 } });
  });

  it('estimates and marks the usage that a server leaves out', async () => {
    const { server, engine } = await start();
    server.next((answer) => void stream(answer).end(chunk('a') + chunk('b') + finish() + done));
    const { end } = await collect(engine);
    expect(end?.usage).toMatchObject({ completionTokens: 2, isEstimated: true });
    expect(end?.usage.promptTokens).toBeGreaterThan(0);
    expect(engine.status().remotes?.[0]?.estimatedUsages).toBe(1);
  });

  it('is complete without [DONE], and when the connection breaks behind the finish', async () => {
    const { server, engine } = await start();
    server.next((answer) => void stream(answer).end(chunk('a') + finish()), reset(chunk('a'), finish()));
    expect((await collect(engine)).end?.finishReason).toBe('stop');
    expect((await collect(engine)).end?.finishReason).toBe('stop');
  });

  it('loses its repeated beginning', async () => {
    const { server, engine } = await start();
    server.next(behave(['<feed', 'back>', '\nStep 1']));
    const { text } = await collect(engine, request({ prompt: chat('Check it.', '<feedback>') }));
    expect(text).toBe('\nStep 1');
    expect(server.seen[0]?.body.messages.at(-1)).toEqual({ role: 'assistant', content: '<feedback>' });
  });
});

describe('retries', () => {
  it.each([
    ['a reset before the answer', reset()],
    ['a reset after the headers', reset(': hello\n\n')],
    ['a stream that ends empty', (answer: any) => void stream(answer).end()],
    ['a stream that ends after the role', (answer: any) => void stream(answer).end(chunk(''))],
    ['an error as the first event', (answer: any) => void stream(answer).end('data: {"error":{"message":"no"}}\n\n')],
    ['status 500', sendJson({ error: {} }, 500)],
    ['status 503', sendJson({}, 503)],
    ['status 429', sendJson({}, 429, { 'retry-after-ms': '20' })],
  ])('try again after %s', async (_, behaviour) => {
    const { server, engine } = await start();
    server.next(behaviour);
    expect((await collect(engine)).text).toBe('Two and two.');
    expect(server.seen).toHaveLength(2);
    expect(engine.status().remotes?.[0]).toMatchObject({ retries: 1, failures: 1, circuit: 'closed' });
  });

  it.each([
    ['a reset', reset(chunk('Two '))],
    ['an end without a finish', (answer: any) => void stream(answer).end(chunk('Two '))],
    ['[DONE] without a finish', (answer: any) => void stream(answer).end(chunk('Two ') + done)],
    ['half an event', (answer: any) => void stream(answer).end(`${chunk('Two ')}data: {"choices":[{"delta"`)],
    ['wrong JSON', (answer: any) => void stream(answer).end(`${chunk('Two ')}data: {"choices":\n\n`)],
    ['an error event', (answer: any) => void stream(answer).end(`${chunk('Two ')}data: {"error":{"code":500}}\n\n`)],
    ['an unknown finish', (answer: any) => void stream(answer).end(chunk('Two ') + finish('content_filter'))],
  ])('never after something was streamed: %s', async (_, behaviour) => {
    const { server, engine } = await start();
    server.next(behaviour);
    const { text, error } = await collect(engine);
    expect(text).toBe('Two ');
    expect(error?.code).toBe('remote_unavailable');
    expect(server.seen).toHaveLength(1);
  });

  it.each([
    ['wrong JSON first', (answer: any) => void stream(answer).end('data: hello\n\n'), 'remote_unavailable'],
    ['another content type', (answer: any) => void answer.end('<html>'), 'remote_unavailable'],
    ['status 400', sendJson({ error: { message: 'the secret prompt' } }, 400), 'remote_unavailable'],
    ['status 401', sendJson({}, 401), 'remote_unavailable'],
    [
      'a redirect',
      (answer: any) => void answer.writeHead(302, { location: 'http://127.0.0.1:9/' }).end(),
      'remote_unavailable',
    ],
    ['no such route', sendJson({}, 404), 'unsupported_parameter'],
    [
      'an end for another reason',
      (answer: any) => void stream(answer).end(finish('content_filter')),
      'remote_unavailable',
    ],
    ['a prompt too long', sendJson({ error: { code: 'context_length_exceeded' } }, 400), 'context_length_exceeded'],
    ['a long pause asked for', sendJson({}, 429, { 'retry-after': '20' }), 'queue_full'],
  ])('are not made for %s', async (_, behaviour, code) => {
    const { server, engine } = await start();
    server.next(behaviour);
    const { error } = await collect(engine);
    expect(error?.code).toBe(code);
    expect(error?.message).not.toContain('secret');
    expect(server.seen).toHaveLength(1);
    if (code === 'queue_full') expect(error?.retryAfterMs).toBe(20_000);
  });

  it('wait as long as asked, and end with the deadline', async () => {
    const { server, engine } = await start();
    server.next(sendJson({}, 429, { 'retry-after-ms': '100' }));
    await collect(engine);
    const [first, second] = server.seen;
    expect((second?.atMs ?? 0) - (first?.atMs ?? 0)).toBeGreaterThanOrEqual(99);
    server.next(sendJson({}, 429, { 'retry-after-ms': '250' }));
    const began = performance.now();
    const { error } = await collect(engine, request({ deadline: Date.now() + 150 }));
    expect(error?.code).toBe('queue_full');
    expect(performance.now() - began).toBeLessThan(140);
  });

  it('end after so many', async () => {
    const { server, engine } = await start({ limits: { maxRetries: 2 } });
    server.next(...Array.from({ length: 5 }, () => reset()));
    expect((await collect(engine)).error?.code).toBe('remote_unavailable');
    expect(server.seen).toHaveLength(3);
  });
});

describe('time and size', () => {
  it.each([
    ['no headers', () => undefined],
    ['headers only', stall()],
    [
      'comments only',
      (answer: any) => {
        stream(answer);
        const timer = setInterval(() => answer.write(': ping\n\n'), 20);
        answer.on('close', () => clearInterval(timer));
      },
    ],
    ['a stall in the middle', stall(chunk('Two '))],
    ['a slow drip', drip(10, chunk('Two ').repeat(5))],
    ['a drip in the middle', drip(10, chunk('and ').repeat(5), chunk('Two '))],
  ])('gives up on %s and hangs up', async (_, behaviour) => {
    const { server, engine } = await start();
    server.next(behaviour as never);
    const { error } = await collect(engine);
    expect(error?.code).toBe('remote_unavailable');
    expect(error?.message).toMatch(/sent nothing for \d+ ms/);
    expect(server.seen).toHaveLength(1);
    await server.seen[0]?.hungUp;
  });

  it('ends at the deadline', async () => {
    const { server, engine } = await start();
    server.next(stall());
    const { error } = await collect(engine, request({ deadline: Date.now() + 60 }));
    expect(error?.code).toBe('deadline_exceeded');
    await server.seen[0]?.hungUp;
  });

  it.each([
    [
      'an endless line',
      (answer: any) => {
        stream(answer).write('data: ');
        const timer = setInterval(() => answer.write('x'.repeat(20_000)), 1);
        answer.on('close', () => clearInterval(timer));
      },
    ],
    [
      'an event without end',
      (answer: any) => {
        stream(answer);
        const timer = setInterval(() => answer.write(`data: ${'x'.repeat(1000)}\n`.repeat(20)), 1);
        answer.on('close', () => clearInterval(timer));
      },
    ],
    ['one huge event', (answer: any) => void stream(answer).write(chunk('x'.repeat(200_000)))],
    [
      'a stream without end',
      (answer: any) => {
        stream(answer);
        const timer = setInterval(() => answer.write(chunk('x').repeat(200)), 1);
        answer.on('close', () => clearInterval(timer));
      },
    ],
  ])('cuts off %s', async (_, behaviour) => {
    const { server, engine } = await start({ limits: { maxEventBytes: 50_000 } });
    server.next(behaviour);
    const { error } = await collect(engine);
    expect(error?.code).toBe('remote_unavailable');
    await server.seen[0]?.hungUp;
  });

  it.each([
    ['texts', 'x'.repeat(20_000), {}],
    ['reasoning', '', { delta: { reasoning_content: 'x'.repeat(20_000) } }],
    ['token ids', 'x', { token_ids: Array.from({ length: 40 }, () => 7) }],
    [
      'log-probabilities',
      'x',
      { logprobs: { content: Array.from({ length: 40 }, () => ({ token: 'x', logprob: -1 })) } },
    ],
  ])('cuts off %s that so many tokens cannot have, in however few events', async (_, text, more) => {
    const { server, engine } = await start();
    server.next((answer) => void stream(answer).end(chunk(text, more).repeat(100) + finish() + usage(9, 8) + done));
    const answered = await collect(engine);
    expect(answered.error?.message).toContain('goes on past the tokens');
    expect(answered.text.length).toBeLessThanOrEqual(1_048_576 + 50 * 256);
  });

  it('does not count the time of a slow reader', async () => {
    const { engine } = await start();
    const events: string[] = [];
    for await (const event of engine.generate(request())) {
      events.push(event.type);
      await sleep(150);
    }
    expect(events).toEqual(['start', 'delta', 'delta', 'delta', 'end']);
  });
});

describe('cancellation', () => {
  it.each([
    ['before the first byte', () => undefined, 0],
    ['in the middle', stall(chunk('Two ')), 2],
  ])('reaches the server at once: %s', async (_, behaviour, afterEvents) => {
    const { server, engine } = await start({ limits: { firstEventMs: 5000, stallMs: 5000 } });
    server.next(behaviour as never);
    const abort = new AbortController();
    let numEvents = 0;
    if (afterEvents === 0) setTimeout(() => abort.abort(), 50);
    const { end } = await collect(engine, request(), {
      signal: abort.signal,
      onEvent: () => {
        if (++numEvents === afterEvents) setTimeout(() => abort.abort(), 10);
      },
    });
    expect(end?.finishReason).toBe('cancelled');
    await server.seen[0]?.hungUp;
    expect(server.seen).toHaveLength(1);
    expect(engine.status()).toMatchObject({ running: 0, waiting: 0 });
  });

  it('reaches the server when the reader leaves, and while it holds an event', async () => {
    const { server, engine } = await start({ limits: { stallMs: 5000 } });
    server.next(stall(chunk('Two ')), stall(chunk('Two ')));
    for await (const event of engine.generate(request())) if (event.type === 'delta') break;
    await server.seen[0]?.hungUp;
    const abort = new AbortController();
    const events = engine.generate(request(), { signal: abort.signal })[Symbol.asyncIterator]();
    await events.next();
    abort.abort();
    await server.seen[1]?.hungUp;
    const kinds = [];
    for (let next = await events.next(); next.done !== true; next = await events.next()) kinds.push(next.value.type);
    expect(kinds.at(-1)).toBe('end');
    expect(engine.status().running).toBe(0);
  });

  it('ends a pause between attempts and a wait for a turn', async () => {
    const { server, engine } = await start({ limits: { maxConcurrent: 1, maxRetryDelayMs: 60_000 } });
    server.next(sendJson({}, 429, { 'retry-after': '30' }));
    const [first, second] = [new AbortController(), new AbortController()];
    const both = [
      collect(engine, request(), { signal: first.signal }),
      collect(engine, request(), { signal: second.signal }),
    ];
    await sleep(50);
    expect(engine.status()).toMatchObject({ running: 1, waiting: 1 });
    second.abort();
    first.abort();
    for (const each of both) expect((await each).end?.finishReason).toBe('cancelled');
    expect(server.seen).toHaveLength(1);
  });

  it('ends everything when the engine closes', async () => {
    const { server, engine } = await start({ limits: { firstEventMs: 5000 } });
    server.next(stall());
    const open = collect(engine);
    await sleep(50);
    await engine.close();
    expect((await open).error?.code).toBe('draining');
    expect(engine.status().state).toBe('closed');
    await server.seen[0]?.hungUp;
  });
});

describe('limits', () => {
  it('lets so many through at a time and refuses what is too many', async () => {
    const { server, engine } = await start({ limits: { maxConcurrent: 2, maxQueued: 1, firstEventMs: 5000 } });
    const answers: (() => void)[] = [];
    const hold = (answer: any, seen: any): void => void answers.push(() => void behave()(answer, seen));
    server.next(hold, hold);
    const open = [collect(engine), collect(engine), collect(engine)];
    await expect.poll(() => server.seen.length).toBe(2);
    expect((await collect(engine)).error?.code).toBe('queue_full');
    expect(() => engine.checkRoom('generator')).toThrow('1 requests wait, the limit is 1');
    expect(engine.status()).toMatchObject({ running: 2, waiting: 1 });
    for (const answer of answers) answer();
    for (const each of await Promise.all(open)) expect(each.text).toBe('Two and two.');
  });
});

describe('circuit', () => {
  it('opens after failures in a row, spares the server, and closes with a trial that succeeds', async () => {
    const { server, engine } = await start({
      limits: { failureThreshold: 2, maxRetries: 0, minOpenMs: 100, maxOpenMs: 100 },
    });
    server.next(reset(), sendJson({}, 500));
    await collect(engine);
    expect(engine.status().state).toBe('ready');
    await collect(engine);
    expect(engine.status()).toMatchObject({ state: 'restarting', remotes: [{ circuit: 'open', circuitOpened: 1 }] });
    const { error } = await collect(engine);
    expect(error).toMatchObject({ code: 'remote_unavailable' });
    expect(error?.retryAfterMs).toBeGreaterThan(0);
    expect(server.seen).toHaveLength(2);
    await sleep(110);
    expect(engine.status()).toMatchObject({ state: 'ready', remotes: [{ circuit: 'half-open' }] });
    expect((await collect(engine)).text).toBe('Two and two.');
    expect(engine.status().remotes?.[0]).toMatchObject({ circuit: 'closed', failuresInARow: 0 });
  });

  it('opens for generations that fail, however well the server encodes', async () => {
    const server = await startMisbehavingServer();
    server.route('/v1/models', () => ({ data: [{ id: 'm', owned_by: 'vllm', max_model_len: 64 }] }));
    server.route('/tokenize', () => ({ tokens: [1, 2, 3] }));
    const clock = { now: 0 };
    const limits = { failureThreshold: 5, maxRetries: 0, minOpenMs: 1000 };
    const engine = await startRemoteEngine({
      remote: { url: server.url, limits },
      label: 'pack/generator',
      aliases: ['generator'],
      now: () => clock.now,
    });
    onTestFinished(() => engine.close());
    server.next(...Array.from({ length: 100 }, () => reset()));
    let numSent = 0;
    const ask = (): Promise<Collected> => collect(engine, request({ prompt: chat(`What is ${numSent++} + 2?`) }));
    for (let times = 0; times < 100; times++) expect((await ask()).error?.code).toBe('remote_unavailable');
    expect(server.seen).toHaveLength(5);
    expect(engine.status().remotes?.[0]).toMatchObject({ circuit: 'open', circuitOpened: 1 });
    clock.now = 1000;
    for (let times = 0; times < 3; times++) await engine.countTokens('generator', chat(`Count ${times}.`));
    expect(engine.status().remotes?.[0]).toMatchObject({ circuit: 'half-open' });
    await ask();
    expect(engine.status().remotes?.[0]).toMatchObject({ circuit: 'open', circuitOpened: 2 });
  });

  it('does not open for requests that are refused or cancelled', async () => {
    const { server, engine } = await start({ limits: { failureThreshold: 1, maxRetries: 0 } });
    server.next(
      sendJson({}, 400),
      sendJson({}, 429),
      (answer: any) => void stream(answer).end(finish('abort')),
      stall(),
    );
    await collect(engine);
    await collect(engine);
    await collect(engine);
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 30);
    await collect(engine, request(), { signal: abort.signal });
    expect(engine.status().remotes?.[0]?.circuit).toBe('closed');
  });
});

describe('score', () => {
  const scored = {
    id: 's',
    model: 'generator',
    prompt: chat('Check it.', '<verdict>'),
    priority: 'interactive',
  } as const;
  const words = ['correct', 'wrong'];
  const answer = (text: string, content?: readonly unknown[]): object => ({
    choices: [
      {
        index: 0,
        message: { content: text },
        finish_reason: 'length',
        logprobs: content === undefined ? null : { content },
      },
    ],
    usage: { prompt_tokens: 20, completion_tokens: 1 },
  });
  const token = (text: string, probabilities: Readonly<Record<string, number>>): object => ({
    token: text,
    logprob: Math.log(probabilities[text] ?? 1),
    top_logprobs: Object.entries(probabilities).map(([entry, p]) => ({ token: entry, logprob: Math.log(p) })),
  });

  it('reads the first token where log-probabilities come without a tokenizer', async () => {
    const { server, engine } = await start();
    server.next(sendJson(answer('wrong', [token('wrong', { wrong: 0.6, correct: 0.3 })])));
    const result = await engine.score({ ...scored, candidates: words });
    expect(result.logprobs.map(Math.exp).map((p) => p.toFixed(3))).toEqual(['0.300', '0.600']);
    expect(result).toMatchObject({ method: 'first-token', usage: { promptTokens: 20, completionTokens: 1 } });
    expect(server.seen[0]?.body).toMatchObject({ top_logprobs: 20, temperature: 0 });
  });

  it('takes one answer as a vote where there are none, and does not ask for them again', async () => {
    const { server, engine } = await start();
    const vote = sendJson(answer(' wrong</verdict>'));
    for (let times = 0; times < 3; times++) server.next(sendJson({}, 400), vote);
    server.next(sendJson(answer('Hmm')));
    for (let times = 0; times < 3; times++) {
      expect(await engine.score({ ...scored, candidates: words })).toMatchObject({
        logprobs: [Number.NEGATIVE_INFINITY, 0],
        method: 'vote',
      });
    }
    const none = await engine.score({ ...scored, candidates: words });
    expect(none.logprobs).toEqual([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]);
    const [asked, without] = [20, undefined];
    const tops = server.seen.map(({ body }) => body.top_logprobs);
    expect(tops).toEqual([asked, without, asked, without, asked, without, without]);
  });

  it('multiplies over the tokens of the candidates where the server encodes for us', async () => {
    const server = await startMisbehavingServer();
    server.route('/v1/models', () => ({ data: [{ id: 'm', owned_by: 'vllm', max_model_len: 4096 }] }));
    // "correct" = 1 2, "wrong" = 1 3 4: they part at their second token
    const tokens = (text: string): number[] =>
      text.endsWith('correct') ? [1, 2] : text.endsWith('wrong') ? [1, 3, 4] : [];
    server.route('/tokenize', (body) => ({ tokens: [10, 11, ...tokens(body.messages?.at(-1).content ?? '')] }));
    const engine = await connect(server);
    const distribution: Readonly<Record<string, Readonly<Record<string, number>>>> = {
      '10,11': { 1: 0.8, 9: 0.1 },
      '10,11,1': { 2: 0.25, 3: 0.5 },
      '10,11,1,3': { 4: 0.9 },
    };
    for (let i = 0; i < 3; i++) {
      server.next((reply, { body }) => {
        const at = distribution[String(body.prompt)] ?? {};
        const top = Object.fromEntries(Object.entries(at).map(([id, p]) => [`token_id:${id}`, Math.log(p)]));
        const [best] = Object.keys(top);
        sendJson({
          choices: [
            {
              index: 0,
              text: 'x',
              finish_reason: 'length',
              logprobs: { tokens: [best], token_logprobs: [top[best ?? '']], top_logprobs: [top] },
            },
          ],
        })(reply);
      });
    }
    const result = await engine.score({ ...scored, candidates: words });
    expect(result.logprobs.map(Math.exp).map((p) => p.toFixed(4))).toEqual(['0.2000', '0.3600']);
    expect(result.method).toBeUndefined();
    // the prompt once, 1 and 1 3 read behind it
    expect(result.usage.promptTokens).toBe(2 + 1 + 2);
    expect(server.asked.find(({ path }) => path === '/tokenize')?.body).toBeDefined();
    expect(server.asked.filter(({ body }) => body?.messages).at(-1)?.body).toMatchObject({
      continue_final_message: true,
      add_generation_prompt: false,
    });
  });

  it.each([
    ['wrong JSON', (reply: any) => void reply.writeHead(200, { 'content-type': 'application/json' }).end('{"choi')],
    ['a stall', () => undefined],
    [
      'an endless answer',
      (reply: any) => {
        reply.writeHead(200, { 'content-type': 'application/json' });
        const timer = setInterval(() => reply.write(' '.repeat(50_000)), 1);
        reply.on('close', () => clearInterval(timer));
      },
    ],
  ])('fails cleanly on %s', async (_, behaviour) => {
    const { server, engine } = await start({ limits: { maxJsonBytes: 400_000 } });
    server.next(behaviour as never);
    await expect(engine.score({ ...scored, candidates: words })).rejects.toMatchObject({ code: 'remote_unavailable' });
    expect(engine.status().running).toBe(0);
  });

  it('can be cancelled', async () => {
    const { server, engine } = await start();
    server.next(() => undefined);
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 30);
    await expect(engine.score({ ...scored, candidates: words }, { signal: abort.signal })).rejects.toMatchObject({
      code: 'cancelled',
    });
    await server.seen[0]?.hungUp;
  });
});

describe('tokens', () => {
  it('are bounded by bytes where the server cannot tell, and not made up', async () => {
    const { engine } = await start();
    expect(await engine.countTokens('generator', chat('ü'.repeat(100)))).toBeGreaterThanOrEqual(200);
    await expect(engine.tokenize('generator', 'x')).rejects.toMatchObject({ code: 'unsupported_parameter' });
  });

  it('are asked for once by all who want the same, whoever gives up meanwhile', async () => {
    const server = await startMisbehavingServer();
    server.route('/v1/models', () => ({ data: [{ id: 'm', owned_by: 'vllm', max_model_len: 64 }] }));
    server.route('/tokenize', async () => {
      await sleep(40);
      return { tokens: [1, 2, 3] };
    });
    const engine = await connect(server);
    const before = server.asked.length;
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 10);
    const [cancelled, counted] = await Promise.all([
      collect(engine, request(), { signal: abort.signal }),
      engine.countTokens('generator', request().prompt),
    ]);
    expect(cancelled.end?.finishReason).toBe('cancelled');
    expect(counted).toBe(3);
    expect(server.asked.length - before).toBe(1);
    // and with the count the output is kept within the context
    await collect(engine, request({ maxTokens: 500 }));
    expect(server.seen[0]?.body.max_tokens).toBe(61);
  });
});

describe('start', () => {
  it.each([
    ['the model is not served', { model: 'other' }, undefined, /"other".*m/],
    ['the key is refused', {}, 401, /API key/],
    ['the list is missing and no model named', {}, 404, /name the one/],
  ])('fails at once when %s', async (_, remote, status, message) => {
    const server = await startMisbehavingServer();
    if (status !== undefined) server.route('/v1/models', status);
    const failing = startRemoteEngine({ remote: { url: server.url, ...remote }, label: 'p', aliases: [] });
    await expect(failing).rejects.toMatchObject({ code: 'config_invalid', message: expect.stringMatching(message) });
    expect(server.asked).toHaveLength(1);
  });

  it('waits for a server that is not there yet', async () => {
    const first = await startMisbehavingServer();
    const port = Number(new URL(first.url).port);
    await first.close();
    const waits: string[] = [];
    const starting = startRemoteEngine({
      remote: { url: first.url },
      label: 'p',
      aliases: ['generator'],
      onWait: (why) => waits.push(why),
      random: () => 0,
    });
    await sleep(100);
    await startMisbehavingServer({ port });
    const engine = await starting;
    onTestFinished(() => engine.close());
    expect(waits).toHaveLength(1);
    expect((await collect(engine)).text).toBe('Two and two.');
  });

  it('says why when the wait is over, and can be ended', async () => {
    const remote = { url: 'http://127.0.0.1:9/v1' };
    await expect(startRemoteEngine({ remote, label: 'p', aliases: [], startTimeoutMs: 100 })).rejects.toMatchObject({
      code: 'remote_unavailable',
    });
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 50);
    await expect(startRemoteEngine({ remote, label: 'p', aliases: [], signal: abort.signal })).rejects.toMatchObject({
      code: 'cancelled',
    });
  });
});

describe('several engines as one', () => {
  it('send each request to the engine of its model and tell the state of all', async () => {
    const [one, other] = [await startMisbehavingServer(), await startMisbehavingServer()];
    const engines = await Promise.all(
      [one, other].map((server, index) =>
        startRemoteEngine({
          remote: { url: server.url, limits: { failureThreshold: 1, maxRetries: 0 } },
          label: `pack/${index}`,
          aliases: [index === 0 ? 'generator' : 'verifier'],
        }),
      ),
    );
    const engine = new CombinedEngine(engines);
    onTestFinished(() => engine.close());
    const stats: EngineStats[] = [];
    const remove = engine.onStats((each) => stats.push(each));
    for await (const _ of engine.generate(request({ model: 'verifier' })));
    expect([one.seen.length, other.seen.length]).toEqual([0, 1]);
    expect(stats).toMatchObject([
      { type: 'request', kind: 'generate', model: 'pack/1@remote:m', finishReason: 'stop' },
    ]);
    remove();
    expect(() => engine.generate(request({ model: 'nobody' }))).toThrow(
      expect.objectContaining({ code: 'model_not_found' }),
    );
    expect(engine.status()).toMatchObject({ state: 'ready', remotes: [{}, {}] });
    one.next(reset());
    await expect(async () => {
      for await (const _ of engine.generate(request()));
    }).rejects.toMatchObject({ code: 'remote_unavailable' });
    expect(engine.status()).toMatchObject({ state: 'restarting', reason: expect.stringContaining('failed 1 times') });
    expect(stats).toHaveLength(1);
    expect(() => new CombinedEngine([...engines, ...engines])).toThrow(
      expect.objectContaining({ code: 'config_invalid' }),
    );
  });
});
