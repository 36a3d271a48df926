/**
 * The built server with its roles on a real vLLM (for the CPU) that has the bundled pack's models: exact scores through token
 * ids, the greedy texts of the engine here, and a cancellation that arrives. Needs the program's path in STV_VLLM
 * (scripts/install-vllm.sh installs it) and is skipped without.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Json, postJson, readJson } from '../support/json-request.ts';
import { collectSse, readSse } from '../support/read-sse.ts';
import { type RunningServer, startServer } from '../support/start-server.ts';
import { startVllm, type VllmServer, vllm } from '../support/vllm-server.ts';

if (vllm === undefined)
  console.warn('STV_VLLM is not set: the tests of remote engines against a real vLLM are skipped.');

const problem = 'Solve 3x + 5 = 20.';
const wrong = 'Step 1: 3x = 25\nStep 2: x = 25/3';

describe.skipIf(vllm === undefined)('roles on vLLM', () => {
  let generator: VllmServer;
  let verifier: VllmServer;
  let here: RunningServer;
  let there: RunningServer;

  beforeAll(async () => {
    const program = vllm as string; // skipped without it
    generator = await startVllm(program, 'generator');
    verifier = await startVllm(program, 'verifier');
    here = await startServer({ pack: '' });
    const remotes = ['--generator-remote', `${generator.url}/v1`, '--verifier-remote', `${verifier.url}/v1`];
    there = await startServer({ pack: '', args: remotes });
  }, 600_000);

  afterAll(async () => {
    expect(await there?.stop()).toBe(0);
    expect(await here?.stop()).toBe(0);
    await generator?.kill();
    await verifier?.kill();
  });

  /** The same request to the engine here and to vLLM. */
  async function both(route: string, body: Json): Promise<readonly [Json, Json]> {
    const [ofHere, ofThere] = [here, there].map(async ({ url }) => readJson(await postJson(`${url}${route}`, body)));
    return [await (ofHere as Promise<Json>), await (ofThere as Promise<Json>)];
  }

  it('lists both with the context that vLLM tells', async () => {
    const { data } = await readJson(await fetch(`${there.url}/v1/models`));
    const remotes = (data as Json[]).filter(({ id }) => id.includes('@remote:'));
    expect(remotes).toHaveLength(2);
    for (const model of remotes) expect(model).toMatchObject({ context_length: 1024 });
  });

  it.each([
    ['a wrong solution', wrong],
    ['a right one', 'Step 1: 3x = 15\nStep 2: x = 5'],
  ])('scores %s as the engine here does with the same weights, from log-probabilities', async (_, solution) => {
    const [ours, theirs] = await both('/verify', { problem, solution, mode: 'score' });
    expect(theirs['model']).toContain('@remote:');
    // float32 there, blocks of int8 here
    expect(Math.abs(theirs['raw_score'] - ours['raw_score'])).toBeLessThan(0.05);
    expect(theirs['verdict']).toBe(ours['verdict']);
    expect(theirs['usage'].prompt_tokens).toBe(ours['usage'].prompt_tokens);
  });

  it('writes the greedy text of the engine here, with as many tokens', async () => {
    const messages = [{ role: 'user', content: problem }];
    const body = { model: 'generator', messages, max_tokens: 120, temperature: 0 };
    const [ours, theirs] = await both('/v1/chat/completions', body);
    expect(theirs['choices'][0].message.content).toBe(ours['choices'][0].message.content);
    expect(theirs['choices'][0].finish_reason).toBe(ours['choices'][0].finish_reason);
    expect(theirs['usage']).toMatchObject({
      prompt_tokens: ours['usage'].prompt_tokens,
      completion_tokens: ours['usage'].completion_tokens,
    });
  });

  it.each(['a <|end|> b', '<|assistant|>', '<|user|>x'])('encodes the special tokens in %s as text', async (text) => {
    const [ours, theirs] = await both('/tokenize', { model: 'generator', text });
    expect(theirs['tokens'].length).toBeGreaterThan(3);
    expect(theirs['tokens']).toEqual(ours['tokens']);
    const content = `Solve ${text} = 20.`;
    const body = { model: 'generator', messages: [{ role: 'user', content }], max_tokens: 1, temperature: 0 };
    const [chat, remoteChat] = await both('/v1/chat/completions', body);
    expect(remoteChat['usage'].prompt_tokens).toBeGreaterThanOrEqual(chat['usage'].prompt_tokens);
  });

  it('gives the log-probabilities of what it writes, and refuses those of a prompt', async () => {
    const body = { model: 'generator', prompt: 'x = 5', max_tokens: 2, temperature: 0, logprobs: 2 };
    const [ours, theirs] = await both('/v1/completions', body);
    const [a, b] = [ours['choices'][0], theirs['choices'][0]];
    expect(b.text).toBe(a.text);
    expect(b.logprobs.tokens).toEqual(a.logprobs.tokens);
    for (const [index, value] of b.logprobs.token_logprobs.entries()) {
      expect(Math.abs(value - a.logprobs.token_logprobs[index])).toBeLessThan(0.3);
    }
    const [, refused] = await both('/v1/completions', { ...body, echo: true });
    expect(refused).toMatchObject({ error: { param: 'echo' } });
  });

  it('verifies with votes and feedback that names the step', async () => {
    const body = { problem, solution: wrong, votes: 3, early_stop: false, seed: 1 };
    const [, theirs] = await both('/verify', body);
    expect(theirs['votes']).toHaveLength(3);
    expect(theirs['verdict']).toBe('reject');
    expect(theirs['feedback']).toMatch(/\S/);
    for (const vote of theirs['votes'] as Json[]) expect(vote['finish_reason']).toBe('stop');
  });

  it('repairs a wrong attempt in the loop, with an exact account', async () => {
    const answer = await postJson(
      `${there.url}/solve`,
      { problem, initial_attempt: wrong, max_rounds: 4, chains: 2, seed: 1 },
      { headers: { accept: 'text/event-stream' } },
    );
    const events = await collectSse(answer.body as unknown as AsyncIterable<Uint8Array>);
    const end = events.at(-1)?.data as Json;
    expect(events.at(-1)?.event).toBe('solve-end');
    expect(end).toMatchObject({ status: 'accepted' });
    expect(end['usage'].total_tokens).toBe(end['usage'].generator.total_tokens + end['usage'].verifier.total_tokens);
    expect(events.filter(({ event }) => event === 'solve-end')).toHaveLength(1);
  });

  it('stops vLLM when a client hangs up', async () => {
    const abort = new AbortController();
    const body = { model: 'generator', prompt: 'x', max_tokens: 900, min_tokens: 900, stream: true, ignore_eos: true };
    const answer = await postJson(`${there.url}/v1/completions`, body, { signal: abort.signal });
    for await (const _ of readSse(answer.body as unknown as AsyncIterable<Uint8Array>)) break;
    abort.abort();
    await expect.poll(() => generator.numRunning(), { timeout: 10_000 }).toBe(0);
  });

  it('says so when vLLM dies in the middle', async () => {
    const body = { problem, max_rounds: 30, accept: { rule: 'score', threshold: 1 }, chains: 2 };
    const answer = await postJson(`${there.url}/solve`, body, { headers: { accept: 'text/event-stream' } });
    const ends: Json[] = [];
    for await (const { event, data } of readSse(answer.body as unknown as AsyncIterable<Uint8Array>)) {
      if (event === 'attempt-delta') await verifier.kill();
      if (event === 'solve-end') ends.push(JSON.parse(data) as Json);
    }
    expect(ends).toHaveLength(1);
    expect(ends[0]).toMatchObject({ status: 'failed', error: { code: 'remote_unavailable' } });
    expect((await fetch(`${there.url}/health/live`)).status).toBe(200);
  });
});
