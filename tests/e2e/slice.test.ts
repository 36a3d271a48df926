/**
 * The built server with SmolLM2-135M, driven as its users drive it: the official `openai` client, undici, plain fetch.
 * Answers of a 135M model are not judged here; shapes, terminal events, counts and the server's health are.
 */
import OpenAI from 'openai';
import { Client } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { collectSse, readSse } from '../support/read-sse.ts';
import { type RunningServer, startServer } from '../support/start-server.ts';

let server: RunningServer;
let openai: OpenAI;

beforeAll(async () => {
  server = await startServer();
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
});

afterAll(async () => {
  expect(await server.stop()).toBe(0);
});

const post = (route: string, body: unknown, init: RequestInit = {}): Promise<Response> =>
  fetch(server.url + route, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...init.headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...(init.signal ? { signal: init.signal } : {}),
  });

const json = async (answer: Response): Promise<Record<string, any>> => (await answer.json()) as Record<string, any>;

/** Resolves once no sequence runs or waits. */
async function idle(): Promise<void> {
  for (let i = 0; i < 200; i++) {
    const progress = await json(await fetch(`${server.url}/health/progress`));
    if (progress['running'] === 0 && progress['waiting'] === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error('Sequences still run or wait.');
}

const problem = 'A pen costs 3 euros and a book costs 5 euros. How much do two pens and one book cost together?';

describe('start', () => {
  it('prints where it listens, what it serves and a request to try', () => {
    const { stdout } = server.output();
    expect(stdout).toContain(server.url);
    expect(stdout).toMatch(/smollm2/i);
    expect(stdout).toContain('curl');
  });

  it('starts again from what it has kept, without a network', async () => {
    const second = await startServer({ args: ['--offline'] });
    expect(await second.stop()).toBe(0);
  });
});

describe('POST /verify', () => {
  it('answers a verdict with score, votes, usage and timings', async () => {
    const answer = await json(
      await post('/verify', {
        problem,
        solution: '2 * 3 + 5 = 11',
        votes: 3,
        max_tokens: 40,
        seed: 1,
        early_stop: false,
      }),
    );
    expect(answer['object']).toBe('verification');
    expect(['accept', 'reject', 'undetermined']).toContain(answer['verdict']);
    expect(answer['votes']).toHaveLength(3);
    expect(answer['usage'].total_tokens).toBe(answer['usage'].prompt_tokens + answer['usage'].completion_tokens);
  });

  it('scores with one prefill and no generated token', async () => {
    const answer = await json(await post('/verify', { problem, solution: '2 * 3 + 5 = 11', mode: 'score' }));
    expect(answer['raw_score']).toBeGreaterThanOrEqual(0);
    expect(answer['raw_score']).toBeLessThanOrEqual(1);
    expect(answer['usage'].completion_tokens).toBe(0);
  });

  it('gives the same answer for the same seed', async () => {
    const body = { problem, solution: '3 + 5 = 8', max_tokens: 24, seed: 7 };
    const [first, second] = [await json(await post('/verify', body)), await json(await post('/verify', body))];
    expect(second['feedback']).toBe(first['feedback']);
    expect(second['score']).toBeCloseTo(first['score'], 3);
  });
});

describe('POST /refine', () => {
  it('answers a new attempt', async () => {
    const answer = await json(
      await post('/refine', { problem, attempt: '3 + 5 = 8', feedback: 'There are two pens.', max_tokens: 48 }),
    );
    expect(answer['object']).toBe('refinement');
    expect(answer['attempt'].length).toBeGreaterThan(0);
    expect(['stop', 'length']).toContain(answer['finish_reason']);
  });
});

describe('POST /solve', () => {
  const body = {
    problem,
    max_rounds: 1,
    chains: 2,
    stop_chains: 'all',
    seed: 3,
    generator: { max_tokens: 40 },
    verifier: { max_tokens: 24 },
  };

  it('streams rounds of several chains and ends with one solve-end', async () => {
    const client = new Client(server.url);
    const answer = await client.request({
      method: 'POST',
      path: '/solve',
      headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
      body: JSON.stringify(body),
    });
    expect(answer.headers['content-type']).toContain('text/event-stream');
    expect(answer.headers['cache-control']).toContain('no-store');
    const events = await collectSse(answer.body);
    await client.close();
    const names = events.map(({ event }) => event);
    expect(names[0]).toBe('solve-start');
    expect(names.filter((name) => name === 'solve-end' || name === 'error')).toEqual(['solve-end']);
    expect(names.at(-1)).toBe('solve-end');
    const ids = events.map(({ id }) => Number(id));
    expect(ids.every((id, index) => index === 0 || id === (ids[index - 1] as number) + 1)).toBe(true);

    const end = events.at(-1)?.data as Record<string, any>;
    const rounds = end['chains'].flatMap((chain: Record<string, any>) => chain['rounds']);
    const total = rounds.reduce((sum: number, round: Record<string, any>) => {
      const of = (role: string): number => round['usage'][role]?.total_tokens ?? 0;
      return sum + of('generator') + of('verifier');
    }, 0);
    expect(end['usage'].total_tokens).toBe(total);
    expect(end['chains']).toHaveLength(2);
  });

  it('answers JSON with the same content as the stream', async () => {
    const answer = await json(await post('/solve', body));
    expect(answer['object']).toBe('solve');
    expect(['accepted', 'exhausted', 'abstained']).toContain(answer['status']);
    expect(answer['solution']).toBeTypeOf('string');
  });

  it('takes the attempt of a student and verifies it first', async () => {
    const answer = await json(
      await post('/solve', { ...body, chains: 1, max_rounds: 0, initial_attempt: '3 + 5 = 8' }),
    );
    expect(answer['chains'][0].rounds[0].attempt).toBe('3 + 5 = 8');
    expect(answer['usage'].generator.total_tokens).toBe(0);
  });
});

describe('OpenAI routes through the official client', () => {
  it('lists models', async () => {
    const models = await openai.models.list();
    expect(models.data.map(({ id }) => id)).toEqual(expect.arrayContaining(['generator', 'verifier', 'solve']));
  });

  it('completes a chat, whole and streamed, with the same greedy text', async () => {
    const request = {
      model: 'generator',
      messages: [{ role: 'user' as const, content: 'Say hello to the class.' }],
      max_tokens: 24,
      temperature: 0,
    };
    const whole = await openai.chat.completions.create(request);
    const stream = await openai.chat.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = '';
    let usage: OpenAI.CompletionUsage | undefined;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? '';
      usage = chunk.usage ?? usage;
    }
    expect(text).toBe(whole.choices[0]?.message.content);
    expect(text.length).toBeGreaterThan(0);
    expect(usage?.completion_tokens).toBe(whole.usage?.completion_tokens);
  });

  it('runs the loop as a model', async () => {
    const stream = await openai.chat.completions.create({
      model: 'solve',
      messages: [{ role: 'user', content: problem }],
      max_tokens: 40,
      stream: true,
      ...{ x_solve: { max_rounds: 0, verifier: { max_tokens: 16 }, generator: { max_tokens: 32 } } },
    });
    let content = '';
    let last: unknown;
    for await (const chunk of stream) {
      content += chunk.choices[0]?.delta.content ?? '';
      last = chunk;
    }
    expect(content.length).toBeGreaterThan(0);
    expect(last).toHaveProperty('x_solve.status');
  });

  it('raises the errors of the client library', async () => {
    await expect(
      openai.chat.completions.create({ model: 'nobody', messages: [{ role: 'user', content: 'x' }] }),
    ).rejects.toMatchObject({ status: 404, code: 'model_not_found' });
    await expect(
      openai.chat.completions.create({
        model: 'generator',
        messages: [{ role: 'user', content: 'word '.repeat(12_000) }],
      }),
    ).rejects.toMatchObject({ status: 400, code: 'context_length_exceeded' });
  });
});

describe('a client that hangs up', () => {
  const long = {
    problem,
    max_rounds: 20,
    generator: { max_tokens: 400 },
    verifier: { max_tokens: 400 },
    accept: { rule: 'consecutive', k: 20 },
  };

  it.each(['attempt-delta', 'verification-delta', 'round-end'])('frees its sequence (during %s)', async (phase) => {
    const abort = new AbortController();
    const answer = await post('/solve', long, { headers: { accept: 'text/event-stream' }, signal: abort.signal });
    for await (const { event } of readSse(answer.body as unknown as AsyncIterable<Uint8Array>)) {
      if (event === phase) break;
    }
    abort.abort();
    await idle();
  });

  it('frees it during a long prefill and in a JSON request', async () => {
    const abort = new AbortController();
    const request = post(
      '/verify',
      { problem, solution: 'two and two make four. '.repeat(200), max_tokens: 400 },
      { signal: abort.signal },
    );
    await new Promise((resolve) => setTimeout(resolve, 60));
    abort.abort();
    await expect(request).rejects.toThrow();
    await idle();
  });
});

describe('bad input', () => {
  it.each([
    ['a missing field', '/verify', { problem }, 400, /solution/],
    ['an unknown field', '/verify', { problem, solution: 'x', colour: 1 }, 400, /colour/],
    ['a wrong type', '/verify', { problem: 5, solution: 'x' }, 400, /problem/],
    ['an empty text', '/refine', { problem: '', attempt: 'x', feedback: 'y' }, 400, /problem/],
    ['too many sequences', '/solve', { problem, chains: 65 }, 400, /chains/],
    ['broken JSON', '/solve', '{"problem": ', 400, /JSON/i],
    ['a context overflow', '/verify', { problem, solution: 'word '.repeat(12_000) }, 400, /context|tokens/],
  ])('refuses %s and goes on', async (_, route, body, status, message) => {
    const answer = await post(route, body);
    expect(answer.status).toBe(status);
    const { error } = await json(answer);
    expect(error.message).toMatch(message);
    expect(error.type).toBe('invalid_request_error');
    expect((await fetch(`${server.url}/health/ready`)).status).toBe(200);
  });
});

describe('operations', () => {
  it('shows metrics, health and the contract', async () => {
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toMatch(/^stv_output_tokens_total.* [1-9]/m);
    expect((await json(await fetch(`${server.url}/openapi.json`)))['paths']).toHaveProperty('/solve');
    expect((await fetch(`${server.url}/docs`)).status).toBe(200);
    expect((await fetch(`${server.url}/health/live`)).status).toBe(200);
  });
});
