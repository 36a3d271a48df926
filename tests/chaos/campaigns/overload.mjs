// More requests than can be served: what is served, what is refused and how fast, who waits for whom.
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import OpenAI from 'openai';
import { endedOnce, post, words } from '../support/client.mjs';
import { closedLoop, openLoop } from '../support/open-loop.mjs';
import { mebibytes, milliseconds, percentile, sleep } from '../support/report.mjs';
import { processFacts, scratchFolder, startServer } from '../support/server.mjs';

export const summary =
  'several times the load that can be served; clients that try again; a small key beside a large one';
/** `seconds` of load at each multiple. `goodputShare`: few seconds hold few requests, so that their number says less. */
export const defaults = { seconds: 60, goodputShare: 0.9 };
export const short = { seconds: 6, goodputShare: 0.7 };

const multiples = [1, 2, 5, 10];
const numSlots = 4;
const maxQueued = 16;
/** A key leaves half of the queue to others, see `engine/admission.ts`. */
const maxOwnQueued = maxQueued / 2;
const refusedWithinMs = 50;

const lesson = 'A pen costs 3 euros and a book costs 5 euros. How much do two pens and one book cost?';

/** The mix: both roles, streams and JSON, with a fixed number of tokens each, so that a request is as much work as another of its kind. */
const mix = [
  {
    kind: 'openai',
    route: '/v1/chat/completions',
    body: (n) => ({
      model: 'generator',
      messages: [{ role: 'user', content: words(n, 12) }],
      max_tokens: 8,
      ignore_eos: true,
    }),
  },
  {
    kind: 'json',
    route: '/verify',
    body: (n) => ({ problem: `${lesson} ${words(n, 12)}`, solution: '2 * 3 + 5 = 11', mode: 'score' }),
  },
  {
    kind: 'openai',
    route: '/v1/completions',
    body: (n) => ({ model: 'generator', prompt: words(n, 30), max_tokens: 4, ignore_eos: true }),
  },
  {
    kind: 'named',
    route: '/verify',
    body: (n) => ({ problem: `${lesson} ${words(n, 12)}`, solution: '2 * 3 + 5 = 11', max_tokens: 6 }),
  },
];

export async function run(report, options) {
  const server = await startServer({
    args: [
      ...['--database', path.join(scratchFolder(), 'runs.db')],
      ...['--num-slots', String(numSlots), '--max-queued-sequences', String(maxQueued)],
    ],
  });
  try {
    const capacity = await multiplesOfCapacity(report, server, options);
    await tryingAgain(report, server, capacity, options);
  } finally {
    await server.stop();
  }
  await fairness(report, options);
}

let nextText = 0;

async function send(url, spec = mix[nextText % mix.length], headers = {}) {
  const { route, kind, body } = spec;
  return { kind, result: await post(url, route, body(nextText++), { kind, headers }) };
}

const isServed = ({ result: { end } }) => end === 'answer' || end === 'complete';
const isRefused = ({ result: { end } }) => end === 'refused';

const cpuSeconds = (server) =>
  processFacts(server.pid).cpuSeconds + (server.hostPid() ? processFacts(server.hostPid()).cpuSeconds : 0);

/** Served requests per second from the first arrival to the last end, so that what waited at the end counts with its time. */
async function goodputOf(server, load) {
  const begun = performance.now();
  const cpu = cpuSeconds(server);
  const all = await load();
  const seconds = (Math.max(...all.map(({ result }) => result.endedAt)) - begun) / 1000;
  const served = all.filter(isServed);
  return { all, served, perSecond: served.length / seconds, cores: (cpuSeconds(server) - cpu) / seconds };
}

/** With as many callers as there are slots and half as many again, so that no slot waits for a caller. */
const capacityOf = (server, seconds) =>
  goodputOf(server, () => closedLoop({ callers: numSlots * 1.5, seconds }, () => send(server.url)));

