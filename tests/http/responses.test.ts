import OpenAI, { APIError } from 'openai';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { StvError } from '../../src/errors.ts';
import { startFakeEngine } from '../support/fake-engine.ts';
import { expectResponse, expectResponseStream, textCases } from '../support/open-responses.ts';
import { buildApp, createApp, listen, type TestApp, testPack } from './build-app.ts';
import { expectComponent, parseEvents, post } from './contract.ts';

let shared: TestApp;
let client: OpenAI;

beforeAll(async () => {
  shared = await createApp({ engine: { delayMs: 1 } });
  client = new OpenAI({ baseURL: `${await listen(shared.app)}/v1`, apiKey: 'none', maxRetries: 0 });
});

afterAll(() => shared.app.close());

const route = '/v1/responses';
const body = { model: 'generator', input: 'What is 1 + 1?' };

async function stream(app: TestApp['app'], request: object) {
  const answer = await post(app, route, { ...request, stream: true });
  expect(answer.headers['content-type']).toContain('text/event-stream');
  const events = parseEvents(answer.body);
  for (const { data } of events.slice(0, -1)) expectComponent('ResponseEvent', data);
  return { events, response: expectResponseStream(events) };
}

describe('Open Responses', () => {
  it.each(textCases)('$name', async ({ body: given, stream: isStream }) => {
    const request = { model: 'generator', ...given };
    const response = isStream
      ? (await stream(shared.app, request)).response
      : expectResponse((await post(shared.app, route, request)).json());
    expect(response).toMatchObject({ status: 'completed', completed_at: expect.any(Number) });
    expect(response.output).toMatchObject([{ type: 'message', content: [{ text: 'one two three' }] }]);
  });

  it('the JSON answer is the fold of the stream', async () => {
    const request = { ...body, seed: 3, metadata: { lesson: '7' }, instructions: 'Be brief.' };
    const { response } = await stream(shared.app, request);
    const answer = await post(shared.app, route, request);
    expect(answer.statusCode).toBe(200);
    // two requests: their ids differ, and their times where a second passes between them
    const comparable = (value: object): unknown =>
      JSON.parse(
        JSON.stringify(value)
          .replaceAll(/(resp|msg)_[0-9A-Z]{26}/g, '$1')
          .replaceAll(/("(?:created|completed)_at"):\d+/g, '$1:0'),
      );
    expect(comparable(answer.json())).toEqual(comparable(response));
    expect(response).toMatchObject({ metadata: { lesson: '7' }, instructions: 'Be brief.', store: false });
  });

  it('a full budget makes it incomplete', async () => {
    const { response } = await stream(shared.app, { ...body, max_output_tokens: 2 });
    expect(response).toMatchObject({
      status: 'incomplete',
      completed_at: null,
      incomplete_details: { reason: 'max_output_tokens' },
      output: [{ status: 'incomplete', content: [{ text: 'one two' }] }],
      usage: { output_tokens: 2 },
    });
  });
});

describe('the conversation', () => {
  it('puts instructions first and leaves reasoning of earlier turns out', async () => {
    await post(shared.app, route, {
      model: 'generator',
      instructions: 'Be brief.',
      input: [
        { role: 'developer', content: 'Use metres.' },
        {
          role: 'user',
          content: [
            { type: 'input_text', text: 'How' },
            { type: 'input_text', text: ' far?' },
          ],
        },
        { type: 'reasoning', id: 'rs_1', summary: [{ type: 'summary_text', text: 'secret' }] },
        {
          type: 'message',
          id: 'msg_1',
          status: 'completed',
          role: 'assistant',
          content: [{ type: 'output_text', text: 'Ten.', annotations: [], logprobs: [] }],
        },
        { type: 'message', role: 'user', content: 'Sure?' },
      ],
    });
    expect(shared.engine.requests.at(-1)?.prompt).toEqual({
      kind: 'chat',
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'system', content: 'Use metres.' },
        { role: 'user', content: 'How far?' },
        { role: 'assistant', content: 'Ten.' },
        { role: 'user', content: 'Sure?' },
      ],
    });
  });

  it.each([
    ['previous_response_id', { previous_response_id: 'resp_1' }],
    ['conversation', { conversation: 'conv_1' }],
    ['background', { background: true }],
    ['tools', { tools: [{ type: 'function', name: 'f' }] }],
    ['text', { text: { format: { type: 'json_schema', name: 'x', schema: {} } } }],
    ['input.0', { input: [{ type: 'function_call_output', call_id: 'c', output: 'x' }] }],
    ['input.0', { input: [{ type: 'item_reference', id: 'msg_1' }] }],
    ['input.0.content.0', { input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'data:,' }] }] }],
  ])('refuses what it cannot honour: %s', async (param, extra) => {
    const answer = await post(shared.app, route, { ...body, ...extra });
    expect(answer.statusCode).toBe(400);
    expect(answer.json().error).toMatchObject({ code: 'unsupported_parameter', param });
  });

  it('ignores vendor fields and what changes nothing', async () => {
    const answer = await post(shared.app, route, {
      ...body,
      tools: [],
      tool_choice: 'auto',
      text: { format: { type: 'text' }, verbosity: 'low' },
      store: true,
      truncation: 'auto',
      reasoning: { effort: 'low' },
      previous_response_id: null,
      background: false,
      service_tier: 'auto',
      vendor_field: { deep: [1] },
    });
    expect(answer.statusCode, answer.body).toBe(200);
    expect(answer.json()).toMatchObject({ store: false, truncation: 'disabled', tools: [] });
  });

  it.each([
    [{ model: 'generator' }, 'input'],
    [{ ...body, input: [] }, 'input'],
    [{ ...body, input: '' }, 'input'],
    [{ ...body, max_output_tokens: 0 }, 'max_output_tokens'],
    [{ ...body, temperature: 3 }, 'temperature'],
    [{ ...body, input: [{ role: 'robot', content: 'x' }] }, 'input.0.role'],
  ])('names the wrong field: %j', async (request, param) => {
    const answer = await post(shared.app, route, request);
    expect(answer.statusCode).toBe(400);
    expect(answer.json().error).toMatchObject({ code: 'invalid_value', param });
  });
});

