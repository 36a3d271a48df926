/**
 * Damaged requests on real sockets: bytes of HTTP, values of JSON, ids of resumption, texts cut inside of characters. Every one
 * is answered or closed in time, none with a defect, and the server serves on. `STV_FUZZ_REQUESTS` is the number
 * (`npm run fuzz:requests`), `STV_FUZZ_SEED` repeats a run.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import { closeApp, createApp, listen, type TestApp } from '../http/build-app.ts';
import { promptText } from '../http/test-engine.ts';
import { below, mutateBytes, mutateJson, pick, type Random, randomOf } from './mutate.ts';

const numRequests = Number(process.env['STV_FUZZ_REQUESTS'] ?? 300);
const seed = Number(process.env['STV_FUZZ_SEED'] ?? 20_260_105);
const answerMs = 10_000;

let built: TestApp;
let port: number;
let runId: string;
const folder = mkdtempSync(path.join(tmpdir(), 'stv-fuzz-'));

const models = [{ model: 'generator' }, { model: 'solve' }, { model: 'verifier' }, { model: 'none' }];
const bodies: readonly (readonly [url: string, body: object])[] = [
  ['/verify', { problem: 'p', solution: 's', votes: 2, mode: 'full', early_stop: false, reference: 'r', stream: true }],
  ['/verify', { problem: 'p', solution: 's', mode: 'score' }],
  ['/refine', { problem: 'p', attempt: 'a', feedback: { verdict: 'reject', text: 't' }, temperature: 0.5 }],
  ['/solve', { problem: 'p', max_rounds: 2, chains: 2, accept: { rule: 'votes', k: 1, n: 2 }, budget: { tokens: 50 } }],
  ['/solve', { problem: 'p', background: true, store: true, metadata: { a: 'b' }, label: { expected: '1' } }],
  ['/solve', { problem: 'p', stream: true, initial_attempt: 'x', generator: { model: 'generator' } }],
  ['/v1/chat/completions', { messages: [{ role: 'user', content: 'hi' }], n: 2, logprobs: true, top_logprobs: 2 }],
  ['/v1/chat/completions', { messages: [{ role: 'user', content: [{ type: 'text', text: 'a' }] }], stream: true }],
  ['/v1/completions', { prompt: ['a', 'b'], echo: true, logprobs: 1, stop: ['x'], max_tokens: 3, suffix: null }],
  ['/v1/completions', { prompt: [1, 2, 3], stream: true, stream_options: { include_usage: true } }],
  ['/v1/responses', { input: 'hi', store: false, stream: true, instructions: 'x' }],
  ['/v1/responses', { input: [{ role: 'user', content: [{ type: 'input_text', text: 'x' }] }] }],
  ['/tokenize', { text: 'abc' }],
  ['/detokenize', { tokens: [65, 66] }],
];

beforeAll(async () => {
  const database = await openDatabase(path.join(folder, 'runs.db'));
  built = await createApp({
    store: new SqlRunStore(database),
    config: { maxBodyBytes: 100_000, requestTimeoutMs: 2_000 },
    engine: { reply: (request) => promptText(request.prompt).slice(0, 200), accept: () => 0.4 },
  });
  port = Number(new URL(await listen(built.app)).port);
  const run = { method: 'POST', url: '/solve', payload: { problem: 'p', store: true, max_rounds: 2 } } as const;
  runId = (await built.app.inject(run)).json().id;
});

afterAll(async () => {
  await built.runs.close(new Error('end') as never);
  await closeApp(built);
  rmSync(folder, { recursive: true, force: true });
});

interface Answer {
  /** Undefined: closed without one. */
  readonly status: number | undefined;
  readonly text: string;
}

/** Sends the pieces one by one and reads until the server closes; `close` gives up after a while, as a client that leaves. */
function exchange(pieces: readonly Uint8Array[], close: boolean): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1');
    const chunks: Buffer[] = [];
    const timer = setTimeout(() => {
      socket.destroy();
      reject(
        new Error(`no end of the answer within ${answerMs} ms: ${Buffer.concat(chunks).toString().slice(0, 200)}`),
      );
    }, answerMs);
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', () => {});
    socket.on('close', () => {
      clearTimeout(timer);
      const text = Buffer.concat(chunks).toString();
      const status = /^HTTP\/1\.1 (\d{3})/.exec(text)?.[1];
      resolve({ status: status === undefined ? undefined : Number(status), text });
    });
    const send = (index: number): void => {
      const piece = pieces[index];
      if (piece === undefined) {
        // half-closed, so that an incomplete request is known to be all of it
        if (close) socket.destroy();
        else socket.end();
        return;
      }
      socket.write(piece, () => setImmediate(send, index + 1));
    };
    socket.on('connect', () => send(0));
  });
}