async function multiplesOfCapacity(report, server, { seconds, seed, goodputShare }) {
  report.section(`Open-loop load, ${seconds} s at each multiple of the capacity (seed ${seed})`);
  const measureSeconds = Math.max(5, seconds / 3);
  // compiles, fills caches
  await capacityOf(server, 4);
  const memory = () => ({
    api: processFacts(server.pid).residentBytes,
    engine: processFacts(server.hostPid()).residentBytes,
  });
  let before = await capacityOf(server, measureSeconds);
  const first = before.perSecond;
  const start = memory();
  report.figure('capacity, closed loop', `${first.toFixed(2)} requests/s with ${before.cores.toFixed(2)} of a core`);
  let most = start;
  for (const multiple of multiples) {
    const capacity = before.perSecond;
    const load = await goodputOf(server, () =>
      openLoop({ perSecond: capacity * multiple, seconds, seed: seed + multiple }, () => send(server.url)),
    );
    await server.idle(60_000);
    const now = memory();
    most = { api: Math.max(most.api, now.api), engine: Math.max(most.engine, now.engine) };
    // the machine may be slower or faster by now: the peak is what is measured before and after
    const after = await capacityOf(server, measureSeconds);
    await server.idle(60_000);
    tell(report, { multiple, load, offered: load.all.length / seconds, before, after, goodputShare });
    before = after;
  }
  report.figure(
    'resident memory',
    `server ${mebibytes(start.api)} before, ${mebibytes(most.api)} at most after a multiple; engine ${mebibytes(start.engine)}, ${mebibytes(most.engine)}`,
  );
  report.check(
    'memory is bounded: the server grew by less than 96 MiB, the engine by less than 10 %',
    most.api - start.api < 96 * 2 ** 20 && most.engine < 1.1 * start.engine,
  );
  return before.perSecond;
}

function tell(report, { multiple, load, offered, before, after, goodputShare }) {
  const { all, served, perSecond, cores } = load;
  const peak = (before.perSecond + after.perSecond) / 2;
  // at the capacity itself there may be less to do than could be done
  const share = perSecond / Math.min(peak, offered);
  const perCpu = perSecond / cores / (peak / ((before.cores + after.cores) / 2));
  const name = `${multiple}x`;
  report.figure(
    name,
    `${offered.toFixed(1)} requests/s came, ${perSecond.toFixed(2)}/s were served of a peak of ${peak.toFixed(2)}/s (${percent(share)}; by time of the processor ${percent(perCpu)})`,
  );
  report.check(
    `${name}: goodput is at least ${percent(goodputShare)} of the peak`,
    share >= goodputShare,
    percent(share),
  );
  const refused = all.filter(isRefused);
  const others = all.filter((each) => !isServed(each) && !isRefused(each));
  const statuses = refused.map(({ result }) => result.status);
  const refusalMs = refused.map(({ result }) => result.endedAt - result.startedAt);
  const retryMs = refused.map(({ result }) => Number(result.headers['retry-after-ms']));
  report.figure(
    `${name}, refused`,
    `${refused.length} of ${all.length} (429: ${statuses.filter((each) => each === 429).length}, 503: ${statuses.filter((each) => each === 503).length})${
      refused.length === 0
        ? ''
        : `, after p50 ${milliseconds(percentile(refusalMs, 0.5))}, p99 ${milliseconds(percentile(refusalMs, 0.99))}, max ${milliseconds(Math.max(...refusalMs))}; to come back after p50 ${milliseconds(percentile(retryMs, 0.5))}, max ${milliseconds(Math.max(...retryMs))}`
    }`,
  );
  if (refused.length > 0) {
    report.check(
      `${name}: 99 % of them within ${refusedWithinMs} ms`,
      percentile(refusalMs, 0.99) < refusedWithinMs,
      milliseconds(percentile(refusalMs, 0.99)),
    );
    const isHonest = ({ result: { status, headers } }) =>
      (status === 429 || status === 503) && Number(headers['retry-after']) >= 1 && headers['x-should-retry'] === 'true';
    report.check(`${name}: each with retry-after and x-should-retry`, refused.every(isHonest));
  }
  report.check(
    `${name}: nothing ended in another way`,
    others.length === 0,
    JSON.stringify(others.map(({ result }) => [result.route, result.end, result.error?.code]).slice(0, 5)),
  );
  const firstMs = served
    .filter(({ kind, result }) => kind !== 'json' && result.firstTokenAt !== undefined)
    .map(({ result }) => result.firstTokenAt - result.startedAt);
  // who is let in waits for at most half of a queue and full slots, which leave at the rate of the peak; twice that, as rates waver
  const boundMs = ((2 * (maxOwnQueued + numSlots)) / peak) * 1000;
  report.figure(
    `${name}, time to first token`,
    `p50 ${milliseconds(percentile(firstMs, 0.5))}, p99 ${milliseconds(percentile(firstMs, 0.99))}`,
  );
  report.check(
    `${name}: p99 of it is below 2 x (half the queue + slots) / peak = ${milliseconds(boundMs)}`,
    percentile(firstMs, 0.99) < boundMs,
  );
  const stray = all.filter(({ kind, result }) => !isRefused({ result }) && !endedOnce(result, kind));
  report.check(`${name}: each accepted request ended once`, stray.length === 0, `${stray.length} did not`);
}