describe('the official client', () => {
  it('reads text, usage and log-probabilities', async () => {
    const response = await client.responses.create({
      ...body,
      include: ['message.output_text.logprobs'],
      top_logprobs: 1,
    });
    expect(response.output_text).toBe('one two three');
    expect(response.usage?.output_tokens).toBe(3);
    const [item] = response.output;
    const logprobs = item?.type === 'message' && item.content[0]?.type === 'output_text' && item.content[0].logprobs;
    expect(logprobs).toHaveLength(3);
    expect((logprobs || [])[0]).toMatchObject({ token: 'one', top_logprobs: [{ token: 'one' }] });
  });

  it('streams and folds', async () => {
    const events = client.responses.stream({ ...body });
    let text = '';
    for await (const event of events) if (event.type === 'response.output_text.delta') text += event.delta;
    expect(text).toBe('one two three');
    expect((await events.finalResponse()).output_text).toBe(text);
  });

  it('throws on a failure in mid-stream; who reads on sees response.failed', async () => {
    const { app } = await buildApp({
      engine: {
        onWord: (_, numWords) => {
          if (numWords === 2) throw new StvError('engine_crashed', 'The engine was restarted.');
        },
      },
    });
    const { events, response } = await stream(app, body);
    expect(events.map(({ event }) => event).slice(-3)).toEqual(['error', 'response.failed', undefined]);
    expect(response).toMatchObject({
      status: 'failed',
      error: { code: 'engine_crashed', message: 'The engine was restarted.' },
      output: [{ status: 'incomplete', content: [{ text: 'one two' }] }],
    });
    const failing = new OpenAI({ baseURL: `${await listen(app)}/v1`, apiKey: 'none', maxRetries: 0 });
    await expect(async () => {
      for await (const event of await failing.responses.create({ ...body, stream: true }))
        expect(event.type).toBeDefined();
    }).rejects.toBeInstanceOf(APIError);
  });

  it('gets a status for what fails before the first event', async () => {
    const { app } = await buildApp({
      engine: {
        reply: () => {
          throw new StvError('queue_full', 'Busy.');
        },
      },
    });
    const answer = await post(app, route, { ...body, stream: true });
    expect(answer.statusCode).toBe(429);
    expect(answer.json().error.code).toBe('queue_full');
    await expect(client.responses.create({ ...body, model: 'nope' })).rejects.toMatchObject({ status: 404 });
  });
});

it.each([true, false])('an input that is too long is named as such (stream: %s)', async (isStream) => {
  const { app, serving } = await buildApp();
  const { engine } = await startFakeEngine();
  onTestFinished(() => engine.close());
  serving.swap({ engine, pack: testPack });
  const answer = await post(app, route, { ...body, input: 'x'.repeat(600), stream: isStream });
  expect(answer.statusCode, answer.body).toBe(400);
  expect(answer.json().error).toMatchObject({ code: 'context_length_exceeded', param: 'input' });
});

