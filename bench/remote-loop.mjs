/**
 * What the loop costs a replica whose models run elsewhere: the built server with both roles on a stand-in for vLLM that streams
 * words at a fixed pace and computes nothing. CPU time is the server's own (`stv_process_cpu_seconds_total`).
 * Usage: node bench/remote-loop.mjs [--runs 64] [--rounds 4] [--tokens 200] [--pace 50]
 * Prints one JSON object. Build first: npm run build.
 */
import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { cpus, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const self = fileURLToPath(import.meta.url);
const { values } = parseArgs({
  options: {
    'stand-in': { type: 'boolean', default: false },
    runs: { type: 'string', default: '64' },
    rounds: { type: 'string', default: '4' },
    tokens: { type: 'string', default: '200' },
    /** Tokens per second of each stream. */
    pace: { type: 'string', default: '50' },
  },
});
const [runs, rounds, tokens, pace] = [values.runs, values.rounds, values.tokens, values.pace].map(Number);

/** A stable id for each word or sign. */
const idOf = (word) => [...word].reduce((hash, char) => (hash * 31 + char.codePointAt(0)) % 100_000, 7);
const encode = (text) => (text.match(/\w+|\W/g) ?? []).map(idOf);

/** The routes of vLLM that the remote engine uses. */
function standIn() {
  const words = ['Then ', 'we ', 'add ', 'both ', 'sides ', 'and ', 'get ', '12. '];
  const server = createServer(async (request, answer) => {
    let text = '';
    for await (const part of request) text += part;
    const body = text === '' ? {} : JSON.parse(text);
    const send = (value) => answer.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    if (request.url === '/v1/models') return send({ data: [{ id: 'm', owned_by: 'vllm', max_model_len: 32_768 }] });
    if (request.url === '/tokenize') {
      return send({ tokens: encode(body.prompt ?? body.messages.map(({ content }) => content).join('\n')) });
    }
    if (request.url === '/v1/completions') {
      const top = { correct: 0.3, wrong: 0.6, unknown: 0.05 };
      const logprobs = Object.fromEntries(
        Object.entries(top).map(([word, p]) => [`token_id:${idOf(word)}`, Math.log(p)]),
      );
      const [best] = Object.keys(logprobs);
      const choice = {
        index: 0,
        text: ' ',
        finish_reason: 'length',
        logprobs: { tokens: [best], token_logprobs: [logprobs[best]], top_logprobs: [logprobs] },
      };
      return send({ choices: [choice], usage: { prompt_tokens: body.prompt.length, completion_tokens: 1 } });
    }
    answer.writeHead(200, { 'content-type': 'text/event-stream' });
    const event = (value) =>
      answer.write(
        `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', created: 1, model: 'm', ...value })}\n\n`,
      );
    const numTokens = Math.min(tokens, body.max_tokens);
    let sent = 0;
    const timer = setInterval(() => {
      if (sent < numTokens) {
        const word = words[sent % words.length];
        event({ choices: [{ index: 0, delta: { content: word }, finish_reason: null, token_ids: [idOf(word)] }] });
        sent += 1;
        return;
      }
      clearInterval(timer);
      event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] });
      event({ choices: [], usage: { prompt_tokens: 300, completion_tokens: sent } });
      answer.end('data: [DONE]\n\n');
    }, 1000 / pace);
    answer.on('close', () => clearInterval(timer));
  });
  server.listen(0, '127.0.0.1', () => process.send(server.address().port));
  process.on('disconnect', () => process.exit(0));
}

