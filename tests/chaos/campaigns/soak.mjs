// Mixed traffic on both roles for a long time: what grows, what is held, what the metrics counted.
import path from 'node:path';
import { ask, endedOnce, post, words } from '../support/client.mjs';
import { heapInUse, inspectable } from '../support/heap.mjs';
import { mebibytes, milliseconds, percentile, randomOf, sleep } from '../support/report.mjs';
import { openHandles, processFacts, scratchFolder, startServer } from '../support/server.mjs';

export const summary = 'an hour of mixed traffic: memory, handles, times, counters';
/** Of objects and of resident memory `growth` is allowed. The latter reaches its size in some thousand requests: a minute is all beginning. */
export const defaults = { seconds: 3600, growth: { objects: 0.03, resident: 0.03 }, slowdown: 1.5 };
export const short = { seconds: 60, growth: { objects: 0.03, resident: 1 }, slowdown: 3 };

const numClients = 6;
const sampleEveryMs = 500;
const lesson = 'A pen costs 3 euros and a book costs 5 euros. How much do two pens and one book cost?';
const solve = { max_rounds: 1, generator: { max_tokens: 12 }, verifier: { max_tokens: 8 } };

const kinds = [
  {
    name: 'chat',
    kind: 'openai',
    route: '/v1/chat/completions',
    body: (n) => ({ model: 'generator', messages: [{ role: 'user', content: words(n, 16) }], max_tokens: 12 }),
  },
  {
    name: 'completion',
    kind: 'openai',
    route: '/v1/completions',
    body: (n) => ({ model: 'verifier', prompt: words(n, 60), max_tokens: 6 }),
  },
  {
    name: 'verify',
    kind: 'named',
    route: '/verify',
    body: (n) => ({ problem: `${lesson} ${words(n, 8)}`, solution: '2 * 3 + 5 = 11', votes: 2, max_tokens: 8 }),
  },
  {
    name: 'score',
    kind: 'json',
    route: '/verify',
    body: (n) => ({ problem: `${lesson} ${words(n, 8)}`, solution: '2 * 3 + 5 = 12', mode: 'score' }),
  },
  {
    name: 'refine',
    kind: 'named',
    route: '/refine',
    body: (n) => ({ problem: `${lesson} ${words(n, 8)}`, attempt: '13', feedback: 'Add again.', max_tokens: 12 }),
  },
  { name: 'solve', kind: 'named', route: '/solve', body: (n) => ({ ...solve, problem: words(n, 12) }) },
  {
    name: 'stored',
    kind: 'named',
    route: '/solve',
    body: (n) => ({ ...solve, problem: words(n, 12), store: true }),
    afterwards: ['GET', 'DELETE'],
  },
  {
    name: 'chat that is left',
    kind: 'openai',
    route: '/v1/chat/completions',
    // long enough that nobody leaves behind its end: that would be counted as answered, and rightly
    body: (n) => ({
      model: 'generator',
      messages: [{ role: 'user', content: words(n, 16) }],
      max_tokens: 600,
      ignore_eos: true,
    }),
    isLeft: true,
  },
  {
    name: 'solve that is left',
    kind: 'named',
    route: '/solve',
    body: (n) => ({ ...solve, problem: words(n, 12), max_rounds: 20 }),
    isLeft: true,
  },
  {
    name: 'run that is cancelled',
    kind: 'json',
    route: '/solve',
    body: (n) => ({ ...solve, problem: words(n, 12), max_rounds: 20, background: true }),
    afterwards: ['DELETE'],
  },
];

/** What clients saw, in the words of the metrics. */
class Count {
  requests = {};
  tokens = { prompt: 0, completion: 0 };

  request(method, route, status) {
    const name = `${method} ${route} ${status}`;
    this.requests[name] = (this.requests[name] ?? 0) + 1;
  }

  usage({ prompt_tokens, completion_tokens }) {
    this.tokens.prompt += prompt_tokens;
    this.tokens.completion += completion_tokens;
  }
}

