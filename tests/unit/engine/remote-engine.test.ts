/** What the remote engine keeps of answers that are well-formed and unusual: late ends, empty texts, halves of characters. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { GenerateRequest } from '../../../src/engine/engine.ts';
import type { RemoteEngine } from '../../../src/engine/remote/remote-engine.ts';
import { startRemoteEngine } from '../../../src/engine/remote/start-remote-engine.ts';
import { DEFAULT_SAMPLING } from '../../../src/engine/sampling-params.ts';
import { collect } from '../../support/fake-engine.ts';
import {
  type Behaviour,
  chunk,
  done,
  finish,
  type MisbehavingServer,
  sendJson,
  startMisbehavingServer,
  stream,
  usage,
} from '../../support/misbehaving-server.ts';

async function start(): Promise<{ server: MisbehavingServer; engine: RemoteEngine }> {
  const server = await startMisbehavingServer();
  const engine = await startRemoteEngine({
    remote: { url: server.url },
    label: 'pack/generator',
    aliases: ['generator'],
    startTimeoutMs: 2000,
  });
  onTestFinished(() => engine.close());
  return { server, engine };
}

function request(more: Partial<GenerateRequest> = {}, assistantPrefix = ''): GenerateRequest {
  return {
    id: 'r',
    model: 'generator',
    prompt: { kind: 'chat', messages: [{ role: 'user', content: 'What is 2 + 2?' }], assistantPrefix },
    sampling: DEFAULT_SAMPLING,
    maxTokens: 50,
    stop: [],
    priority: 'interactive',
    ...more,
  };
}

/** A log-probability as a server writes it that tells no ids. */
const entry = (token: string, bytes: readonly number[] = [...Buffer.from(token)]): object => ({
  token,
  bytes,
  logprob: -1,
  top_logprobs: [],
});
const withLogprobs = (text: string, ...content: readonly object[]): string => chunk(text, { logprobs: { content } });

describe('a connection', () => {
  it('is used again where the end of the answer comes in a piece of its own, behind [DONE]', async () => {
    const { server, engine } = await start();
    const late: Behaviour = async (answer) => {
      stream(answer).write(chunk('Four.') + finish() + usage(9, 1) + done);
      await sleep(5);
      answer.end();
    };
    const ask = async (): Promise<void> => {
      server.next(late);
      expect((await collect(engine, request())).text).toBe('Four.');
      // several turns of the event loop, so that the end has come on a busy machine too
      for (let times = 0; times < 4; times++) await sleep(10);
    };
    await ask();
    const before = server.numConnections();
    for (let times = 0; times < 5; times++) await ask();
    expect(server.numConnections()).toBe(before);
  });

  it('is closed where the reader leaves before the end', async () => {
    const { server, engine } = await start();
    server.next((answer) => void stream(answer).write(chunk('Four') + chunk(' and')));
    for await (const event of engine.generate(request())) if (event.type === 'delta') break;
    await server.seen[0]?.hungUp;
    expect(engine.status()).toMatchObject({ running: 0, waiting: 0 });
  });
});

describe('log-probabilities', () => {
  it('of half a character come too, also where the answer begins with it', async () => {
    const { server, engine } = await start();
    const [first, second] = [entry('\uFFFD', [0xf0, 0x9f]), entry('\uFFFD', [0xa6, 0x8a])];
    server.next((answer) => {
      const fox = withLogprobs('', first) + withLogprobs('🦊', second);
      stream(answer).end(withLogprobs('') + fox + withLogprobs('!', entry('!')) + fox + finish() + usage(9, 5) + done);
    });
    const { text, events, end } = await collect(engine, request({ logprobs: 0 }));
    const logprobs = events.flatMap((event) => (event.type === 'delta' ? (event.logprobs ?? []) : []));
    expect(text).toBe('🦊!🦊');
    expect(Buffer.from(logprobs.flatMap(({ bytes }) => bytes)).toString()).toBe('🦊!🦊');
    expect(end.usage.completionTokens).toBe(5);
  });

  it('of a beginning that is held back come too', async () => {
    const { server, engine } = await start();
    const answers = ['<ver', 'y', ' good'];
    server.next((answer) => {
      const all = answers.map((each) => withLogprobs(each, entry(each))).join('');
      stream(answer).end(all + finish() + usage(9, 3) + done);
    });
    const { text, events } = await collect(engine, request({ logprobs: 0 }, '<verdict>'));
    const logprobs = events.flatMap((event) => (event.type === 'delta' ? (event.logprobs ?? []) : []));
    expect(text).toBe('<very good');
    expect(logprobs.map((each) => each.text)).toEqual(answers);
  });

  it('that nobody asked for make no delta without a text', async () => {
    const { server, engine } = await start();
    server.next((answer) => {
      stream(answer).end(withLogprobs('', entry('\uFFFD', [0xf0])) + chunk('a') + finish() + usage(9, 2) + done);
    });
    const { events } = await collect(engine, request());
    expect(events.map(({ type }) => type)).toEqual(['start', 'delta', 'end']);
    expect(events[1]).not.toHaveProperty('logprobs');
  });
});

