import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Prompt } from '../../../src/engine/engine.ts';
import { CallSignal } from '../../../src/engine/remote/call-signal.ts';
import { CircuitBreaker } from '../../../src/engine/remote/circuit-breaker.ts';
import { readChunk } from '../../../src/engine/remote/completion-chunk.ts';
import { breakMarks, splitMarks } from '../../../src/engine/remote/inert-text.ts';
import { PrefixEcho } from '../../../src/engine/remote/prefix-echo.ts';
import { maxTokensOf } from '../../../src/engine/remote/prompt-size.ts';
import { parseRemoteUrl, resolveLimits } from '../../../src/engine/remote/remote-config.ts';
import { failureOfStatus, RemoteFailure } from '../../../src/engine/remote/remote-failure.ts';
import { generateCall } from '../../../src/engine/remote/request-body.ts';
import { readRetryAfter, retryDelayMs } from '../../../src/engine/remote/retry.ts';
import { scoreFirstToken, scoreVote, tokenBehindEcho } from '../../../src/engine/remote/score-by-text.ts';
import { Turns } from '../../../src/engine/remote/turns.ts';
import { DEFAULT_SAMPLING } from '../../../src/engine/sampling-params.ts';
import { expectStvError } from '../../support/stv-error.ts';

describe('CircuitBreaker', () => {
  const limits = { failureThreshold: 3, minOpenMs: 100, maxOpenMs: 250 };
  const at = { ms: 0 };
  const fresh = (): CircuitBreaker => {
    at.ms = 0;
    return new CircuitBreaker('host', limits, () => at.ms);
  };
  const fail = (breaker: CircuitBreaker, times: number): void => {
    for (let i = 0; i < times; i++) breaker.enter().fail();
  };

  it('opens after failures in a row only, and lets nothing pass while it is open', () => {
    const breaker = fresh();
    fail(breaker, 2);
    breaker.enter().succeed();
    fail(breaker, 2);
    expect(breaker.state).toBe('closed');
    fail(breaker, 1);
    expect(breaker.state).toBe('open');
    at.ms = 60;
    const error = expectStvError(() => breaker.enter(), 'remote_unavailable', 'host', '3');
    expect(error.retryAfterMs).toBe(50);
  });

  it('lets one trial pass when half-open; its failure opens it for twice as long, up to the maximum', () => {
    const breaker = fresh();
    fail(breaker, 3);
    for (const openMs of [100, 200, 250, 250]) {
      at.ms += openMs - 1;
      expect(breaker.state).toBe('open');
      at.ms += 1;
      expect(breaker.state).toBe('half-open');
      const trial = breaker.enter();
      expectStvError(() => breaker.enter(), 'remote_unavailable');
      trial.fail();
      expect(breaker.state).toBe('open');
    }
    expect(breaker.numOpened).toBe(5);
  });

  it('closes at the first sign of life of a trial, and opens again at the next failure', () => {
    const breaker = fresh();
    fail(breaker, 3);
    at.ms = 100;
    const trial = breaker.enter();
    trial.progress();
    expect(breaker.state).toBe('closed');
    trial.fail();
    expect(breaker.state).toBe('open');
  });

  it('gives the trial to another when the caller of the first gives up', () => {
    const breaker = fresh();
    fail(breaker, 3);
    at.ms = 100;
    breaker.enter().leave();
    breaker.enter().succeed();
    expect(breaker.state).toBe('closed');
    expect(breaker.failuresInARow).toBe(0);
  });

  it('counts only the failures of calls beside the work', () => {
    const breaker = fresh();
    for (let times = 0; times < 3; times++) {
      const aside = breaker.enter({ isAside: true });
      aside.progress();
      aside.succeed();
      fail(breaker, 1);
    }
    expect(breaker.state).toBe('open');
    expectStvError(() => breaker.enter({ isAside: true }), 'remote_unavailable');
    const other = fresh();
    for (let times = 0; times < 3; times++) other.enter({ isAside: true }).fail();
    expect(other.state).toBe('open');
  });

  it('lets calls beside the work pass when half-open, as many as come, and waits for the work to close it', () => {
    const breaker = fresh();
    fail(breaker, 3);
    at.ms = 100;
    const asides = [1, 2, 3].map(() => breaker.enter({ isAside: true }));
    for (const aside of asides) {
      aside.progress();
      aside.succeed();
    }
    expect(breaker.state).toBe('half-open');
    const trial = breaker.enter();
    expectStvError(() => breaker.enter({ isAside: true }), 'remote_unavailable');
    trial.leave();
    breaker.enter({ isAside: true }).fail();
    expect(breaker.state).toBe('open');
    at.ms += 200;
    breaker.enter().succeed();
    expect(breaker.state).toBe('closed');
  });

  it('ignores late results of attempts from before it opened', () => {
    const breaker = fresh();
    const slow = breaker.enter();
    fail(breaker, 3);
    slow.succeed();
    expect(breaker.state).toBe('open');
  });
});

