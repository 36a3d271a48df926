/** The LiteLLM proxy in front of the server, asked by the official client as if it were OpenAI. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import getPort from 'get-port';
import OpenAI from 'openai';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { freshFolder, type RunningServer, startServer } from '../support/start-server.ts';
import { clientsFolder, pythonProgram, type Report } from './client-programs.ts';

let server: RunningServer;
let proxy: ChildProcess;
let printed = '';
let client: OpenAI;

beforeAll(async () => {
  server = await startServer();
  const port = await getPort({ host: '127.0.0.1' });
  const command = pythonProgram('litellm', 'litellm');
  const config = path.join(clientsFolder, 'litellm.yaml');
  proxy = spawn(command, ['--config', config, '--host', '127.0.0.1', '--port', String(port)], {
    cwd: freshFolder(),
    env: { ...process.env, STV_BASE_URL: `${server.url}/v1`, LITELLM_LOCAL_MODEL_COST_MAP: 'True' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  for (const stream of [proxy.stdout, proxy.stderr]) {
    stream?.on('data', (bytes) => {
      printed += bytes;
    });
  }
  const url = `http://127.0.0.1:${port}`;
  const end = Date.now() + 240_000;
  while (
    !(await fetch(`${url}/health/liveliness`).then(
      ({ ok }) => ok,
      () => false,
    ))
  ) {
    if (proxy.exitCode !== null || Date.now() > end) throw new Error(`LiteLLM did not start.\n${printed}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 });
});

afterAll(async () => {
  // asked kindly it would wait for every request still open
  proxy.kill('SIGKILL');
  if (proxy.exitCode === null && proxy.signalCode === null) await once(proxy, 'exit');
  expect(await server.stop()).toBe(0);
});

const messages = [{ role: 'user' as const, content: 'Say hi.' }];
/** Typed as the client's own bodies are, with our field beside them. */
const few = { max_tokens: 4 };
const loop = { x_solve: { max_rounds: 0, generator: few, verifier: few } };

it('passes a chat with log-probabilities and usage', async () => {
  const chat = await client.chat.completions.create({ model: 'tutor', messages, max_tokens: 4, logprobs: true });
  expect(chat.choices[0]).toMatchObject({ finish_reason: 'length', message: { role: 'assistant' } });
  expect(chat.choices[0]?.logprobs?.content).toHaveLength(4);
  expect(chat.usage?.completion_tokens).toBe(4);
});

it('passes a stream with usage last', async () => {
  const stream = await client.chat.completions.create({
    model: 'tutor',
    messages,
    max_tokens: 3,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  expect(chunks[0]?.choices[0]?.delta.role).toBe('assistant');
  expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join('').length).toBeGreaterThan(0);
  expect(chunks.at(-1)?.usage?.completion_tokens).toBe(3);
});

it('passes the rounds of the loop as reasoning', async () => {
  const body = { model: 'tutor-solve', messages, max_tokens: 4, ...loop };
  const stream = await client.chat.completions.create({ ...body, stream: true });
  let reasoning = '';
  for await (const { choices } of stream) {
    reasoning += (choices[0]?.delta as Report | undefined)?.['reasoning_content'] ?? '';
  }
  expect(reasoning).toContain('Round 0, attempt:');
  expect(reasoning).toContain('Verdict:');
  const chat = (await client.chat.completions.create(body)) as Report;
  expect(chat['x_solve']).toMatchObject({ round: 0, chain: 0 });
  expect(chat['choices'][0].message.reasoning_content).toContain('Verdict:');
});

it('passes completions and responses', async () => {
  const completion = await client.completions.create({ model: 'tutor', prompt: 'The sun', max_tokens: 3 });
  expect(completion.usage?.completion_tokens).toBe(3);
  // one is bridged to a chat, the other goes to our own route
  for (const model of ['tutor', 'tutor-native']) {
    const response = await client.responses.create({ model, input: 'Say hi.', max_output_tokens: 16, temperature: 0 });
    expect(response.output.map(({ type }) => type)).toEqual(['message']);
    expect(response.output_text.length).toBeGreaterThan(0);
    expect(response.usage?.output_tokens).toBeLessThanOrEqual(16);
  }
});

it('passes our errors with their status and sentence', async () => {
  await expect(client.chat.completions.create({ model: 'tutor', messages, temperature: 9 })).rejects.toMatchObject({
    status: 400,
    message: expect.stringContaining('`temperature` must be at most 2, got 9.'),
  });
});
