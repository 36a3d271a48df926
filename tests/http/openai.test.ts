import OpenAI, { APIError, BadRequestError, NotFoundError } from 'openai';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { StvError } from '../../src/errors.ts';
import { startFakeEngine } from '../support/fake-engine.ts';
import { buildApp, closeApp, createApp, listen, type TestApp, testPack } from './build-app.ts';
import { expectComponent, parseEvents, post } from './contract.ts';

let shared: TestApp;
let client: OpenAI;

beforeAll(async () => {
  shared = await createApp({ engine: { delayMs: 1 } });
  client = clientOf(await listen(shared.app));
});

afterAll(() => closeApp(shared));

function clientOf(address: string): OpenAI {
  return new OpenAI({ baseURL: `${address}/v1`, apiKey: 'none', maxRetries: 0 });
}

const messages = [{ role: 'user', content: 'What is 1 + 1?' }] as const;
const params = { model: 'generator', messages: [...messages] };

describe('the official client', () => {
  it('completes a chat', async () => {
    const { data, response } = await client.chat.completions.create({ ...params, n: 2, seed: 5 }).withResponse();
    expectComponent('ChatCompletion', data);
    expect(data.id).toMatch(/^chatcmpl-[0-9A-Z]{26}$/);
    expect(data.choices.map(({ message, finish_reason }) => [message.content, finish_reason])).toEqual([
      ['one two three', 'stop'],
      ['one two three', 'stop'],
    ]);
    expect(data.usage?.completion_tokens).toBe(6);
    expect(data.usage?.prompt_tokens, 'the prompt counts once').toBe(5);
    expect(response.headers.get('x-request-id')).toMatch(/^req_/);
    const seeds = shared.engine.requests.slice(-2).map(({ sampling }) => sampling.seed);
    expect(seeds).toEqual([5, 6]);
  });

  it('streams a chat, with usage last', async () => {
    const stream = await client.chat.completions.create({
      ...params,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) {
      expectComponent('ChatCompletionChunk', chunk);
      chunks.push(chunk);
    }
    expect(chunks[0]?.choices[0]?.delta).toEqual({ role: 'assistant', content: '' });
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join('')).toBe('one two three');
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe('stop');
    expect(chunks.at(-1)?.choices).toEqual([]);
    expect(chunks.at(-1)?.usage?.total_tokens).toBe(8);
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  });

  it('reports finish_reason length when it is', async () => {
    const answer = await client.chat.completions.create({ ...params, max_completion_tokens: 2 });
    expect(answer.choices[0]).toMatchObject({ finish_reason: 'length', message: { content: 'one two' } });
  });

  it('reports it of a solution of the loop too', async () => {
    const solve = { ...params, model: 'solve', max_tokens: 2, x_solve: { max_rounds: 0 } };
    const answer = await client.chat.completions.create(solve);
    expect(answer.choices[0]).toMatchObject({ finish_reason: 'length', message: { content: 'one two' } });
  });

  it('gives log-probabilities', async () => {
    const answer = await client.chat.completions.create({ ...params, logprobs: true, top_logprobs: 1 });
    const content = answer.choices[0]?.logprobs?.content ?? [];
    expect(content.map(({ token }) => token).join('')).toBe('one two three');
    expect(content[0]?.top_logprobs).toHaveLength(1);
    expect(content[0]?.bytes).toEqual([...Buffer.from('one')]);
  });

  it('passes what changes the output to the engine', async () => {
    await client.chat.completions.create({
      ...params,
      messages: [
        { role: 'developer', content: 'Be brief.' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'a' },
            { type: 'text', text: 'b' },
          ],
        },
      ],
      stop: ['END'],
      temperature: 0.5,
      top_p: 0.9,
      presence_penalty: 0.1,
      frequency_penalty: 0.2,
      logit_bias: { '7': -100 },
      prediction: { type: 'content', content: 'one two' },
      seed: -1,
    });
    expect(shared.engine.requests.at(-1)).toMatchObject({
      prompt: {
        kind: 'chat',
        messages: [
          { role: 'system', content: 'Be brief.' },
          { role: 'user', content: 'ab' },
        ],
      },
      stop: ['END'],
      prediction: 'one two',
      sampling: {
        temperature: 0.5,
        topP: 0.9,
        presencePenalty: 0.1,
        frequencyPenalty: 0.2,
        seed: 4_294_967_295,
        logitBias: new Map([[7, -100]]),
      },
    });
  });

  it.each([
    ['generator', 0, 64],
    ['verifier', 0.7, 9],
    ['both/verifier', 0.7, 9],
    ['both@sha256:0', 0, 64],
  ])(
    'of one model in both roles, `%s` has the defaults of the role it names',
    async (model, temperature, maxTokens) => {
      const { app, engine, serving } = await buildApp();
      const aliases = ['generator', 'both/generator', 'verifier', 'both/verifier'];
      const info = { name: 'both@sha256:0', aliases, digest: 'sha256:0', contextLength: 4096, remote: false };
      vi.spyOn(engine, 'models').mockReturnValue([info]);
      const { generator } = testPack.defaults;
      const verifier = { sampling: { ...generator.sampling, temperature: 0.7 }, maxTokens: 9 };
      serving.swap({ engine, pack: { ...testPack, defaults: { generator, verifier } } });
      await post(app, '/v1/chat/completions', { ...params, model });
      await post(app, '/v1/responses', { model, input: 'x' });
      for (const request of engine.requests) expect(request).toMatchObject({ maxTokens, sampling: { temperature } });
      expect(engine.requests).toHaveLength(2);
    },
  );

  it('lists and finds models by alias and full name', async () => {
    const models = [];
    for await (const model of client.models.list()) models.push(model.id);
    expect(models).toEqual(
      expect.arrayContaining(['generator', 'verifier', 'solve', 'test/generator@sha256:0123456789abcdef']),
    );
    expect((await client.models.retrieve('solve')).object).toBe('model');
    expect((await client.models.retrieve('test/verifier')).id).toBe('test/verifier');
    await expect(client.models.retrieve('nope')).rejects.toBeInstanceOf(NotFoundError);
  });

  it('understands our errors', async () => {
    const error: unknown = await client.chat.completions
      .create({ ...params, temperature: 3 })
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(BadRequestError);
    expect(error).toMatchObject({
      status: 400,
      param: 'temperature',
      code: 'invalid_value',
      type: 'invalid_request_error',
    });
    expect((error as APIError).requestID).toMatch(/^req_/);
    expect((error as APIError).message).toContain('at most 2');
  });

  it('is told of a failure in mid-stream', async () => {
    let calls = 0;
    const { app } = await buildApp({
      engine: {
        delayMs: 1,
        reply: () => {
          calls += 1;
          if (calls === 2) throw new StvError('engine_crashed', 'The engine was restarted.');
          return 'word '.repeat(1000);
        },
      },
    });
    // the first choice is under way when the second fails
    const stream = await clientOf(await listen(app)).chat.completions.create({
      ...params,
      n: 2,
      max_tokens: 1000,
      stream: true,
    });
    await expect(async () => {
      for await (const chunk of stream) expect(chunk.choices).toHaveLength(1);
    }).rejects.toBeInstanceOf(APIError);
  });

  it('retries what says so and only that', async () => {
    let calls = 0;
    const { app } = await buildApp({
      engine: {
        reply: () => {
          calls += 1;
          throw new StvError(calls === 1 ? 'queue_full' : 'deadline_exceeded', 'Busy.', { retryAfterMs: 5 });
        },
      },
    });
    const retrying = new OpenAI({ baseURL: `${await listen(app)}/v1`, apiKey: 'none', maxRetries: 2 });
    await expect(retrying.chat.completions.create(params)).rejects.toMatchObject({ status: 504 });
    // 429 was retried, 504 (which SDKs retry by status) was not
    expect(calls).toBe(2);
  });

  it('an aborted stream ends the generation', async () => {
    const { app, engine } = await buildApp({ engine: { delayMs: 2, reply: () => 'word '.repeat(1000) } });
    const stream = await clientOf(await listen(app)).chat.completions.create({
      ...params,
      max_tokens: 1000,
      stream: true,
    });
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
    await vi.waitFor(() => expect(engine.numOpen).toBe(0));
  });

  it('completes raw prompts of every form', async () => {
    for (const prompt of ['ab', ['ab', 'cd'], [97, 98], [[97], [98, 99]]] as const) {
      const answer = await client.completions.create({ model: 'generator', prompt: prompt as string, max_tokens: 2 });
      expectComponent('Completion', answer);
      expect(answer.choices.map(({ text }) => text)).toEqual(
        Array(typeof prompt === 'string' || typeof prompt[0] === 'number' ? 1 : 2).fill('one two'),
      );
    }
  });
});