describe('model `solve`', () => {
  const request = { model: 'solve', input: 'What is 1 + 1?', x_solve: { max_rounds: 1, seed: 3 } };

  it('gives every round as a reasoning item and the solution as the message', async () => {
    const { app } = await buildApp({ engine: { accept: () => 0.2 } });
    const { response } = await stream(app, request);
    expect(response.output.map(({ type }) => type)).toEqual(['reasoning', 'reasoning', 'message']);
    expect(response.output[0]).toMatchObject({
      summary: [
        { text: 'Round 0, attempt:\none two three\n\n' },
        { text: 'Round 0, verification:\none two three\nVerdict: reject (score 0.20)\n\n' },
      ],
    });
    expect(response).toMatchObject({ status: 'completed', x_solve: { status: 'exhausted' } });
    const json = expectResponse((await post(app, route, request)).json());
    const texts = (value: typeof json): string[] =>
      value.output.flatMap((item) => (item.type === 'message' ? item.content : item.summary)).map(({ text }) => text);
    expect(texts(json)).toEqual(texts(response));
    expect(json.usage).toEqual(response.usage);
  });

  it('a solution that its tokens cut off is incomplete', async () => {
    const { app } = await buildApp();
    const { response } = await stream(app, { ...request, x_solve: { max_rounds: 0 }, max_output_tokens: 2 });
    expect(response).toMatchObject({
      status: 'incomplete',
      incomplete_details: { reason: 'max_output_tokens' },
      x_solve: { status: 'accepted' },
    });
    expect(response.output.at(-1)).toMatchObject({ status: 'incomplete', content: [{ text: 'one two' }] });
  });

  it('gives rounds of several chains whole', async () => {
    const { app } = await buildApp({ engine: { accept: () => 0.2, delayMs: 1 } });
    const { response } = await stream(app, {
      ...request,
      x_solve: { ...request.x_solve, chains: 2, stop_chains: 'all' },
    });
    const rounds = response.output.flatMap((item) => (item.type === 'reasoning' ? [item.summary[0]?.text ?? ''] : []));
    expect(rounds.map((text) => text.split(', attempt')[0]).sort()).toEqual([
      'Chain 0, round 0',
      'Chain 0, round 1',
      'Chain 1, round 0',
      'Chain 1, round 1',
    ]);
  });

  it('a run that fails with nothing to show is an error; one with an attempt ends as failed with it', async () => {
    const failAt = (call: number) => {
      let calls = 0;
      return {
        engine: {
          reply: () => {
            calls += 1;
            if (calls === call) throw new StvError('engine_crashed', 'The engine was restarted.');
            return 'one two three';
          },
        },
      };
    };
    const first = await buildApp(failAt(1));
    expect((await post(first.app, route, request)).statusCode).toBe(503);
    const second = await buildApp(failAt(2));
    const { response } = await stream(second.app, request);
    expect(response).toMatchObject({ status: 'failed', error: { code: 'engine_crashed' } });
    expect(response.output.at(-1)).toMatchObject({ type: 'message', content: [{ text: 'one two three' }] });
  });

  it.each([
    ['stop', { stop: 'x' }],
    ['top_logprobs', { top_logprobs: 2 }],
    ['logit_bias', { logit_bias: { 7: 1 } }],
    ['presence_penalty', { presence_penalty: 1 }],
    ['frequency_penalty', { frequency_penalty: 1 }],
    ['repetition_penalty', { repetition_penalty: 2 }],
  ])('refuses %s', async (param, extra) => {
    const answer = await post(shared.app, route, { ...request, ...extra });
    expect(answer.json().error).toMatchObject({ code: 'unsupported_parameter', param });
  });

  it('reports the sampling that was in force', async () => {
    const generator = { temperature: 0.4, top_p: 0.8, max_tokens: 7 };
    const given = { temperature: 1, top_p: 0.9, max_output_tokens: 9 };
    const { engine } = shared;
    const json = (
      await post(shared.app, route, { ...request, ...given, x_solve: { max_rounds: 0, generator } })
    ).json();
    expect(json).toMatchObject({ temperature: 0.4, top_p: 0.8, max_output_tokens: 7 });
    expect(engine.requests.at(-2)).toMatchObject({ maxTokens: 7, sampling: { temperature: 0.4, topP: 0.8 } });
    expect((await post(shared.app, route, { ...request, ...given })).json()).toMatchObject(given);
  });

  it('needs a user message', async () => {
    const answer = await post(shared.app, route, { ...request, input: [{ role: 'system', content: 'x' }] });
    expect(answer.json().error).toMatchObject({ code: 'invalid_value', param: 'input' });
  });
});