describe('retryDelayMs', () => {
  const limits = { maxRetries: 3, minRetryDelayMs: 100, maxRetryDelayMs: 1000 };
  const options = { limits, leftMs: Number.POSITIVE_INFINITY, random: () => 1 };
  const broken = new RemoteFailure('broken', 'x');

  it('doubles up to the longest pause and ends', () => {
    expect([1, 2, 3, 4].map((n) => retryDelayMs(broken, n, options))).toEqual([100, 200, 400, undefined]);
    expect(retryDelayMs(broken, 3, { ...options, limits: { ...limits, maxRetryDelayMs: 250 } })).toBe(250);
  });

  it('is never sooner than asked for, never later than the deadline, and refuses long pauses', () => {
    const busy = (retryAfterMs: number): RemoteFailure => new RemoteFailure('busy', 'x', { retryAfterMs });
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2000 }),
        fc.integer({ min: 0, max: 2000 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (asked, leftMs, random) => {
          const delay = retryDelayMs(busy(asked), 1, { limits, leftMs, random: () => random });
          if (delay === undefined) expect(asked > 1000 || asked + 100 >= leftMs).toBe(true);
          else {
            expect(delay).toBeGreaterThanOrEqual(asked);
            expect(delay).toBeLessThan(leftMs);
          }
        },
      ),
    );
  });

  it('does not repeat what would fail again', () => {
    for (const kind of ['malformed', 'refused', 'silent', 'context-exceeded', 'unsupported'] as const) {
      expect(retryDelayMs(new RemoteFailure(kind, 'x'), 1, options)).toBeUndefined();
    }
  });

  it.each([
    [{ 'retry-after': '2' }, 2000],
    [{ 'retry-after-ms': '150', 'retry-after': '2' }, 150],
    [{ 'retry-after': 'Thu, 01 Jan 1970 00:01:00 GMT' }, 59_000],
    [{ 'retry-after': 'soon' }, undefined],
    [{ 'retry-after': '-5' }, undefined],
    [{ 'retry-after': '' }, undefined],
    [{}, undefined],
  ])('reads %o', (headers, expected) => {
    expect(readRetryAfter(headers, 1000)).toBe(expected);
  });
});

describe('Turns', () => {
  const never = new AbortController().signal;

  it('gives interactive requests the next turn, and refuses what is too many', async () => {
    const turns = new Turns({ maxConcurrent: 1, maxQueued: 2 });
    const end = await turns.take('interactive', never);
    const order: string[] = [];
    const take = async (name: string, priority: 'interactive' | 'batch'): Promise<void> => {
      const endThis = await turns.take(priority, never);
      order.push(name);
      endThis();
    };
    const waiting = [take('batch', 'batch'), take('interactive', 'interactive')];
    await expect(turns.take('interactive', never)).rejects.toMatchObject({ code: 'queue_full' });
    end();
    end(); // a second time does nothing
    await Promise.all(waiting);
    expect(order).toEqual(['interactive', 'batch']);
    expect([turns.numRunning, turns.numWaiting]).toEqual([0, 0]);
  });

  it('forgets who gives up waiting', async () => {
    const turns = new Turns({ maxConcurrent: 1, maxQueued: 5 });
    const end = await turns.take('interactive', never);
    const abort = new AbortController();
    const waiting = turns.take('interactive', abort.signal);
    abort.abort(new Error('gone'));
    await expect(waiting).rejects.toThrow('gone');
    end();
    expect([turns.numRunning, turns.numWaiting]).toEqual([0, 0]);
  });
});

