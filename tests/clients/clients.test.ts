/** Real clients against the built server, each started as its users start it. Texts of a 135M model are not judged. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseEvents } from '../http/contract.ts';
import { expectResponse, expectResponseStream, textCases } from '../support/open-responses.ts';
import { type RunningServer, startServer } from '../support/start-server.ts';
import { clientScript, pythonProgram, type Report, readReport, runtimeCommand } from './client-programs.ts';

let server: RunningServer;

beforeAll(async () => {
  server = await startServer();
});

afterAll(async () => {
  expect(await server.stop()).toBe(0);
});

/** What both official clients must have read of a chat, its stream and the loop. */
function expectChat({ chat, chunks, models }: Report): void {
  expect(models).toEqual(expect.arrayContaining(['generator', 'verifier', 'solve']));
  expect(chat.choices).toHaveLength(2);
  expect(chat.choices[0]).toMatchObject({ finish_reason: 'length', message: { role: 'assistant' } });
  const tokens = chat.choices[0].logprobs.content as Report[];
  expect(tokens).toHaveLength(4);
  expect(tokens.map(({ token }) => token).join('')).toBe(chat.choices[0].message.content);
  for (const { top_logprobs } of tokens) expect(top_logprobs).toHaveLength(2);
  expect(chat.usage).toMatchObject({ completion_tokens: 8 });

  expect(chunks[0].choices[0].delta).toMatchObject({ role: 'assistant', content: '' });
  const text = (chunks as Report[]).map(({ choices }) => choices[0]?.delta.content ?? '').join('');
  expect(text, 'the same seed gives the same text').toBe(chat.choices[0].message.content);
  expect(chunks.at(-2).choices[0].finish_reason).toBe('length');
  expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 4 } });
}

const responseStart = [
  'response.created',
  'response.in_progress',
  'response.output_item.added',
  'response.content_part.added',
  'response.output_text.delta',
];

describe('openai for Node', () => {
  let report: Report;

  beforeAll(async () => {
    report = await readReport(process.execPath, [clientScript('openai-node.mjs')], server.url);
  });

  it('chats and streams', () => expectChat(report));

  it('reads the echo of a completion with its log-probabilities', () => {
    const { text, logprobs } = report['completion'].choices[0];
    expect(text.startsWith('The sun rises in the east')).toBe(true);
    expect(logprobs.tokens.join('')).toBe(text);
    expect(logprobs.token_logprobs[0]).toBeNull();
    const offsets = logprobs.text_offset as number[];
    for (const [index, offset] of offsets.entries()) {
      expect(text.slice(offset).startsWith(logprobs.tokens[index])).toBe(true);
      if (index > 0) expect(Object.keys(logprobs.top_logprobs[index])).toContain(logprobs.tokens[index]);
    }
  });

  it('streams a response', () => {
    expect(report['responseEvents'].slice(0, 5)).toEqual(responseStart);
    expect(report['responseEvents'].at(-1)).toBe('response.completed');
    expect(report['finalText'].length).toBeGreaterThan(0);
  });

  it('reads the loop: rounds as reasoning, the solution as content', () => {
    expect(report['reasoning']).toContain('Round 0, attempt:');
    expect(report['reasoning']).toContain('Verdict:');
    expect(report['solved'].length).toBeGreaterThan(0);
    expect(report['summary'].id).toMatch(/^slv_/);
  });

  it('reads our errors', () => {
    expect(report['errors']).toMatchObject([
      { status: 400, code: 'unsupported_parameter', param: 'tools' },
      { status: 404, code: 'model_not_found', param: 'model' },
      { status: 400, code: 'invalid_value', param: 'max_tokens' },
    ]);
    for (const { requestId } of report['errors']) expect(requestId).toMatch(/^req_/);
  });
});

describe('openai for Python', () => {
  let report: Report;

  beforeAll(async () => {
    report = await readReport(pythonProgram('clients', 'python'), [clientScript('openai_python.py')], server.url);
  });

  it('chats and streams', () => {
    expectChat(report);
    expect(report['requestId']).toMatch(/^req_/);
  });

  it('completes prompts of every form', () => {
    expect(report['choices']).toEqual([1, 2, 1, 2]);
  });

  it('streams a response and reads the loop as one', () => {
    expect(report['eventTypes'].slice(0, 5)).toEqual(responseStart);
    expect(report['responseText'].length).toBeGreaterThan(0);
    const { types, summary, usage, text } = report['solved'];
    expect(types.at(-1)).toBe('message');
    expect(types[0]).toBe('reasoning');
    expect(text.length).toBeGreaterThan(0);
    expect(summary.id).toMatch(/^slv_/);
    expect(usage.total_tokens).toBe(usage.input_tokens + usage.output_tokens);
  });

  it('raises its own error classes', () => {
    expect(report['errors']).toMatchObject([
      { kind: 'BadRequestError', code: 'unsupported_parameter', param: 'response_format' },
      { kind: 'NotFoundError', code: 'model_not_found', param: 'model' },
      { kind: 'BadRequestError', code: 'invalid_value', param: 'temperature' },
    ]);
  });
});