function requestBytes(
  method: string,
  url: string,
  headers: Readonly<Record<string, string>>,
  body?: Uint8Array,
): Buffer {
  const lines = Object.entries({ host: `127.0.0.1:${port}`, connection: 'close', ...headers });
  if (body !== undefined) lines.push(['content-length', String(body.length)]);
  const head = `${method} ${url} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
  return Buffer.concat([Buffer.from(head, 'latin1'), body ?? Buffer.alloc(0)]);
}

const json = { 'content-type': 'application/json' };
const texts = [
  '',
  'é',
  '🙂🙂🙂',
  '\ud83d',
  '\ude42',
  '\0',
  '\u202e',
  'a\u0301'.repeat(50),
  '中'.repeat(100),
  '"\\/\b\f',
];
const ids = [
  '0',
  '1',
  '-1',
  '999999999999',
  '1e3',
  '0x1',
  'NaN',
  '',
  ' 2 ',
  '2,3',
  '1\t',
  '9'.repeat(400),
  '٣',
  '1;2',
  '+1',
];

function cut(random: Random, bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = [];
  let from = 0;
  while (from < bytes.length && pieces.length < 12) {
    const to = Math.min(bytes.length, from + 1 + below(random, Math.max(2, bytes.length / 3)));
    pieces.push(bytes.subarray(from, to));
    from = to;
  }
  pieces.push(bytes.subarray(from));
  return pieces;
}

function makeRequest(random: Random): Buffer {
  const [url, body] = pick(random, bodies);
  const full = { ...(url.startsWith('/v1') || random() < 0.2 ? pick(random, models) : {}), ...body };
  switch (below(random, 6)) {
    case 0: {
      const bytes = Buffer.from(JSON.stringify(full));
      const whole = requestBytes('POST', url, json, bytes);
      return mutateBytes(random, whole, whole.length);
    }
    case 1:
      return requestBytes('POST', url, json, mutateBytes(random, Buffer.from(JSON.stringify(full)), 500));
    case 2: {
      const prefix =
        random() < 0.5 ? `/solve/${runId}/events` : `/solve/${pick(random, [runId, 'slv_x', '..', '%00'])}`;
      const value = pick(random, ids);
      const query = random() < 0.5 ? `?after=${encodeURIComponent(value)}` : '';
      return requestBytes('GET', `${prefix}${query}`, { 'last-event-id': Buffer.from(value).toString('latin1') });
    }
    case 3: {
      const text = pick(random, texts) + pick(random, texts);
      const filled = Object.fromEntries(
        Object.entries(full).map(([key, value]) => [key, typeof value === 'string' && random() < 0.5 ? text : value]),
      );
      return requestBytes('POST', url, json, Buffer.from(JSON.stringify(filled)));
    }
    case 4: {
      const headers = {
        ...json,
        [pick(random, [
          'x-request-id',
          'idempotency-key',
          'accept',
          'authorization',
          'expect',
          'origin',
          'traceparent',
        ])]: pick(random, ['', 'x'.repeat(5000), '\x80\xff', 'text/event-stream', 'Bearer x', '100-continue', '*/*']),
      };
      return requestBytes(
        pick(random, ['POST', 'PUT', 'GET', 'DELETE', 'OPTIONS', 'HEAD', 'QUERY']),
        url,
        headers,
        Buffer.from(JSON.stringify(full)),
      );
    }
    default:
      return requestBytes('POST', url, json, Buffer.from(JSON.stringify(mutateJson(random, full))));
  }
}

it('are answered or closed, never by a defect', { timeout: 3_600_000 }, async () => {
  const counts = new Map<string, number>();
  const slots = Array.from({ length: 8 }, (_, slot) => slot);
  let slowest = 0;
  await Promise.all(
    slots.map(async (slot) => {
      for (let index = slot; index < numRequests; index += slots.length) {
        const random = randomOf(seed + index);
        const request = makeRequest(random);
        const pieces = random() < 0.5 ? cut(random, request) : [request];
        const began = performance.now();
        const { status, text } = await exchange(pieces, random() < 0.05);
        slowest = Math.max(slowest, performance.now() - began);
        const label = `request ${index} of seed ${seed}: ${request.toString('latin1').slice(0, 300)}\n${text.slice(0, 600)}`;
        expect(status === undefined || status < 500, label).toBe(true);
        // a stream has its 200 before it can fail
        expect(text, label).not.toContain('"type":"server_error"');
        const name = status === undefined ? 'closed' : String(status);
        counts.set(name, (counts.get(name) ?? 0) + 1);
      }
    }),
  );
  const shares = [...counts].sort().map(([name, count]) => `${name} ${count}`);
  process.stdout.write(`${numRequests} requests, slowest ${slowest.toFixed(0)} ms: ${shares.join(', ')}\n`);
  expect(counts.get('200'), 'some of them are served').toBeGreaterThan(numRequests / 50);
  expect(counts.get('400'), 'the damage reaches the checks').toBeGreaterThan(numRequests / 10);
  await expect.poll(() => built.engine.numOpen, { timeout: 10_000 }).toBe(0);
  expect((await built.app.inject('/health/ready')).statusCode).toBe(200);
});

it('keep their texts, wherever the network cuts them', { timeout: 600_000 }, async () => {
  const text = 'é🙂中\u202eа́ 𝔘𝔫𝔦 \u{10ffff} ü';
  const body = Buffer.from(JSON.stringify({ model: 'generator', messages: [{ role: 'user', content: text }] }));
  const request = requestBytes('POST', '/v1/chat/completions', json, body);
  const start = request.length - body.length;
  for (let at = start; at < request.length; at++) {
    const answer = await exchange([request.subarray(0, at), request.subarray(at)], false);
    const answered = JSON.parse(answer.text.slice(answer.text.indexOf('\r\n\r\n') + 4));
    expect(answered.choices[0].message.content, `cut at byte ${at - start}`).toBe(text);
  }
});
