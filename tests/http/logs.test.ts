/** No line of the log holds a word of a user, whatever fails and whoever quotes it. */
import { Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { StvError, toStvError } from '../../src/errors.ts';
import { loggedError } from '../../src/routes/logged-error.ts';
import type { RunStore } from '../../src/stv/run-store.ts';
import { buildApp, type TestAppOptions } from './build-app.ts';
import { promptText } from './test-engine.ts';

const marker = 'xyzzy-of-the-user';

async function buildLogged(options: TestAppOptions = {}) {
  let text = '';
  const stream = new Writable({
    write(chunk, _encoding, done) {
      text += chunk;
      done();
    },
  });
  const built = await buildApp({ ...options, logger: { level: 'trace', stream } });
  const send = (url: string, payload: unknown, headers: Record<string, string> = {}) =>
    built.app.inject({
      method: 'POST',
      url,
      payload: typeof payload === 'string' ? payload : JSON.stringify(payload),
      headers: { 'content-type': 'application/json', ...headers },
    });
  const lines = (): Record<string, unknown>[] =>
    text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  return { ...built, send, lines, log: () => text };
}

const bodies: Readonly<Record<string, Record<string, unknown>>> = {
  '/verify': { problem: marker, solution: marker },
  '/refine': { problem: marker, attempt: marker, feedback: marker },
  '/solve': { problem: marker },
  '/v1/chat/completions': { model: 'generator', messages: [{ role: 'user', content: marker }] },
  '/v1/completions': { model: 'generator', prompt: marker },
  '/v1/responses': { model: 'generator', input: marker },
};

/** Quotes the prompt in its message, its cause and its code, as errors of foreign code may. */
function quoting(text: string): Error {
  const error = new Error(`cannot tokenize\n    at ${text}: it is ${text}`, { cause: new TypeError(text) });
  return Object.assign(error, { code: `E ${text}`, prompt: text });
}

describe('a log at the level trace', () => {
  it.each(Object.keys(bodies))('%s: holds no text of a request whose engine quotes it', async (url) => {
    const reply = ({ prompt }: Parameters<NonNullable<NonNullable<TestAppOptions['engine']>['reply']>>[0]) => {
      throw quoting(promptText(prompt));
    };
    const { send, lines, log } = await buildLogged({ engine: { reply } });
    for (const stream of [false, true]) await send(url, { ...bodies[url], stream });
    expect(log()).not.toContain(marker);
    expect(lines().length).toBeGreaterThan(0);
  });

  it.each([true, false])('says where an error was thrown (stream: %s)', async (stream) => {
    const reply = (): never => {
      throw quoting(marker);
    };
    const { send, lines, log } = await buildLogged({ engine: { reply } });
    await send('/v1/completions', { ...bodies['/v1/completions'], stream });
    const logged = lines().find(({ err }) => err !== undefined)?.['err'];
    expect(JSON.stringify(logged)).toMatch(/logs\.test\.ts:\d+/);
    expect(log()).not.toContain(marker);
  });

  it('holds none after an error in mid-stream', async () => {
    const onWord = (_request: unknown, numWords: number): void => {
      if (numWords === 2) throw quoting(marker);
    };
    const { send, log } = await buildLogged({ engine: { onWord } });
    for (const [url, body] of Object.entries(bodies)) await send(url, { ...body, stream: true });
    expect(log()).not.toContain(marker);
  });

  it('holds none after a failure of the store that quotes what it was to store', async () => {
    const fail = async (): Promise<never> => {
      throw quoting(marker);
    };
    const store = new Proxy({} as RunStore, { get: () => fail });
    const { send, app, lines, log, runs } = await buildLogged({ store });
    expect((await send('/solve', { problem: marker, store: true })).statusCode).toBe(500);
    await send('/solve', { problem: marker, store: true, background: true }, { 'idempotency-key': marker });
    expect((await app.inject(`/solve?after=slv_${marker}`)).statusCode).toBe(500);
    await app.inject('/solve/slv_1?token=shr_1');
    runs.beginUpkeep();
    await expect.poll(() => lines().some(({ msg }) => msg === 'upkeep of stored runs failed')).toBe(true);
    expect(log()).not.toContain(marker);
  });

  it('holds none of what is refused', async () => {
    const { send, app, lines, log } = await buildLogged();
    const refused = [
      ['/verify', `{"problem": "${marker}`],
      ['/verify', `{"__proto__": {"${marker}": 1}}`],
      ['/verify', { problem: marker, solution: marker, mode: marker }],
      ['/verify', { [marker]: 1 }],
      ['/solve', { problem: marker, generator: { model: marker } }],
      [`/verify/${marker}`, { problem: marker }],
      [`/${marker}`, marker],
      [`/v1/models/%E0%A4%A?${marker}`, marker],
    ] as const;
    for (const [url, body] of refused) {
      const status = (await send(url, body, { 'x-note': marker, authorization: `Bearer ${marker}` })).statusCode;
      expect(status, url).toBeGreaterThanOrEqual(400);
    }
    await app.inject({ url: `/v1/models/${marker}?q=${marker}` });
    expect(lines().length).toBeGreaterThanOrEqual(refused.length);
    expect(log()).not.toContain(marker);
  });

  it('holds none where the framework logs an error without words of its own', async () => {
    const { app, log, lines } = await buildLogged();
    app.log.error(quoting(marker));
    app.log.warn({ err: quoting(marker) });
    expect(lines()).toHaveLength(2);
    expect(log()).not.toContain(marker);
  });
});

describe('what is logged of an error', () => {
  it('is the message too where it is our own', () => {
    const cause = new Error(marker);
    expect(loggedError(new StvError('pack_invalid', 'The pack has no prompts.', { cause }))).toMatchObject({
      type: 'StvError',
      code: 'pack_invalid',
      message: 'The pack has no prompts.',
      cause: { type: 'Error', message: '' },
    });
    expect(loggedError(toStvError(cause, 'storage_full')).message, 'a message that was taken over').toBe('');
    expect(loggedError(toStvError(marker)).message).toBe('');
  });

  it('keeps code and frames of a foreign one', () => {
    const error = Object.assign(new RangeError(marker), { code: 'SQLITE_BUSY' });
    const logged = loggedError(error);
    expect(logged).toMatchObject({ type: 'RangeError', code: 'SQLITE_BUSY' });
    expect(logged.stack).toMatch(/^ {4}at .*logs\.test\.ts:\d+:\d+/);
    expect(JSON.stringify(logged)).not.toContain(marker);
    expect(loggedError(marker)).toEqual({ type: 'string', message: '', stack: '' });
  });
});