const percent = (share) => `${(share * 100).toFixed(0)} %`;

/** The `openai` package as it is installed, at twice the capacity: it tries twice again, after the time it was told. */
async function tryingAgain(report, server, capacity, { seconds, seed, goodputShare }) {
  report.section('Clients that try again: the openai package with its own settings, at 2x');
  const attempts = [];
  const one = async (n) => {
    const own = [];
    const client = new OpenAI({
      baseURL: `${server.url}/v1`,
      apiKey: 'none',
      fetch: async (input, init) => {
        const attempt = { at: performance.now() };
        own.push(attempt);
        attempts.push(attempt);
        const answer = await fetch(input, init);
        attempt.status = answer.status;
        attempt.endedAt = performance.now();
        attempt.retryAfterMs = Number(answer.headers.get('retry-after-ms'));
        return answer;
      },
    });
    const { route, body } = mix[n % 2 === 0 ? 0 : 2];
    const call = route.includes('chat') ? client.chat.completions : client.completions;
    const isDone = await call.create(body(nextText++)).then(
      () => true,
      () => false,
    );
    return { isDone, own, endedAt: performance.now() };
  };
  const only = [mix[0], mix[2]];
  const measure = async () => {
    const measureSeconds = Math.max(5, seconds / 3);
    const call = (n) => send(server.url, only[n % 2]);
    return (await goodputOf(server, () => closedLoop({ callers: numSlots * 1.5, seconds: measureSeconds }, call)))
      .perSecond;
  };
  const before = await measure();
  await server.idle(60_000);
  const begun = performance.now();
  const logical = await openLoop({ perSecond: 2 * before, seconds, seed: seed + 100 }, one);
  const lastMs = Math.max(...logical.map(({ endedAt }) => endedAt)) - begun - seconds * 1000;
  const isIdle = await server.idle(30_000);
  const done = logical.filter(({ isDone }) => isDone);
  const perLogical = attempts.length / logical.length;
  const afterwards = await measure();
  const peak = (before + afterwards) / 2;
  report.figure(
    'capacity for this mix',
    `${before.toFixed(2)} requests/s before, ${afterwards.toFixed(2)} after (of all kinds: ${capacity.toFixed(2)})`,
  );
  report.figure(
    'requests',
    `${logical.length}, answered ${done.length} (${percent(done.length / logical.length)}), given up ${logical.length - done.length}`,
  );
  report.figure('attempts for each', perLogical.toFixed(2));
  report.figure('the last one ended after the last arrival by', milliseconds(lastMs));
  const gaps = logical.flatMap(({ own }) =>
    own.slice(1).map((attempt, index) => ({ gap: attempt.at - own[index].endedAt, told: own[index].retryAfterMs })),
  );
  const told = gaps.map((gap) => gap.told);
  report.figure(
    'told to come back after',
    told.length === 0
      ? 'nobody was'
      : `p50 ${milliseconds(percentile(told, 0.5))}, max ${milliseconds(Math.max(...told))}`,
  );
  report.check(
    'they came back when they were told',
    gaps.every(({ gap, told }) => gap >= told - 50),
  );
  const inTime = done.filter(({ endedAt }) => endedAt <= begun + seconds * 1000).length / seconds;
  report.figure('answered per second meanwhile', `${inTime.toFixed(2)} (${percent(inTime / peak)} of the capacity)`);
  report.check(`that is at least ${percent(goodputShare)} of it`, inTime / peak >= goodputShare);
  report.check('a minute after the last arrival all have ended', lastMs < 65_000, milliseconds(lastMs));
  report.check('afterwards nothing runs or waits', isIdle);
  const after = await send(server.url, mix[0]);
  report.check('and a request is served at once', isServed(after), after.result.end);
}