describe('completions', () => {
  const body = { model: 'generator', prompt: 'abc', echo: true, logprobs: 1, max_tokens: 1 };

  it('echo with logprobs gives every prompt token but the first its probability', async () => {
    const answer = await post(shared.app, '/v1/completions', body);
    const choice = answer.json().choices[0];
    expect(choice.text).toBe('abcone');
    expect(choice.logprobs.tokens).toEqual(['a', 'b', 'c', 'one']);
    expect(choice.logprobs.token_logprobs).toEqual([null, -0.5, -0.5, -0.5]);
    expect(choice.logprobs.text_offset).toEqual([0, 1, 2, 3]);
    expect(choice.logprobs.top_logprobs[0]).toBeNull();
    expect(choice.logprobs.top_logprobs[1]).toEqual({ b: -0.5 });
  });

  it('the token that ended the text has its place in the log-probabilities, without text', async () => {
    const choice = (await post(shared.app, '/v1/completions', { ...body, max_tokens: 9 })).json().choices[0];
    expect(choice).toMatchObject({ text: 'abcone two three', finish_reason: 'stop' });
    expect(choice.logprobs.tokens).toEqual(['a', 'b', 'c', 'one', ' two', ' three', '']);
    expect(choice.logprobs.text_offset.at(-1)).toBe(choice.text.length);
  });

  it('max_tokens 0 reads the prompt only', async () => {
    const choice = (await post(shared.app, '/v1/completions', { ...body, max_tokens: 0 })).json().choices[0];
    expect(choice).toMatchObject({ text: 'abc', finish_reason: 'length' });
    expect(choice.logprobs.tokens).toEqual(['a', 'b', 'c']);
  });

  it.each([{ echo: true, logprobs: 1 }, { echo: true }, { logprobs: 0 }, {}])(
    'streams what the JSON answer holds: %j',
    async (extra) => {
      const request = { model: 'generator', prompt: ['abc', 'de'], n: 2, max_tokens: 3, ...extra };
      const answer = await post(shared.app, '/v1/completions', {
        ...request,
        stream: true,
        stream_options: { include_usage: true },
      });
      const events = parseEvents(answer.body);
      expect(events.at(-1)?.data).toBe('[DONE]');
      interface Logprobs {
        tokens: string[];
        text_offset: number[];
      }
      const texts = ['', '', '', ''];
      const tokens: string[][] = [[], [], [], []];
      const offsets: number[][] = [[], [], [], []];
      let usage: unknown;
      for (const { data } of events.slice(0, -1)) {
        expectComponent('CompletionChunk', data);
        const chunk = data as { choices: { index: number; text: string; logprobs: Logprobs | null }[]; usage: unknown };
        usage = chunk.usage;
        for (const { index, text, logprobs } of chunk.choices) {
          texts[index] += text;
          tokens[index]?.push(...(logprobs?.tokens ?? []));
          offsets[index]?.push(...(logprobs?.text_offset ?? []));
        }
      }
      const json = (await post(shared.app, '/v1/completions', request)).json();
      expect(json.choices.map(({ text }: { text: string }) => text)).toEqual(texts);
      expect(json.usage).toEqual(usage);
      const wanted = (read: (logprobs: Logprobs) => unknown[]): unknown[] =>
        json.choices.map(({ logprobs }: { logprobs: Logprobs | null }) => (logprobs === null ? [] : read(logprobs)));
      expect(tokens).toEqual(wanted((logprobs) => logprobs.tokens));
      expect(offsets).toEqual(wanted((logprobs) => logprobs.text_offset));
    },
  );
});