describe('Vercel AI SDK', () => {
  let report: Report;

  beforeAll(async () => {
    report = await readReport(process.execPath, [clientScript('ai-sdk.mjs')], server.url);
  });

  it('generates text with usage', () => {
    const { chat, completion } = report;
    expect(chat).toMatchObject({ finishReason: 'length', usage: { outputTokens: 4 } });
    expect(chat.text.length).toBeGreaterThan(0);
    expect(completion.usage.outputTokens).toBe(4);
  });

  it('streams the loop as reasoning and text', () => {
    const texts = (type: string): string =>
      (report['parts'] as Report[])
        .filter((part) => part['type'] === type)
        .map(({ text }) => text)
        .join('');
    expect(texts('reasoning-delta')).toContain('Verdict:');
    expect(texts('text-delta').length).toBeGreaterThan(0);
    expect((report['parts'] as Report[]).map(({ type }) => type)).not.toContain('error');
    expect(report['usage'].totalTokens).toBe(report['usage'].inputTokens + report['usage'].outputTokens);
  });

  it('throws what it should not retry', () => {
    expect(report['error']).toMatchObject({ name: 'AI_APICallError', statusCode: 404, isRetryable: false });
    expect(report['error'].message).toContain('no model');
  });
});

describe('LangChain', () => {
  let report: Report;

  beforeAll(async () => {
    report = await readReport(process.execPath, [clientScript('langchain.mjs')], server.url);
  });

  it('chats, streams and completes', () => {
    const { answer, chunks, completion } = report;
    expect(answer).toMatchObject({ finish: 'length', usage: { output_tokens: 4 } });
    expect((chunks as Report[]).map(({ content }) => content).join('').length).toBeGreaterThan(0);
    expect(chunks.at(-1).usage_metadata).toMatchObject({ output_tokens: 4 });
    expect(completion.length).toBeGreaterThan(0);
  });

  it('reads the loop over the responses route, in several turns', () => {
    const { solved, again, streamedText } = report;
    expect(solved.content.map(({ type }: Report) => type)).toEqual(['reasoning', 'text']);
    expect(solved.content[0].reasoning).toContain('Verdict:');
    expect(solved.text.length).toBeGreaterThan(0);
    expect(again.length).toBeGreaterThan(0);
    expect(streamedText.length).toBeGreaterThan(0);
    expect(solved.usage.output_token_details.reasoning).toBeGreaterThan(0);
  });
});

describe.each(['node', 'deno', 'bun'] as const)('stv-server/client in %s', (runtime) => {
  let report: Report;

  beforeAll(async () => {
    const script = clientScript('stv-client.mjs');
    const [command, ...args] = runtime === 'node' ? [process.execPath, script] : runtimeCommand(runtime, script);
    report = await readReport(command, args, server.url);
  });

  it('verifies and streams the loop, each event once', () => {
    expect(report).toMatchObject({ runtime, verification: { object: 'verification' } });
    const events = report['events'] as Report[];
    expect(events.map(({ id }) => id)).toEqual(events.map((_, index) => index + 1));
    expect(events[0]).toMatchObject({ event: 'solve-start' });
    expect(events.filter(({ event }) => event === 'solve-end')).toEqual([events.at(-1)]);
  });

  it('leaves a stored run and takes it up again without a gap', () => {
    const ids = report['stored'] as number[];
    expect(ids.length).toBeGreaterThan(3);
    expect(ids).toEqual(ids.map((_, index) => index + 1));
    expect(['accepted', 'exhausted']).toContain(report['status']);
    expect(report['erased']).toBe('erased');
  });

  it('cancels with the reason that was given, and reads our errors', () => {
    expect(report['cancelled']).toBe('enough');
    expect(report['error']).toEqual({ status: 400, param: 'solution' });
  });
});

describe('Open Responses conformance', () => {
  it.each(textCases)('$name', async ({ body, stream }) => {
    const answer = await fetch(`${server.url}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      // a small model may never stop by itself
      body: JSON.stringify({ model: 'generator', temperature: 0, stop: [' ', '.', '\n'], ...body, stream }),
    });
    expect(answer.status).toBe(200);
    const response = stream
      ? expectResponseStream(parseEvents(await answer.text()))
      : expectResponse(await answer.json());
    expect(response.status).toBe('completed');
    expect(response.output.length).toBeGreaterThan(0);
  });
});