describe('CallSignal', () => {
  it('leaves no promise unhandled that fails when it was aborted before, or meanwhile', async () => {
    const unhandled: unknown[] = [];
    const listen = (reason: unknown): void => void unhandled.push(reason);
    process.on('unhandledRejection', listen);
    onTestFinished(() => void process.off('unhandledRejection', listen));
    const abort = new AbortController();
    const call = new CallSignal([abort.signal]);
    let fail: (error: Error) => void = () => undefined;
    const meanwhile = call.race(new Promise<never>((_, reject) => (fail = reject)));
    abort.abort();
    await expect(meanwhile).rejects.toMatchObject({ code: 'cancelled' });
    fail(new Error('late'));
    await expect(call.race(Promise.reject(new Error('lost')))).rejects.toMatchObject({ code: 'cancelled' });
    await nextTurn();
    await nextTurn();
    expect(unhandled).toEqual([]);
  });
});

describe('inert text', () => {
  const marks = [
    ...['<|im_end|>', '<｜end▁of▁sentence｜>', '</s>', '[/INST]', '<<SYS>>', '<end_of_turn>', '<think>', '<bos>'],
    ...['<|turn>', '<turn|>', '<|channel>', '<|tool_response>', '<|"|>', '[|endofturn|]', '[|assistant|]'],
    ...['<seed:eos>', '</seed:think>', '[e~[', ']~b]', ']~!b[', '<EOS_TOKEN>', '<BOS_TOKEN>', '<end_of_utterance>'],
  ];
  const text = fc.array(fc.oneof(fc.constantFrom(...marks), fc.string())).map((parts) => parts.join(''));
  const expectInert = (value: string): void => {
    const broken = breakMarks(value);
    for (const each of marks) expect(broken).not.toContain(each);
    expect(broken.replaceAll('\u2060', '')).toBe(value.replaceAll('\u2060', ''));
    const pieces = splitMarks(value);
    expect(pieces.join('')).toBe(value);
    for (const piece of pieces) for (const each of marks) expect(piece).not.toContain(each);
  };

  it('leaves no mark in the text or in a piece, and takes nothing away', () => {
    fc.assert(fc.property(text, expectInert));
  });

  it.each(['[e~[e~[e~[', ']~b]~b]~!b[e~[', '<|[/INST]|>', '<|[|assistant|]|turn|>', '<|channel><turn|>turn|>'])(
    'leaves none of those that overlap in %s',
    expectInert,
  );

  it('reads a long text of beginnings once', () => {
    for (const begun of ['<', '<|', '<a', '[|a', '[', ']~', '[e~', '<seed:', `<|${'a'.repeat(70)}`]) {
      const value = begun.repeat(1_000_000 / begun.length);
      expect(breakMarks(value).replaceAll('\u2060', '')).toBe(value);
    }
  });

  it.each([
    ...['2 < 3 and [1, 2] | 4 > 1', '<b>bold</b>', 'a || b', '\\[x\\] <verdict>', '|x| + |y|', 'a<|b|', '|a|<|b|,c>d'],
    ...['E[|x|]', 'E[|X-Y|]', '<x|y>', '|0> + <1|', '<x|>', '[e, ~]', 'a]~b', '<seed>', 'eos_token'],
  ])('does not touch %s', (value) => {
    expect(breakMarks(value)).toBe(value);
  });
});

describe('PrefixEcho', () => {
  const feed = (prefix: string, parts: readonly string[]): string => {
    const echo = new PrefixEcho(prefix);
    return parts.map((part) => echo.push(part)).join('') + echo.flush();
  };

  it('takes a repeated beginning off however it is cut', () => {
    fc.assert(
      fc.property(
        fc.string(),
        fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 20, maxLength: 20 }),
        (rest, sizes) => {
          const whole = `<feedback>\n${rest}`;
          const parts: string[] = [];
          let at = 0;
          for (const size of sizes) {
            parts.push(whole.slice(at, at + size));
            at += size;
          }
          parts.push(whole.slice(at));
          expect(feed('<feedback>\n', parts)).toBe(rest);
        },
      ),
    );
  });

  it.each([
    ['<verdict>', ['cor', 'rect'], 'correct'],
    ['<verdict>', ['<ver', 'y good'], '<very good'],
    ['<feedback>\n', ['<feedback>'], ''],
    ['<feedback>\n', ['<feedback>', 'Step'], 'Step'],
    ['', ['a', 'b'], 'ab'],
    ['<v>', ['<'], '<'],
  ])('with %o and %o gives %o', (prefix, parts, expected) => {
    expect(feed(prefix, parts)).toBe(expected);
  });
});

