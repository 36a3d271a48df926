import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { EngineStats } from '../../../src/engine/engine-stats.ts';
import { createInlineTextService } from '../../../src/engine/text-service.ts';
import { StvError } from '../../../src/errors.ts';
import { decodeBytes, encodeBytes } from '../../support/byte-tokenizer.ts';
import { fakeLogits } from '../../support/fake-causal-lm.ts';
import { byteTextSide, collect, type FakeEngine, request, startFakeEngine } from '../../support/fake-engine.ts';

let running: FakeEngine | undefined;
afterEach(async () => {
  await running?.engine.close();
  running = undefined;
});

async function start(...args: Parameters<typeof startFakeEngine>): Promise<FakeEngine> {
  running = await startFakeEngine(...args);
  return running;
}

/** Makes the fake spell `text` after a prompt of `promptLength` bytes, whatever the prompt is. */
function spelling(promptLength: number, text: string): (row: Float32Array, tokens: readonly number[]) => void {
  const bytes = [...encodeBytes(text), 257];
  return (row, tokens) => {
    const next = bytes[tokens.length - promptLength];
    if (next !== undefined) row[next] = 50;
  };
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => new Error('It did not fail.'),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof StvError)) throw error;
  return error.code;
}

describe('LocalEngine', () => {
  it('starts with the prompt count, streams, ends with usage, timings and the model', async () => {
    const { engine } = await start({}, { shape: spelling(5, 'grüße 🦊!') });
    const { text, tokens, end, events } = await collect(engine, request('hello', { maxTokens: 50 }));
    expect(events[0]).toEqual({ type: 'start', promptTokens: 5 });
    expect(text).toBe('grüße 🦊!');
    expect(decodeBytes(tokens)).toBe(text);
    expect(end).toMatchObject({ finishReason: 'stop', model: 'fake@sha256:0' });
    expect(end.usage).toEqual({
      promptTokens: 5,
      cachedTokens: 0,
      completionTokens: encodeBytes(text).length + 1, // the end token was generated too
      acceptedPredictionTokens: 0,
      rejectedPredictionTokens: 0,
    });
    for (const event of events) if (event.type === 'delta') expect(event.text).not.toContain('\uFFFD');
  });

  it('ends at a stop string with exact counts and takes the sequence out of the host', async () => {
    const { engine, hosts } = await start({}, { shape: spelling(2, 'abc END def and much more') });
    const { text, tokens, end } = await collect(engine, request('hi', { stop: ['END', 'zzz'], maxTokens: 50 }));
    expect(text).toBe('abc ');
    expect(decodeBytes(tokens)).toBe('abc ');
    expect(end).toMatchObject({ finishReason: 'stop', stop: 'END' });
    expect(end.usage.completionTokens).toBe('abc END'.length);
    expect(hosts[0]?.received.filter(({ type }) => type === 'abort')).toHaveLength(1);
    const kept = await collect(engine, request('ho', { stop: ['END'], includeStop: true, maxTokens: 50 }));
    expect(kept.text).toBe('abc END');
  });

  it('takes fewer steps for a predicted text, counts what was guessed, and stops in the middle of it', async () => {
    const text = 'The answer is 12 and not 21, as each step shows. END and more';
    const { engine, hosts } = await start({}, { shape: spelling(2, text) });
    const steps: EngineStats[] = [];
    engine.onStats((stats) => stats.type === 'step' && steps.push(stats));
    const prediction = text.replace('12', '13').replace('step', 'line');
    const options = { stop: ['END'], maxTokens: 100, prediction, shareKey: 'key-7' };
    const { text: written, end } = await collect(engine, request('hi', options));
    expect(written).toBe(text.slice(0, text.indexOf('END')));
    const { completionTokens, acceptedPredictionTokens, rejectedPredictionTokens } = end.usage;
    expect(completionTokens).toBe(text.indexOf('END') + 3);
    expect(acceptedPredictionTokens).toBeGreaterThan(25);
    expect(acceptedPredictionTokens).toBeLessThan(completionTokens);
    expect(rejectedPredictionTokens).toBeGreaterThan(0);
    expect(steps.length).toBeLessThan(25);
    expect(hosts[0]?.received.find(({ type }) => type === 'add')).toMatchObject({ sequence: { shareKey: 'key-7' } });
  });

  it('counts guesses from the text itself in the steps, and never as a prediction of the request', async () => {
    const { engine } = await start({}, { shape: spelling(2, 'over and over and over and over and over again. ') });
    let predicted = 0;
    let repeated = 0;
    engine.onStats((stats) => {
      if (stats.type !== 'step') return;
      expect(stats.numAcceptedTokens, 'nothing of the prediction comes true').toBe(stats.numRepeatAcceptedTokens);
      repeated += stats.numRepeatAcceptedTokens;
      predicted += stats.numDraftTokens - stats.numRepeatDraftTokens;
    });
    const { end } = await collect(engine, request('hi', { maxTokens: 60, prediction: '#####' }));
    expect(repeated).toBeGreaterThan(5);
    expect(end.usage).toMatchObject({ acceptedPredictionTokens: 0, rejectedPredictionTokens: predicted });
    const { end: plain } = await collect(engine, request('ho', { maxTokens: 60 }));
    expect(plain.usage).toMatchObject({ acceptedPredictionTokens: 0, rejectedPredictionTokens: 0 });
  });

  it('reports the token that ended the text beside it, where log-probabilities are asked for', async () => {
    const { engine } = await start({}, { shape: spelling(2, 'ab') });
    const { tokens, end } = await collect(engine, request('hi', { logprobs: 1, maxTokens: 50 }));
    expect(decodeBytes(tokens)).toBe('ab');
    expect(end.endToken?.logprob).toBeCloseTo(0, 6);
    expect(end.endToken?.top[0]?.token, 'greedy took the most likely one').toBe(end.endToken?.token);
    expect((await collect(engine, request('hi', { maxTokens: 50 }))).end.endToken).toBeUndefined();
  });

  it('reports log-probabilities of output and prompt that belong to the tokens', async () => {
    const { engine } = await start();
    const prompt = encodeBytes('prompt');
    const { tokens, end, events } = await collect(
      engine,
      request('prompt', { maxTokens: 3, logprobs: 2, promptLogprobs: 1, ignoreEos: true }),
    );
    const logprobs = events.flatMap((event) => (event.type === 'delta' ? (event.logprobs ?? []) : []));
    expect(logprobs.map(({ token }) => token)).toEqual(tokens);
    const softmax = (row: Float32Array, token: number): number =>
      (row[token] as number) - Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
    expect(logprobs[0]?.logprob).toBeCloseTo(softmax(fakeLogits(prompt), tokens[0] as number), 6);
    expect(logprobs[0]?.top).toHaveLength(2);
    expect(end.promptLogprobs).toHaveLength(6);
    expect(end.promptLogprobs?.[0]).toBeNull();
    expect(end.promptLogprobs?.[2]?.logprob).toBeCloseTo(
      softmax(fakeLogits(prompt.slice(0, 2)), prompt[2] as number),
      6,
    );
    expect(end.promptLogprobs?.[2]).toMatchObject({ token: prompt[2], text: 'o', bytes: [prompt[2]] });
  });

  it('scores candidates as the chain rule says, in one prefill when they are single tokens', async () => {
    const { engine } = await start();
    const steps: EngineStats[] = [];
    engine.onStats((stats) => stats.type === 'step' && steps.push(stats));
    const prompt = encodeBytes('verdict: ');
    const chain = (candidate: string): number => {
      const tokens = [...prompt];
      let sum = 0;
      for (const token of encodeBytes(candidate)) {
        const row = fakeLogits(tokens);
        sum += (row[token] as number) - Math.log(row.reduce((total, logit) => total + Math.exp(logit), 0));
        tokens.push(token);
      }
      return sum;
    };
    const score = (candidates: string[]) =>
      engine.score({
        id: 's',
        model: 'verifier',
        prompt: { kind: 'text', text: 'verdict: ' },
        candidates,
        priority: 'batch',
      });
    const single = await score(['a', 'r', 'u']);
    expect(steps).toHaveLength(1);
    for (const [i, candidate] of ['a', 'r', 'u'].entries()) expect(single.logprobs[i]).toBeCloseTo(chain(candidate), 6);
    expect(single.usage).toMatchObject({ promptTokens: 9, completionTokens: 0 });
    const several = await score(['accept', 'acceptable', 'reject', 'r', 'axe']);
    for (const [i, candidate] of ['accept', 'acceptable', 'reject', 'r', 'axe'].entries()) {
      expect(several.logprobs[i]).toBeCloseTo(chain(candidate), 5);
    }
    expect(engine.status()).toMatchObject({ running: 0, waiting: 0 });
  });

  it('cancels by signal in every phase, with one end and an empty host', async () => {
    const { engine, hosts } = await start({
      models: [{ name: 'm', aliases: ['generator'], digest: 'd', dir: '', numSlots: 1, maxLanes: 1, maxLength: 512 }],
    });
    const before = new AbortController();
    before.abort();
    expect((await collect(engine, request('x'), before.signal)).end.finishReason).toBe('cancelled');
    const decoding = new AbortController();
    const waiting = new AbortController();
    const first = collect(engine, request('first', { maxTokens: 400, ignoreEos: true }), decoding.signal);
    const second = collect(engine, request('second', { maxTokens: 400 }), waiting.signal);
    while (engine.status().running === 0) await sleep(1);
    waiting.abort();
    expect((await second).end).toMatchObject({
      finishReason: 'cancelled',
      usage: { completionTokens: 0, promptTokens: 6 },
    });
    decoding.abort();
    const { end, tokens } = await first;
    expect(end.finishReason).toBe('cancelled');
    expect(end.usage.completionTokens).toBe(tokens.length);
    expect(engine.status()).toMatchObject({ running: 0, waiting: 0 });
    expect(hosts[0]?.received.filter(({ type }) => type === 'abort')).toHaveLength(2);
  });

  it('frees everything at the moment of the signal and of the end, without waiting for the reader', async () => {
    const { engine, hosts } = await start();
    const controller = new AbortController();
    const reader = engine.generate(request('x', { maxTokens: 400, ignoreEos: true }), { signal: controller.signal });
    expect((await reader.next()).value).toMatchObject({ type: 'start' });
    expect((await reader.next()).value).toMatchObject({ type: 'delta' });
    controller.abort();
    expect(hosts[0]?.received.at(-1)?.type).toBe('abort');
    expect(engine.status()).toMatchObject({ running: 0, waiting: 0 });
    const short = engine.generate(request('y', { maxTokens: 2, ignoreEos: true }));
    let event = await short.next();
    while (event.value?.type !== 'end') event = await short.next();
    const drained = engine.drain(60_000); // the first reader never came back for its end
    await reader.return(undefined);
    await drained;
  });

  it('is cancelled or late while its prompt is being encoded', async () => {
    const text = createInlineTextService([byteTextSide]);
    let encode: () => void = () => {};
    const slow = { ...text, encode: () => new Promise<never[]>((resolve) => (encode = () => resolve([]))) };
    const { engine } = await start({ text: slow });
    const controller = new AbortController();
    const cancelled = collect(engine, request('x'), controller.signal);
    controller.abort();
    expect((await cancelled).end).toMatchObject({ finishReason: 'cancelled', usage: { promptTokens: 0 } });
    expect(await codeOf(collect(engine, request('x', { deadline: Date.now() + 10 })))).toBe('deadline_exceeded');
    const score = {
      id: 's',
      model: 'generator',
      prompt: { kind: 'text', text: 'x' },
      candidates: ['a'],
      priority: 'batch',
    } as const;
    expect(await codeOf(engine.score({ ...score, deadline: Date.now() + 10 }))).toBe('deadline_exceeded');
    expect(await codeOf(engine.score(score, { signal: AbortSignal.abort() }))).toBe('cancelled');
    encode(); // too late for anybody
    expect(engine.status()).toMatchObject({ running: 0, waiting: 0 });
  });

  it('tells what the slots hold when all readers have left or the host is gone, without another step', async () => {
    const { engine, hosts } = await start({ hangAfterMs: 60_000 });
    let slots: { readonly used: number; readonly cached: number } | undefined;
    let numReports = 0;
    let mostUsed = 0;
    engine.onStats((stats) => {
      if (stats.type === 'step') {
        slots = { used: stats.slotsUsed, cached: stats.slotsCached };
        mostUsed = Math.max(mostUsed, stats.slotsUsed);
      }
      if (stats.type !== 'slots') return;
      expect(stats.model).toBe('fake@sha256:0');
      slots = { used: stats.used, cached: stats.cached };
      numReports++;
    });
    const begin = (text: string): Promise<unknown>[] => {
      const wanted = Array.from({ length: 40 }, (_, n) => request(`${text} ${n}`, { maxTokens: 400, ignoreEos: true }));
      return wanted.map(async (each) => {
        for await (const event of engine.generate(each)) if (event.type === 'delta') break;
      });
    };
    await Promise.all(begin('leaves'));
    expect(mostUsed).toBe(16);
    await vi.waitFor(() => expect(slots?.used).toBe(0));
    expect(slots?.cached, 'their prefixes are still there').toBeGreaterThan(0);
    expect(numReports, 'one message, not one for each').toBeLessThanOrEqual(2);

    const before = numReports;
    await collect(engine, request('whole', { maxTokens: 3 }));
    await sleep(5);
    expect(numReports, 'a step has told it').toBe(before);

    const lost = collect(engine, request('is lost', { maxTokens: 400, ignoreEos: true })).catch(() => {});
    while (slots?.used === 0) await sleep(1);
    hosts[0]?.kill();
    await lost;
    expect(slots).toEqual({ used: 0, cached: 0 });
  });

  it('cancels when the reader leaves early', async () => {
    const { engine, hosts } = await start();
    for await (const event of engine.generate(request('x', { maxTokens: 400, ignoreEos: true }))) {
      if (event.type === 'delta') break;
    }
    expect(engine.status()).toMatchObject({ running: 0, waiting: 0 });
    expect(hosts[0]?.received.at(-1)?.type).toBe('abort');
  });

  it('ends at the deadline, before and after the first token', async () => {
    const { engine } = await start(
      {},
      { onForward: () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5) },
    );
    expect(await codeOf(collect(engine, request('x', { deadline: Date.now() - 1 })))).toBe('deadline_exceeded');
    const late = collect(engine, request('x', { maxTokens: 400, ignoreEos: true, deadline: Date.now() + 40 }));
    expect(await codeOf(late)).toBe('deadline_exceeded');
    expect(engine.status()).toMatchObject({ running: 0, waiting: 0 });
  });

  it('names limit and value of a prompt that is too long, and ends at the context with length', async () => {
    const { engine } = await start();
    const error = await collect(engine, request('x'.repeat(512))).catch((thrown: StvError) => thrown);
    expect(error).toMatchObject({ code: 'context_length_exceeded', param: 'prompt' });
    expect((error as StvError).message).toMatch(/has 512 tokens .*holds 512/);
    const { end } = await collect(engine, request('x'.repeat(500), { maxTokens: 100, ignoreEos: true }));
    expect(end).toMatchObject({ finishReason: 'length', usage: { completionTokens: 12 } });
  });

  it('refuses what it cannot take before anything is encoded', async () => {
    const { engine } = await start();
    expect(await codeOf(collect(engine, request('x', { model: 'nobody' })))).toBe('model_not_found');
    expect(await codeOf(collect(engine, request('')))).toBe('invalid_value');
    expect(await codeOf(collect(engine, request('x', { prompt: { kind: 'tokens', tokens: [1, 999] } })))).toBe(
      'invalid_value',
    );
    const sampling = { ...request('x').sampling, temperature: 9 };
    expect(await codeOf(collect(engine, request('x', { sampling })))).toBe('invalid_value');
  });

  it('reserves its place before it encodes: a burst of thirty fills a queue of ten exactly', async () => {
    const { engine } = await start({ limits: { maxQueuedSequences: 10, maxQueuedTokens: 100_000 } });
    const all = await Promise.allSettled(Array.from({ length: 30 }, (_, i) => collect(engine, request(`burst ${i}`))));
    expect(() => engine.checkRoom('generator')).not.toThrow();
    const refused = all.filter((result) => result.status === 'rejected');
    expect(refused).toHaveLength(20);
    for (const { reason } of refused) {
      expect(reason).toMatchObject({ code: 'queue_full' });
      expect((reason as StvError).retryAfterMs).toBeGreaterThan(0);
    }
    expect(engine.status().waiting).toBe(0);
    await collect(engine, request('later'));
  });

  it('ends every open request once when the host crashes, starts another, and serves on', async () => {
    const { engine, hosts } = await start();
    const open = Array.from({ length: 8 }, (_, i) =>
      collect(engine, request(`open ${i}`, { maxTokens: 400, ignoreEos: true })),
    );
    while (engine.status().running < 8) await sleep(1);
    hosts[0]?.kill();
    for (const result of await Promise.allSettled(open)) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'engine_crashed' } });
    }
    expect(engine.status().state).toBe('restarting');
    expect(await codeOf(collect(engine, request('x')))).toBe('not_ready');
    while (engine.status().state !== 'ready') await sleep(1);
    expect(hosts).toHaveLength(2);
    expect((await collect(engine, request('x'))).end.finishReason).not.toBe('error');
  });

  it('kills a host that is silent while it has work, and only then', async () => {
    const { engine, hosts } = await start({ hangAfterMs: 60 });
    await sleep(150);
    expect(hosts).toHaveLength(1);
    const stuck = collect(engine, request('x', { maxTokens: 400, ignoreEos: true }));
    const events: EngineStats[] = [];
    engine.onStats((stats) => stats.type === 'host' && events.push(stats));
    while (engine.status().running === 0) await sleep(1);
    if (hosts[0] !== undefined) hosts[0].isFrozen = true;
    expect(await codeOf(stuck)).toBe('engine_crashed');
    expect(events[0]).toMatchObject({ event: 'hung' });
    while (engine.status().state !== 'ready') await sleep(1);
    await collect(engine, request('x'));
  });

  it('finds out that a host hangs although its callers give up, one after the other', async () => {
    const { engine, hosts } = await start({ hangAfterMs: 150 });
    const events: EngineStats[] = [];
    engine.onStats((stats) => stats.type === 'host' && events.push(stats));
    const giveUp = async (): Promise<void> => {
      const open = request('x', { maxTokens: 400, ignoreEos: true });
      const ended = collect(engine, open, AbortSignal.timeout(30)).catch(() => {});
      await ended;
      await sleep(5);
    };
    for (let times = 0; times < 3; times++) await giveUp();
    await sleep(400);
    expect(events, 'every abort is answered by a host that lives').toEqual([]);
    if (hosts[0] !== undefined) hosts[0].isFrozen = true;
    for (let times = 0; times < 20 && events.length === 0; times++) await giveUp();
    expect(events[0]).toMatchObject({ event: 'hung' });
    while (engine.status().state !== 'ready') await sleep(1);
    await collect(engine, request('x'));
  });

  it('quarantines the request that crashes the host and lets its neighbours live', async () => {
    const poison = encodeBytes('poison');
    let crash = (): void => {};
    const fake = await start(
      {},
      {
        onForward: (lanes) => {
          if (
            lanes.some(({ past, tokens }) => past === 0 && Buffer.from(Array.from(tokens)).equals(Buffer.from(poison)))
          )
            crash();
        },
      },
    );
    crash = () => {
      const host = fake.hosts.at(-1);
      host?.kill();
      throw new Error('crashed');
    };
    const codes: string[][] = [];
    for (let round = 0; round < 3; round++) {
      while (fake.engine.status().state !== 'ready') await sleep(1);
      const requests = ['good one', 'poison', 'good two'].map((text) =>
        collect(fake.engine, request(text, { maxTokens: 6 })),
      );
      const results = await Promise.allSettled(requests);
      codes.push(results.map((result) => (result.status === 'fulfilled' ? 'ok' : (result.reason as StvError).code)));
    }
    expect(codes[0]).toEqual(['engine_crashed', 'engine_crashed', 'engine_crashed']);
    expect(codes[1]?.[1]).toBe('engine_crashed');
    expect(codes[2]).toEqual(['ok', 'request_quarantined', 'ok']);
  });

  it('quarantines a request that was alone with the host both times, also where it died between two steps', async () => {
    const { engine, hosts } = await start();
    const codes: string[] = [];
    for (let time = 0; time < 3; time++) {
      while (engine.status().state !== 'ready') await sleep(1);
      const answer = async (): Promise<void> => {
        for await (const event of engine.generate(request('alone', { maxTokens: 400, ignoreEos: true }))) {
          if (event.type === 'delta') hosts.at(-1)?.kill();
        }
      };
      codes.push(await codeOf(answer()));
    }
    expect(codes).toEqual(['engine_crashed', 'engine_crashed', 'request_quarantined']);
  });

  it('drains: takes nothing new, finishes what is open', async () => {
    const { engine } = await start();
    const open = collect(engine, request('x', { maxTokens: 100, ignoreEos: true }));
    while (engine.status().running === 0) await sleep(1);
    const drained = engine.drain();
    expect(engine.status().state).toBe('draining');
    expect(await codeOf(collect(engine, request('y')))).toBe('draining');
    await drained;
    expect((await open).end.usage.completionTokens).toBe(100);
    await engine.close();
    expect(engine.status().state).toBe('closed');
  });

  it('fails what is open when it is closed without draining', async () => {
    const { engine } = await start();
    const open = collect(engine, request('x', { maxTokens: 400, ignoreEos: true }));
    while (engine.status().running === 0) await sleep(1);
    const code = codeOf(open);
    await engine.close();
    expect(await code).toBe('draining');
  });

  it('joins unread deltas, so that a slow reader gets everything in few pieces', async () => {
    const { engine } = await start();
    let deltas = 0;
    let count = 0;
    for await (const event of engine.generate(request('x', { maxTokens: 100, ignoreEos: true }))) {
      if (event.type !== 'delta') continue;
      deltas++;
      count += event.tokens.length;
      while (deltas === 1 && engine.status().running > 0) await sleep(1);
    }
    expect(count).toBe(100);
    expect(deltas).toBe(2);
  });
});