describe('a score', () => {
  const score = (engine: RemoteEngine): ReturnType<RemoteEngine['score']> =>
    engine.score({
      id: 's',
      model: 'generator',
      prompt: request({}, '<verdict>').prompt,
      candidates: ['correct', 'wrong'],
      priority: 'interactive',
    });
  const answer = (content: string, logprobs: object | null): Behaviour =>
    sendJson({ choices: [{ index: 0, message: { content }, finish_reason: 'stop', logprobs }] });
  const good = answer('wrong', {
    content: [{ ...entry('wrong'), top_logprobs: [entry('wrong'), { ...entry('correct'), logprob: -2 }] }],
  });

  it.each([
    ['no token', answer('', { content: [] })],
    ['white space', answer(' \n', { content: [entry(' \n')] })],
    ['no text and nothing beside it', answer('', null)],
    ['a token without alternatives', answer('wrong', { content: [entry('wrong')] })],
  ])('after an answer of %s asks for log-probabilities again', async (_, behaviour) => {
    const { server, engine } = await start();
    server.next(behaviour, good);
    expect((await score(engine)).method).toBe('vote');
    expect(await score(engine)).toMatchObject({ method: 'first-token', logprobs: [-2, -1] });
    expect(server.seen.map(({ body }) => body.top_logprobs)).toEqual([20, 20]);
  });

  it('after refusals with an answer between asks for log-probabilities again', async () => {
    const { server, engine } = await start();
    const vote = answer('wrong', null);
    for (let times = 0; times < 3; times++) {
      server.next(sendJson({}, 400), vote, sendJson({}, 422), vote, good);
      for (const method of ['vote', 'vote', 'first-token']) expect((await score(engine)).method).toBe(method);
    }
  });

  it.each([
    [401, 'remote_unavailable'],
    [403, 'remote_unavailable'],
    [404, 'unsupported_parameter'],
    [405, 'unsupported_parameter'],
  ])('that fails with status %i says nothing about log-probabilities', async (status, code) => {
    const { server, engine } = await start();
    server.next(...Array.from({ length: 3 }, () => sendJson({}, status)), good);
    for (let times = 0; times < 3; times++) await expect(score(engine)).rejects.toMatchObject({ code });
    expect((await score(engine)).method).toBe('first-token');
    expect(server.seen.map(({ body }) => body.top_logprobs)).toEqual([20, 20, 20, 20]);
  });

  it('does not ask again where a text came without any', async () => {
    const { server, engine } = await start();
    server.next(answer('wrong', null), answer('wrong', null));
    for (let times = 0; times < 2; times++) expect((await score(engine)).method).toBe('vote');
    expect(server.seen.map(({ body }) => body.top_logprobs)).toEqual([20, undefined]);
  });

  it('refuses candidates that are none', async () => {
    const { engine } = await start();
    const asked = { id: 's', model: 'generator', prompt: request().prompt, priority: 'batch' } as const;
    await expect(engine.score({ ...asked, candidates: ['a', 'a'] })).rejects.toMatchObject({
      code: 'invalid_value',
      param: 'candidates',
    });
  });
});