export async function run(report, { seconds, seed, growth, slowdown }) {
  report.section(`Mixed traffic of ${numClients} clients for ${seconds} s (seed ${seed})`);
  const server = await startServer({
    // what is served without a word said: two roles with weights of their own, and twenty times the requests of SmolLM2
    pack: [],
    args: ['--database', path.join(scratchFolder(), 'runs.db')],
    env: inspectable,
  });
  const count = new Count();
  const random = randomOf(seed);
  const state = { url: server.url, random, count, next: seed * 1_000_000, turn: 0, stray: [] };
  try {
    await traffic(state, Math.min(900, seconds / 4));
    const before = await atRest(server);
    const samples = [];
    const sampler = setInterval(() => {
      const [api, engine] = [server.pid, server.hostPid()].map((pid) => processFacts(pid).residentBytes);
      samples.push({ at: performance.now(), api, engine });
    }, sampleEveryMs);
    const begun = performance.now();
    const done = await traffic(state, seconds).finally(() => clearInterval(sampler));
    const middle = begun + (performance.now() - begun) / 2;
    const after = await atRest(server);

    report.figure('requests', `${done.length}: ${JSON.stringify(countBy(done, ({ spec }) => spec.name))}`);
    report.figure('they ended', JSON.stringify(countBy(done, ({ result }) => result.error?.code ?? result.end)));
    report.check('each ended once', state.stray.length === 0, JSON.stringify(state.stray.slice(0, 3)));
    for (const name of ['api', 'engine']) {
      report.figure(
        `resident memory, ${name}, mean of each quarter`,
        quarters(samples, name).map(mebibytes).join(', '),
      );
      const { first, share } = growthOf(samples, name);
      report.figure(
        `resident memory, ${name}`,
        `${mebibytes(first)}, ${(share * 100).toFixed(1)} % more at the end (line of least squares through ${samples.length} samples after the warm-up)`,
      );
      report.check(`it grew by less than ${(growth.resident * 100).toFixed(0)} %`, share < growth.resident);
    }
    for (const name of ['api', 'engine']) {
      report.figure(
        `open files and sockets, ${name}`,
        `${before.handles[name].total}, then ${after.handles[name].total}`,
      );
      report.check(
        'no more than before',
        after.handles[name].total <= before.handles[name].total,
        JSON.stringify([before.handles[name].kinds, after.handles[name].kinds]),
      );
    }
    report.check('nothing runs or waits, no slot is held', after.isIdle && after.slotsUsed === 0);
    report.check('no run and no stream is counted as open', after.numOpen === 0, String(after.numOpen));
    report.check('no warning of too many listeners', !server.stderr.includes('MaxListenersExceeded'));
    const p99 = (isIn) =>
      percentile(
        done
          .filter(({ spec, result }) => spec.isLeft !== true && isIn(result.startedAt))
          .map(({ result }) => result.endedAt - result.startedAt),
        0.99,
      );
    const [early, late] = [p99((at) => at < middle), p99((at) => at >= middle)];
    report.figure(
      'p99 of the time of a request',
      `${milliseconds(early)} in the first half, ${milliseconds(late)} in the second`,
    );
    report.check(`the second half is slower by less than a factor of ${slowdown}`, late < slowdown * early);
    sameRequests(report, count, after.metrics);
    await sameTokens(report, server, state);
    await sameObjects(report, server, state, { seconds: seconds / 4, growth: growth.objects });
  } finally {
    await server.stop();
  }
}

/** Last of all: a snapshot of the heap takes memory itself, which the process keeps. */
async function sameObjects(report, server, state, { seconds, growth }) {
  const before = await heapInUse(server);
  await traffic(state, seconds);
  const after = await heapInUse(server);
  const share = after.data / before.data - 1;
  report.figure(
    `objects of the api after a collection, and ${seconds.toFixed(0)} s later`,
    `${mebibytes(before.data)}, then ${mebibytes(after.data)} (${(share * 100).toFixed(1)} %)`,
  );
  report.check(`they grew by less than ${(growth * 100).toFixed(0)} %`, share < growth);
  report.figure('compiled code of the api', `${mebibytes(before.code)}, then ${mebibytes(after.code)}`);
}

/** `numClients` clients, each with one request at a time; every kind comes in turn. Resolves with all of them. */
async function traffic(state, seconds, from = kinds) {
  const endsAt = performance.now() + seconds * 1000;
  const done = [];
  await Promise.all(
    Array.from({ length: numClients }, async () => {
      while (performance.now() < endsAt) {
        state.turn += 1;
        done.push(await one(state, from[state.turn % from.length]));
      }
    }),
  );
  return done;
}