async function readMetrics(url) {
  const text = await (await fetch(`${url}/metrics`)).text();
  const value = (name) => Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)`, 'm').exec(text)?.[1] ?? Number.NaN);
  return { cpu: value('stv_process_cpu_seconds_total'), rss: value('stv_process_resident_memory_bytes') };
}

async function solve(url, seed) {
  const answer = await fetch(`${url}/solve`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    body: JSON.stringify({
      problem: 'A pen costs 3 euros and a book costs 5 euros. How much do two pens and one book cost together?',
      max_rounds: rounds - 1,
      seed,
      generator: { max_tokens: tokens },
      verifier: { max_tokens: tokens },
    }),
  });
  let numEvents = 0;
  let tail = '';
  for await (const part of answer.body) {
    const text = Buffer.from(part).toString('utf8');
    numEvents += text.split('\nevent: ').length;
    tail = (tail + text).slice(-65_536);
  }
  const end = JSON.parse(tail.slice(tail.lastIndexOf('data: ') + 6));
  if (end.status !== 'exhausted') throw new Error(`A run ended with ${end.status} (${end.stop_reason}).`);
  return {
    numEvents,
    numRounds: end.chains[0].rounds.length,
    numTokens: end.usage.generator.completion_tokens + end.usage.verifier.completion_tokens,
  };
}

async function main() {
  const dataDir = mkdtempSync(path.join(tmpdir(), 'stv-bench-'));
  const remote = fork(self, ['--stand-in', ...['tokens', 'pace'].flatMap((name) => [`--${name}`, values[name]])]);
  const [port] = await once(remote, 'message');
  const address = `http://127.0.0.1:${port}/v1`;
  const args = [
    '--pack',
    'smollm2',
    '--port',
    '0',
    '--generator-remote',
    address,
    '--verifier-remote',
    address,
    '--remote-concurrency',
    '1024',
  ];
  const main = path.join(path.dirname(self), '..', 'dist', 'cli', 'main.js');
  const started = performance.now();
  const server = spawn(process.execPath, [main, 'serve', ...args], {
    env: { ...process.env, STV_DATA_DIR: dataDir, STV_LOG_LEVEL: 'error' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    // the pipe stays open: the server writes to it later as well
    const url = await new Promise((resolve, reject) => {
      let output = '';
      server.stdout.on('data', (part) => {
        output += part;
        const found = /(http:\/\/\S+)/.exec(output)?.[1];
        if (found !== undefined) resolve(found);
      });
      server.on('exit', (code) => reject(new Error(`The server ended with ${code}.`)));
    });
    while (!(await fetch(`${url}/health/ready`)).ok) await new Promise((resolve) => setTimeout(resolve, 50));
    const readyMs = performance.now() - started;
    // compiled code and warm connections
    await Promise.all(Array.from({ length: Math.min(8, runs) }, (_, index) => solve(url, index)));
    const before = await readMetrics(url);
    const began = performance.now();
    const results = await Promise.all(Array.from({ length: runs }, (_, index) => solve(url, 1000 + index)));
    const seconds = (performance.now() - began) / 1000;
    const after = await readMetrics(url);
    const sum = (field) => results.reduce((total, result) => total + result[field], 0);
    const cpu = after.cpu - before.cpu;
    const report = {
      cpu_model: cpus()[0]?.model,
      node: process.version,
      ready_ms: Math.round(readyMs),
      runs,
      rounds: sum('numRounds'),
      tokens: sum('numTokens'),
      seconds: Number(seconds.toFixed(1)),
      tokens_per_second: Math.round(sum('numTokens') / seconds),
      cpu_seconds: Number(cpu.toFixed(2)),
      cpu_ms_per_round: Number(((1000 * cpu) / sum('numRounds')).toFixed(2)),
      cpu_us_per_token: Number(((1e6 * cpu) / sum('numTokens')).toFixed(1)),
      tokens_per_cpu_second: Math.round(sum('numTokens') / cpu),
      resident_mb: Math.round(after.rss / 1e6),
    };
    process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  } finally {
    server.kill('SIGTERM');
    await once(server, 'exit');
    remote.disconnect();
    rmSync(dataDir, { recursive: true, force: true });
  }
}

if (values['stand-in']) standIn();
else await main();
