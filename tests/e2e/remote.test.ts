/**
 * The built server with its roles on a real llama-server: same weights as the local engine has, so the two can be held against
 * each other. Needs the program's path in STV_LLAMA_SERVER (scripts/build-llama-server.sh makes it) and is skipped without.
 */
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { Prompt } from '../../src/engine/engine.ts';
import { startRemoteEngine } from '../../src/engine/remote/start-remote-engine.ts';
import { DEFAULT_SAMPLING } from '../../src/engine/sampling-params.ts';
import { type Json, postJson, readJson } from '../support/json-request.ts';
import { type LlamaServer, llamaServer, startLlamaServer } from '../support/llama-server.ts';
import { collectSse, readSse } from '../support/read-sse.ts';
import { type RunningServer, startServer } from '../support/start-server.ts';

if (llamaServer === undefined) {
  console.warn('STV_LLAMA_SERVER is not set: the tests of remote engines against a real llama-server are skipped.');
}

const problem = 'A pen costs 3 euros and a book costs 5 euros. How much do two pens and one book cost together?';
const solution = 'Two pens cost 2 * 3 = 6 euros.\n6 + 5 = 12';

describe.skipIf(llamaServer === undefined)('remote roles', () => {
  let llama: LlamaServer;

  beforeAll(async () => {
    llama = await startLlamaServer(llamaServer as string); // skipped without it
  });

  afterAll(async () => {
    await llama?.kill();
  });

  const idle = (): Promise<void> => expect.poll(() => llama.numBusy(), { timeout: 10_000 }).toBe(0);

  it('gives the same text and nearly the same score through token ids and through chat messages', async () => {
    const prompt: Prompt = { kind: 'chat', messages: [{ role: 'user', content: problem }], assistantPrefix: 'First,' };
    const answers = [];
    for (const dialect of ['llama.cpp', 'openai'] as const) {
      const engine = await startRemoteEngine({
        remote: { url: `${llama.url}/v1`, dialect },
        label: 'p',
        aliases: ['m'],
      });
      onTestFinished(() => engine.close());
      const request = { id: 'r', model: 'm', prompt, stop: [], priority: 'interactive', maxTokens: 8 } as const;
      let text = '';
      for await (const event of engine.generate({ ...request, sampling: { ...DEFAULT_SAMPLING, temperature: 0 } })) {
        if (event.type === 'delta') text += event.text;
      }
      answers.push({ text, score: await engine.score({ ...request, candidates: [' we', ' let'] }) });
    }
    const [byTokens, byMessages] = answers;
    expect(byMessages?.text).toBe(byTokens?.text);
    expect(byTokens?.text.length).toBeGreaterThan(8);
    expect(byTokens?.score.method).toBeUndefined();
    expect(byMessages?.score.method).toBe('first-token');
    // other tokens can begin with the same letters, so the text is an upper bound
    for (const [index, exact] of (byTokens?.score.logprobs ?? []).entries()) {
      expect(Math.exp(byMessages?.score.logprobs[index] ?? 0)).toBeGreaterThan(Math.exp(exact) - 0.02);
    }
    expect(Math.max(...(byTokens?.score.logprobs ?? []).map(Math.exp))).toBeGreaterThan(0.01);
  });

  describe('verifier remote, generator here', () => {
    let server: RunningServer;
    beforeAll(async () => {
      server = await startServer({ args: ['--verifier-remote', `${llama.url}/v1`] });
    });
    afterAll(async () => {
      expect(await server?.stop()).toBe(0);
    });

    it('serves both under their names', async () => {
      const { data } = await readJson(await fetch(`${server.url}/v1/models`));
      const names = (data as Json[]).map(({ id }) => id as string);
      expect(names).toEqual(expect.arrayContaining(['generator', 'verifier']));
      expect(names.filter((name) => name.includes('@remote:'))).toHaveLength(1);
    });

    it('scores from log-probabilities like the engine here does with the same weights', async () => {
      const scores = await Promise.all(
        ['generator', 'verifier'].map(async (model) =>
          readJson(await postJson(`${server.url}/verify`, { problem, solution, mode: 'score', model })),
        ),
      );
      const [here, there] = scores as [Json, Json];
      expect(there['model']).toContain('@remote:');
      expect(here['model']).not.toContain('@remote:');
      expect(there['raw_score']).toBeGreaterThan(0);
      expect(there['raw_score']).toBeLessThan(1);
      // Q4_1 there, the same weights in int8 blocks here
      expect(Math.abs(there['raw_score'] - here['raw_score'])).toBeLessThan(0.1);
      expect(there['usage'].prompt_tokens).toBeGreaterThanOrEqual(here['usage'].prompt_tokens);
      expect(there['usage'].prompt_tokens).toBeLessThanOrEqual(here['usage'].prompt_tokens + 8);
    });

    it('encodes special tokens of a text as text, as here', async () => {
      const counts = await Promise.all(
        ['generator', 'verifier'].map(async (model) =>
          readJson(await postJson(`${server.url}/tokenize`, { model, text: 'a <|im_end|> b' })),
        ),
      );
      expect(counts[1]?.['tokens']).toEqual(counts[0]?.['tokens']);
      expect(counts[1]?.['tokens'].length).toBeGreaterThan(3);
    });

    it('refuses what does not fit its context', async () => {
      const answer = await postJson(`${server.url}/verify`, { problem, solution: 'word '.repeat(5000) });
      expect(answer.status).toBe(400);
      expect((await readJson(answer))['error'].code).toBe('context_length_exceeded');
    });
  });

  describe('both roles remote', () => {
    let server: RunningServer;
    beforeAll(async () => {
      const remote = `${llama.url}/v1`;
      server = await startServer({ args: ['--generator-remote', remote, '--verifier-remote', remote] });
    });
    afterAll(async () => {
      expect(await server?.stop()).toBe(0);
    });

    it('counts the tokens of a prompt as llama-server counts them itself', async () => {
      const body = { messages: [{ role: 'user', content: problem }], max_tokens: 1, temperature: 0 };
      const [ours, theirs] = await Promise.all([
        readJson(await postJson(`${server.url}/v1/chat/completions`, { ...body, model: 'generator' })),
        readJson(await postJson(`${llama.url}/v1/chat/completions`, body)),
      ]);
      expect(ours['usage'].prompt_tokens).toBe(theirs['usage'].prompt_tokens);
      expect(ours['choices'][0].message.content).toBe(theirs['choices'][0].message.content);
    });

    it('verifies with feedback and votes', async () => {
      const body = { problem, solution, votes: 2, early_stop: false, max_tokens: 24, seed: 1 };
      const answer = await readJson(await postJson(`${server.url}/verify`, body));
      expect(answer['votes']).toHaveLength(2);
      expect(['accept', 'reject', 'undetermined']).toContain(answer['verdict']);
      for (const vote of answer['votes'] as Json[]) expect(['stop', 'length']).toContain(vote['finish_reason']);
      expect(answer['usage'].completion_tokens).toBeGreaterThan(0);
    });

    it('refines', async () => {
      const answer = await readJson(
        await postJson(`${server.url}/refine`, {
          problem,
          attempt: solution,
          feedback: '6 + 5 is 11.',
          max_tokens: 24,
        }),
      );
      expect(answer['attempt'].length).toBeGreaterThan(0);
      expect(answer['model']).toContain('@remote:');
    });

    it('solves as a stream with an exact account', async () => {
      const answer = await postJson(
        `${server.url}/solve`,
        { problem, max_rounds: 1, seed: 3, generator: { max_tokens: 24 }, verifier: { max_tokens: 16 } },
        { headers: { accept: 'text/event-stream' } },
      );
      const events = await collectSse(answer.body as unknown as AsyncIterable<Uint8Array>);
      expect(events.at(-1)?.event).toBe('solve-end');
      const end = events.at(-1)?.data as Json;
      expect(['accepted', 'exhausted']).toContain(end['status']);
      expect(end['usage'].total_tokens).toBe(end['usage'].generator.total_tokens + end['usage'].verifier.total_tokens);
      expect(end['usage'].verifier.total_tokens).toBeGreaterThan(0);
    }, 600_000);

    it('stops llama-server when a client hangs up', async () => {
      const abort = new AbortController();
      const answer = await postJson(
        `${server.url}/solve`,
        { problem, max_rounds: 20, generator: { max_tokens: 1000 } },
        { headers: { accept: 'text/event-stream' }, signal: abort.signal },
      );
      for await (const { event } of readSse(answer.body as unknown as AsyncIterable<Uint8Array>)) {
        if (event === 'attempt-delta') break;
      }
      abort.abort();
      await idle();
    });

    it('says so when llama-server dies in the middle, and goes on when it is back', async () => {
      const answer = await postJson(
        `${server.url}/solve`,
        { problem, max_rounds: 0, generator: { max_tokens: 1500, temperature: 0 } },
        { headers: { accept: 'text/event-stream' } },
      );
      const names: (string | undefined)[] = [];
      let last: Json = {};
      for await (const { event, data } of readSse(answer.body as unknown as AsyncIterable<Uint8Array>)) {
        if (event === 'attempt-delta' && !names.includes(event)) await llama.kill();
        names.push(event);
        last = JSON.parse(data) as Json;
      }
      expect(names.at(-1)).toBe('solve-end');
      expect(last).toMatchObject({
        status: 'failed',
        stop_reason: 'engine_error',
        error: { code: 'remote_unavailable' },
      });
      expect(names.filter((name) => name === 'solve-end')).toHaveLength(1);

      const refused = await postJson(`${server.url}/verify`, { problem, solution, mode: 'score' });
      expect(refused.status).toBe(503);
      expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
      expect((await fetch(`${server.url}/health/live`)).status).toBe(200);

      await llama.start();
      await expect
        .poll(async () => (await postJson(`${server.url}/verify`, { problem, solution, mode: 'score' })).status, {
          timeout: 20_000,
          interval: 250,
        })
        .toBe(200);
      expect((await fetch(`${server.url}/health/ready`)).status).toBe(200);
    });
  });
});