async function one(state, spec) {
  const { url, random, count, stray } = state;
  const controller = new AbortController();
  const result = await post(url, spec.route, spec.body(state.next++), {
    kind: spec.kind,
    signal: controller.signal,
    // whoever leaves does so after the first event, so that the server has seen the request
    onEvent: () => {
      if (spec.isLeft) setTimeout(() => controller.abort(), random() * 300);
    },
  });
  const isLeft = result.end === 'cancelled';
  count.request('POST', spec.route, isLeft ? 499 : result.status);
  const { usage, id } = answerOf(spec, result) ?? {};
  if (usage !== undefined)
    for (const part of usage.generator ? [usage.generator, usage.verifier] : [usage]) count.usage(part);
  if (!isLeft && !endedOnce(result, spec.kind)) stray.push([spec.name, result.end, result.terminals]);
  for (const method of spec.afterwards ?? []) {
    if (id === undefined) continue;
    count.request(method, '/solve/:id', await ask(`${url}/solve/${id}`, method));
  }
  // texts are not kept: an hour of them would be measured here
  return { spec, result: { ...result, events: undefined, json: undefined, headers: undefined } };
}

function answerOf({ kind }, { json, usage, events }) {
  if (kind === 'openai') return { usage };
  return kind === 'json' ? json : events.at(-1)?.data;
}

async function atRest(server) {
  const isIdle = await server.idle(60_000);
  // connections of clients that are gone are closed, and what ends last is counted
  await sleep(3000);
  const metrics = await server.metrics();
  return {
    isIdle,
    metrics,
    handles: { api: openHandles(server.pid), engine: openHandles(server.hostPid()) },
    slotsUsed: metrics.sum('stv_kv_cache_slots', { state: 'used' }),
    numOpen: metrics.sum('stv_open_streams') + metrics.sum('stv_solves_running'),
  };
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Shows whether what grew went on growing. */
function quarters(samples, name) {
  const length = Math.ceil(samples.length / 4);
  return [0, 1, 2, 3].map((at) => mean(samples.slice(at * length, (at + 1) * length).map((sample) => sample[name])));
}

/** The line of least squares through the samples: its value at the first, and by which share it is higher at the last. */
function growthOf(samples, name) {
  const [at, bytes] = [mean(samples.map((sample) => sample.at)), mean(samples.map((sample) => sample[name]))];
  let above = 0;
  let below = 0;
  for (const sample of samples) {
    above += (sample.at - at) * (sample[name] - bytes);
    below += (sample.at - at) ** 2;
  }
  const slope = above / below;
  const first = bytes + slope * (samples[0].at - at);
  return { first, share: (slope * (samples.at(-1).at - samples[0].at)) / first };
}

function sameRequests(report, count, metrics) {
  const counted = {};
  for (const { labels, value } of metrics.select('stv_http_request_duration_seconds_count')) {
    if (Object.keys(count.requests).some((name) => name.startsWith(`${labels.method} ${labels.route} `)))
      counted[`${labels.method} ${labels.route} ${labels.status}`] = value;
  }
  const isSame = JSON.stringify(sorted(counted)) === JSON.stringify(sorted(count.requests));
  report.figure('requests by route and status', JSON.stringify(sorted(count.requests)));
  report.check('the metrics counted the same', isSame, JSON.stringify(sorted(counted)));
}

/** Who leaves is told of no tokens, so these are compared where nobody leaves. */
async function sameTokens(report, server, state) {
  const own = new Count();
  const from = kinds.filter(({ isLeft, name }) => isLeft !== true && name !== 'run that is cancelled');
  const tokensOf = (metrics) => ({
    prompt: metrics.sum('stv_prompt_tokens_total'),
    completion: metrics.sum('stv_output_tokens_total'),
  });
  const before = tokensOf(await server.metrics());
  await traffic({ ...state, count: own }, 5, from);
  await server.idle(60_000);
  const after = tokensOf(await server.metrics());
  const counted = { prompt: after.prompt - before.prompt, completion: after.completion - before.completion };
  report.figure('tokens while nobody leaves', JSON.stringify(own.tokens));
  report.check(
    'the metrics counted the same tokens',
    JSON.stringify(counted) === JSON.stringify(own.tokens),
    JSON.stringify(counted),
  );
}

function countBy(items, nameOf) {
  const counts = {};
  for (const item of items) counts[nameOf(item)] = (counts[nameOf(item)] ?? 0) + 1;
  return counts;
}

const sorted = (counts) => Object.fromEntries(Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1)));
