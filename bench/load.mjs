// A closed-loop load generator for `POST /v1/completions` that works the same against every server: streamed, greedy, past
// the end-of-sequence token, one timestamp per token.
import { Agent, request } from 'undici';

/** No keep-alive limits or timeouts of the client may shape the figures. */
const agent = new Agent({ connections: 256, headersTimeout: 0, bodyTimeout: 0 });

/** One streamed completion. Returns milliseconds (performance.now) of its start and of each token, and the usage reported. */
export async function complete(url, prompt, { maxTokens, model = 'generator', extra = {} }) {
  const started = performance.now();
  const answer = await request(`${url}/v1/completions`, {
    dispatcher: agent,
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model,
      prompt,
      max_tokens: maxTokens,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
      ignore_eos: true,
      ...extra,
    }),
  });
  if (answer.statusCode !== 200) throw new Error(`${url}: ${answer.statusCode} ${await answer.body.text()}`);
  const times = [];
  let usage;
  let rest = '';
  for await (const bytes of answer.body) {
    const now = performance.now();
    rest += bytes;
    const lines = rest.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (!line.startsWith('data: {')) continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(`${url}: ${JSON.stringify(event.error)}`);
      if (event.usage) usage = event.usage;
      if (event.choices?.[0]?.text) times.push(now);
    }
  }
  return { started, ended: performance.now(), times, usage };
}

/** Milliseconds until a completion's first token. */
export const firstTokenMs = (run) => run.times[0] - run.started;

/** Milliseconds between the tokens of each completion. */
export const gapsOf = (runs) => runs.flatMap((run) => run.times.slice(1).map((time, at) => time - run.times[at]));

/**
 * Decode rate at a steady number of sequences: tokens that arrived between the moment when the last request had its first
 * token and the moment when the first request had its last, per second. Events are scaled to tokens by the usage reported.
 */
export async function decodeRate(url, prompts, maxTokens, extra) {
  const runs = await Promise.all(prompts.map((prompt) => complete(url, prompt, { maxTokens, extra })));
  const from = Math.max(...runs.map((run) => run.times[0]));
  const to = Math.min(...runs.map((run) => run.times.at(-1)));
  let tokens = 0;
  for (const run of runs) {
    const perEvent = run.usage.completion_tokens / run.times.length;
    tokens += run.times.filter((time) => time > from && time <= to).length * perEvent;
  }
  return { tokensPerSecond: (tokens / (to - from)) * 1000, windowMs: to - from, runs };
}

/** Prompt tokens per second: prompts one after the other, each until its first token. */
export async function prefillRate(url, prompts, extra) {
  let tokens = 0;
  let milliseconds = 0;
  for (const prompt of prompts) {
    const run = await complete(url, prompt, { maxTokens: 1, extra });
    tokens += run.usage.prompt_tokens;
    milliseconds += firstTokenMs(run);
  }
  return (tokens / milliseconds) * 1000;
}

/** Middle value. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

const subjects = [
  'a train',
  'the gardener',
  'a class of pupils',
  'the baker',
  'a sailor',
  'two friends',
  'the engineer',
];
const acts = ['counts', 'measures', 'divides', 'compares', 'collects', 'explains', 'draws', 'forgets'];
const things = ['apples', 'lengths of rope', 'fractions', 'coins', 'triangles', 'hours of work', 'litres of paint'];

/** Ordinary sentences, different for each seed from the first word on, so that no prefix can be shared. */
export function text(seed, numWords) {
  let state = (seed * 2654435761) >>> 0;
  const pick = (list) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return list[state % list.length];
  };
  const words = [`Story ${seed}:`];
  while (words.length < numWords) {
    words.push(
      ...`On day ${(state >>> 8) % 1000} ${pick(subjects)} ${pick(acts)} ${pick(things)} and then ${pick(acts)} ${pick(things)}.`.split(
        ' ',
      ),
    );
  }
  return words.slice(0, numWords).join(' ');
}