describe('model `solve`', () => {
  const solve = { model: 'solve', messages: [...messages], x_solve: { max_rounds: 1, seed: 3 } };

  it('gives the rounds as reasoning and the solution as content', async () => {
    const answer = await post(shared.app, '/v1/chat/completions', solve);
    expect(answer.statusCode, answer.body).toBe(200);
    const body = answer.json();
    const { message, finish_reason } = body.choices[0];
    expect(message.content).toBe('one two three');
    expect(message.reasoning_content).toBe(
      'Round 0, attempt:\none two three\n\nRound 0, verification:\none two three\nVerdict: accept (score 0.90)\n\n',
    );
    expect(finish_reason).toBe('stop');
    expect(body.x_solve).toMatchObject({ status: 'accepted', round: 0 });
    expect(body.x_solve.id).toMatch(/^slv_/);
    expect(body.usage.completion_tokens_details.reasoning_tokens).toBe(3);
  });

  it.each([
    ['reasoning_content', ['reasoning_content']],
    ['reasoning', ['reasoning']],
    ['both', ['reasoning', 'reasoning_content']],
    ['none', []],
  ] as const)('reasoning field %s', async (reasoningField, fields) => {
    const { app } = await buildApp({ config: { reasoningField } });
    const message = (await post(app, '/v1/chat/completions', solve)).json().choices[0].message;
    expect(
      Object.keys(message)
        .filter((name) => name.startsWith('reasoning'))
        .sort(),
    ).toEqual(fields);
    const events = parseEvents((await post(app, '/v1/chat/completions', { ...solve, stream: true })).body);
    const seen = new Set(
      events.slice(0, -1).flatMap(({ data }) => {
        const { choices } = data as { choices: { delta: object }[] };
        return choices.flatMap(({ delta }) => Object.keys(delta));
      }),
    );
    expect([...seen].filter((name) => name.startsWith('reasoning')).sort()).toEqual(fields);
  });

  it.each([{ chains: 1 }, { chains: 3, stop_chains: 'all' }])('streams the same texts: %j', async (options) => {
    const { app } = await buildApp({ engine: { accept: () => 0.2 } });
    const request = { ...solve, x_solve: { ...solve.x_solve, ...options } };
    const answer = await post(app, '/v1/chat/completions', {
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    });
    const events = parseEvents(answer.body);
    expect(events.at(-1)?.data).toBe('[DONE]');
    let content = '';
    let reasoning = '';
    for (const { data } of events.slice(0, -1)) {
      expectComponent('ChatCompletionChunk', data);
      const delta = (data as { choices: { delta: { content?: string; reasoning_content?: string } }[] }).choices[0]
        ?.delta;
      content += delta?.content ?? '';
      reasoning += delta?.reasoning_content ?? '';
    }
    expect(events.at(-2)?.data).toMatchObject({ choices: [], x_solve: { status: 'exhausted' } });
    const json = (await post(app, '/v1/chat/completions', request)).json();
    expect(json.choices[0].message.content).toBe(content);
    expect(json.choices[0].message.reasoning_content.length).toBe(reasoning.length);
    expect(reasoning.match(/Verdict: reject/g)).toHaveLength(options.chains * 2);
  });

  it('takes sampling of the chat for the generator and the options of x_solve', async () => {
    const { app, engine } = await buildApp();
    await post(app, '/v1/chat/completions', {
      ...solve,
      temperature: 0.3,
      max_tokens: 5,
      x_solve: { verifier: { max_tokens: 9 } },
    });
    const [attempt, verification] = engine.requests;
    expect(attempt).toMatchObject({ maxTokens: 5, sampling: { temperature: 0.3 } });
    expect(verification?.maxTokens).toBe(9);
  });

  it.each([false, true])('shows the attempt that was given, streamed: %s', async (stream) => {
    const x_solve = { ...solve.x_solve, initial_attempt: 'It is 2.' };
    const answer = await post(shared.app, '/v1/chat/completions', { ...solve, x_solve, stream });
    expect(answer.statusCode, answer.body).toBe(200);
    const reasoning = stream
      ? parseEvents(answer.body)
          .slice(0, -1)
          .map(({ data }) => (data as { choices: { delta: { reasoning_content?: string } }[] }).choices[0]?.delta)
          .map((delta) => delta?.reasoning_content ?? '')
          .join('')
      : answer.json().choices[0].message.reasoning_content;
    expect(reasoning).toBe(
      'Round 0, attempt:\nIt is 2.\n\nRound 0, verification:\none two three\nVerdict: accept (score 0.90)\n\n',
    );
  });

  it('refuses what it cannot follow, not what asks for nothing', async () => {
    const penalties = { presence_penalty: 0, frequency_penalty: 0, repetition_penalty: 1 };
    const nothing = { logprobs: false, top_logprobs: 0, logit_bias: {}, n: 1, stop: [], ...penalties };
    expect((await post(shared.app, '/v1/chat/completions', { ...solve, ...nothing })).statusCode).toBe(200);
    for (const extra of [
      { logprobs: true },
      { top_logprobs: 1 },
      { logit_bias: { '7': 1 } },
      { prediction: { type: 'content', content: 'one' } },
      { presence_penalty: 0.5 },
      { frequency_penalty: -0.5 },
      { repetition_penalty: 1.1 },
    ]) {
      const answer = await post(shared.app, '/v1/chat/completions', { ...solve, ...extra });
      expect(answer.statusCode, answer.body).toBe(400);
      expect(answer.json().error).toMatchObject({ code: 'unsupported_parameter', param: Object.keys(extra)[0] });
    }
  });

  it('needs a user message', async () => {
    const answer = await post(shared.app, '/v1/chat/completions', {
      ...solve,
      messages: [{ role: 'system', content: 'x' }],
    });
    expect(answer.json().error).toMatchObject({ code: 'invalid_value', param: 'messages' });
  });
});