/** A key that asks now and then beside one that has sent all it has. */
async function fairness(report, { seconds, seed }) {
  report.section('A small key beside a large one');
  const folder = scratchFolder();
  const file = path.join(folder, 'keys');
  writeFileSync(
    file,
    'key-of-the-class infer,metrics class\nkey-of-the-archive infer archive\nkey-of-the-crowd infer crowd\n',
  );
  const server = await startServer({
    args: [
      ...['--database', path.join(folder, 'runs.db'), '--api-keys-file', file],
      ...['--num-slots', String(numSlots), '--max-queued-sequences', '128'],
    ],
  });
  const as = (key) => ({ authorization: `Bearer ${key}` });
  const small = { ...mix[0], body: (n) => ({ ...mix[0].body(n), max_tokens: 4 }) };
  // one after another, with a pause: its owner never has two
  const ask = async () => {
    const waits = [];
    const endsAt = performance.now() + (seconds / 2) * 1000;
    while (performance.now() < endsAt) {
      const { result } = await send(server.url, small, as('key-of-the-class'));
      waits.push(result.firstTokenAt === undefined ? Number.NaN : result.firstTokenAt - result.startedAt);
      await sleep(200);
    }
    return waits;
  };
  const show = (waits) =>
    `p50 ${milliseconds(percentile(waits, 0.5))}, max ${milliseconds(Math.max(...waits))} of ${waits.length}`;
  try {
    await send(server.url, small, as('key-of-the-class'));
    const alone = await ask();
    report.figure('first token for the small key, alone', show(alone));

    const solves = [];
    const runs = Math.round(10 + seconds);
    for (let n = 0; n < runs; n += 1) {
      const body = {
        problem: `${lesson} ${words(n + seed, 10)}`,
        background: true,
        max_rounds: 20,
        accept: { rule: 'consecutive', k: 20 },
        generator: { max_tokens: 48 },
        verifier: { max_tokens: 24 },
      };
      solves.push(post(server.url, '/solve', body, { kind: 'json', headers: as('key-of-the-archive') }));
    }
    const accepted = (await Promise.all(solves)).filter(({ status }) => status === 202);
    const besideBatch = await ask();
    report.figure(`beside ${accepted.length} runs in the background of another key`, show(besideBatch));
    for (const { json } of accepted)
      await fetch(`${server.url}/solve/${json.id}`, { method: 'DELETE', headers: as('key-of-the-archive') });

    let isOver = false;
    let served = 0;
    let peakOfOthers = 0;
    const crowd = Array.from({ length: 60 }, async () => {
      while (!isOver) {
        const each = await send(server.url, mix[0], as('key-of-the-crowd'));
        if (isServed(each)) {
          served += 1;
          peakOfOthers = Math.max(peakOfOthers, each.result.firstTokenAt - each.result.startedAt);
        } else await sleep(Number(each.result.headers?.['retry-after-ms'] ?? 500));
      }
    });
    await sleep(2000);
    const besideCrowd = await ask();
    isOver = true;
    await Promise.all(crowd);
    report.figure('beside 60 requests of another key at any time', show(besideCrowd));
    report.figure(
      'the other key meanwhile',
      `${served} requests served, first token after up to ${milliseconds(peakOfOthers)}`,
    );
    report.check(
      'every request of the small key was served',
      [...alone, ...besideBatch, ...besideCrowd].every((wait) => wait > 0),
    );
    report.check(
      'beside the crowd it waits for less than a third of the time that the crowd waits for itself',
      percentile(besideCrowd, 0.5) < peakOfOthers / 3,
    );
    report.check('the crowd is served as well', served > 0);
  } finally {
    await server.stop();
  }
}