describe('readChunk', () => {
  const choice = (more: object): object => ({ choices: [{ index: 0, delta: { content: 'x' }, ...more }] });

  it.each([
    ['text instead of an object', 'hello'],
    ['an array', []],
    ['no choices', {}],
    ['choices of another type', { choices: 'x' }],
    ['a choice that is no object', { choices: [1] }],
    ['several choices', { choices: [{ delta: {} }, { delta: {} }] }],
    ['another index', { choices: [{ index: 3, delta: { content: 'x' } }] }],
    ['a content that is no text', { choices: [{ delta: { content: 5 } }] }],
    ['a finish that is no text', choice({ finish_reason: 7 })],
    ['log-probabilities that are no numbers', choice({ logprobs: { content: [{ token: 'a', logprob: 'high' }] } })],
    ['negative counts', { choices: [], usage: { prompt_tokens: -1, completion_tokens: 2 } }],
    ['arrays of different length', choice({ logprobs: { tokens: ['a'], token_logprobs: [] } })],
  ])('refuses %s', (_, value) => {
    expect(() => readChunk('host', value)).toThrow(expect.objectContaining({ kind: 'malformed' }));
  });

  it('takes an error inside the answer, and an end that is none, as a failure without its words', () => {
    for (const [value, kind] of [
      [{ error: { message: 'the secret prompt' } }, 'failed'],
      [choice({ finish_reason: 'content_filter' }), 'incomplete'],
    ] as const) {
      try {
        readChunk('host', value);
        expect.unreachable();
      } catch (thrown) {
        expect(thrown).toMatchObject({ kind });
        expect((thrown as Error).message).not.toContain('secret');
      }
    }
  });

  it('reads both shapes of log-probabilities', () => {
    const chat = {
      content: [{ token: 'a', id: 5, bytes: [97], logprob: -1, top_logprobs: [{ token: 'b', logprob: -2 }] }],
    };
    expect(readChunk('host', choice({ logprobs: chat }))).toMatchObject({
      tokens: [5],
      logprobs: [
        { token: 5, text: 'a', bytes: [97], logprob: -1, top: [{ token: -1, text: 'b', bytes: [98], logprob: -2 }] },
      ],
    });
    const text = {
      tokens: ['token_id:7'],
      token_logprobs: [-1],
      top_logprobs: [{ 'token_id:9': -3, 'token_id:7': -1 }],
    };
    expect(readChunk('host', choice({ logprobs: text }))).toMatchObject({
      tokens: [7],
      logprobs: [{ token: 7, logprob: -1, top: [{ token: 7 }, { token: 9, logprob: -3 }] }],
    });
  });

  it.each([
    ['stop', 'stop'],
    ['eos', 'stop'],
    ['length', 'length'],
    ['MAX_TOKENS', 'length'],
  ])('maps the finish %s', (given, expected) => {
    expect(readChunk('host', choice({ finish_reason: given })).finish).toBe(expected);
  });
});

describe('failureOfStatus', () => {
  it.each([
    [429, {}, 'busy'],
    [500, {}, 'failed'],
    [503, {}, 'failed'],
    [404, {}, 'unsupported'],
    [401, {}, 'refused'],
    [302, {}, 'refused'],
    [400, { error: { type: 'exceed_context_size_error' } }, 'context-exceeded'],
    [400, { error: { message: "This model's maximum context length is 4096 tokens." } }, 'context-exceeded'],
    [400, { error: { message: 'no' } }, 'refused'],
  ])('%i with %o is %s', (status, body, kind) => {
    const failure = failureOfStatus('host', status, { body });
    expect(failure.kind).toBe(kind);
  });

  it('repeats no prose of the server', () => {
    const body = { error: { message: 'the secret prompt', code: 'the secret prompt' } };
    expect(failureOfStatus('host', 400, { body }).message).not.toContain('secret');
  });
});

describe('scores from texts', () => {
  const words = ['correct', 'wrong', 'unknown'];
  const entry = (text: string, p: number) => ({ token: -1, text, bytes: [], logprob: Math.log(p) });

  it('adds up the first tokens that begin one candidate only', () => {
    const probabilities = scoreFirstToken(
      [entry('cor', 0.3), entry(' correct', 0.2), entry('wr', 0.1), entry('', 0.2), entry('I', 0.1)],
      words,
    ).map(Math.exp);
    expect(probabilities[0]).toBeCloseTo(0.5);
    expect(probabilities[1]).toBeCloseTo(0.1);
    expect(probabilities[2]).toBe(0);
    expect(scoreFirstToken([entry('a', 0.9)], ['accept', 'again'])).toEqual([
      Number.NEGATIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
    ]);
  });

  it('reads a vote at the head of the answer only', () => {
    expect(scoreVote(' wrong</verdict>', words)).toEqual([Number.NEGATIVE_INFINITY, 0, Number.NEGATIVE_INFINITY]);
    expect(scoreVote('It is correct', words)).toEqual(words.map(() => Number.NEGATIVE_INFINITY));
  });

  it('finds the place behind a repeated beginning', () => {
    const tokens = ['<ver', 'dict>', '\n', 'wr', 'ong'].map((text) => ({ ...entry(text, 0.5), top: [] }));
    expect(tokenBehindEcho(tokens, '<verdict>')?.text).toBe('wr');
    expect(tokenBehindEcho(tokens.slice(3), '<verdict>')?.text).toBe('wr');
    expect(tokenBehindEcho(tokens.slice(0, 2), '<verdict>')).toBeUndefined();
  });
});