describe('tokens', () => {
  it('go both ways', async () => {
    const text = 'héllo <|im_start|> 🙂';
    const { tokens, count } = (await post(shared.app, '/tokenize', { model: 'generator', text })).json();
    expect(tokens).toHaveLength(count);
    expect((await post(shared.app, '/detokenize', { model: 'generator', tokens })).json()).toEqual({ text });
  });

  it('that the model does not have are refused, by the name that the ids came under', async () => {
    const { app, serving } = await buildApp();
    const { engine } = await startFakeEngine();
    onTestFinished(() => engine.close());
    serving.swap({ engine, pack: testPack });
    for (const [url, body, param] of [
      ['/detokenize', { model: 'generator', tokens: [104, 260] }, 'tokens'],
      ['/v1/completions', { model: 'generator', prompt: [104, 260] }, 'prompt'],
      ['/v1/completions', { model: 'generator', prompt: [104, 260], echo: true }, 'prompt'],
      ['/v1/completions', { model: 'generator', prompt: 'hi', logit_bias: { 260: 5 } }, 'logit_bias'],
      ['/v1/chat/completions', { model: 'generator', messages, logit_bias: { 260: 5 }, stream: true }, 'logit_bias'],
    ] as const) {
      const answer = await post(app, url, body);
      expect(answer.statusCode, answer.body).toBe(400);
      const { error } = answer.json();
      expect(error).toMatchObject({ code: 'invalid_value', param });
      expect(error.message).toContain('whole numbers from 0 to 259, got 260');
    }
    const last = { model: 'generator', prompt: 'hi', max_tokens: 1, logit_bias: { 259: 1 } };
    expect((await post(app, '/v1/completions', last)).statusCode).toBe(200);
  });

  it('belong to loaded models alone: `solve` is not named as one of them', async () => {
    for (const url of ['/tokenize', '/detokenize']) {
      const answer = await post(shared.app, url, {
        model: 'solve',
        ...(url === '/tokenize' ? { text: 'a' } : { tokens: [1] }),
      });
      expect(answer.statusCode, answer.body).toBe(404);
      expect(answer.json().error).toMatchObject({ code: 'model_not_found', param: 'model' });
      expect(answer.json().error.message).toContain('generator');
      expect(answer.json().error.message).not.toContain('solve');
    }
    const chat = await post(shared.app, '/v1/chat/completions', { model: 'nope', messages });
    expect(chat.json().error.message).toContain('solve');
  });
});