describe('configuration', () => {
  it.each(['ftp://host/v1', 'host:8000', 'http://host/v1?x=1', 'http://user:hunter2@host/v1'])('refuses %s', (url) => {
    const error = expectStvError(() => parseRemoteUrl(url), 'config_invalid');
    expect(error.message).not.toContain('hunter2');
  });

  it('tells the OpenAI path from the server’s own', () => {
    expect(parseRemoteUrl('http://h:1/v1/')).toEqual({ origin: 'http://h:1', apiPath: '/v1', ownPath: '' });
    expect(parseRemoteUrl('https://h/llm/v1')).toEqual({ origin: 'https://h', apiPath: '/llm/v1', ownPath: '/llm' });
  });

  it('checks limits by name', () => {
    expectStvError(() => resolveLimits({ stallMs: 0 }), 'config_invalid', 'stallMs');
    expect(resolveLimits({ maxRetries: 0 }).maxRetries).toBe(0);
  });
});

it('bounds the tokens of a prompt by its bytes', () => {
  expect(maxTokensOf({ kind: 'text', text: 'ü€' })).toBe(6);
  expect(maxTokensOf({ kind: 'tokens', tokens: [1, 2] })).toBe(2);
  expect(
    maxTokensOf({ kind: 'chat', messages: [{ role: 'user', content: 'abc' }], assistantPrefix: 'x' }),
  ).toBeGreaterThan(4);
});

it('asks llama-server for an alternative where none is wanted, since it would give no log-probabilities', () => {
  const request = {
    id: 'r',
    model: 'm',
    prompt: { kind: 'text', text: 'x' },
    sampling: DEFAULT_SAMPLING,
    maxTokens: 1,
    stop: [],
    logprobs: 0,
    priority: 'batch',
  } as const;
  const asked = (dialect: 'llama.cpp' | 'vllm'): any => {
    const profile = { dialect, model: 'm', contextLength: 100, hasTokenizer: false, templateFields: {} };
    return generateCall(request, profile, { maxTokens: 1, tokens: undefined }).body;
  };
  expect(asked('llama.cpp').logprobs).toBe(1);
  expect(asked('vllm').logprobs).toBe(0);
});

it('bounds the tokens of a prompt by the bytes that are sent, with what breaks its marks', () => {
  const profile = {
    dialect: 'vllm',
    model: 'm',
    contextLength: 100,
    hasTokenizer: false,
    templateFields: {},
  } as const;
  const sampled = {
    id: 'r',
    model: 'm',
    sampling: DEFAULT_SAMPLING,
    maxTokens: 1,
    stop: [],
    priority: 'batch',
  } as const;
  const sent = (prompt: Prompt): any =>
    generateCall({ ...sampled, prompt }, profile, { maxTokens: 1, tokens: undefined }).body;
  const marks = fc
    .array(fc.constantFrom('<s>', '</s>', '<|x|>', '[INST]', '<think>', '<|turn>', '[e~[e~[', 'word '))
    .map((all) => all.join(''));
  fc.assert(
    fc.property(marks, marks, (text, assistantPrefix) => {
      const alone: Prompt = { kind: 'text', text };
      expect(maxTokensOf(alone)).toBeGreaterThan(Buffer.byteLength(sent(alone).prompt));
      const chat: Prompt = { kind: 'chat', messages: [{ role: 'user', content: text }], assistantPrefix };
      const contents: string = sent(chat)
        .messages.map(({ content }: { content: string }) => content)
        .join('');
      expect(maxTokensOf(chat)).toBeGreaterThanOrEqual(Buffer.byteLength(contents) + 64);
    }),
  );
});
