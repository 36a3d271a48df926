// kill -9 of the engine process at random moments under load, also while it loads.
import path from 'node:path';
import { endedOnce, post } from '../support/client.mjs';
import { MixedLoad } from '../support/mixed-load.mjs';
import { milliseconds, percentile, randomOf, sleep, until } from '../support/report.mjs';
import { scratchFolder, startServer } from '../support/server.mjs';
import { StoredRuns } from '../support/stored-runs.mjs';

export const summary = 'kill -9 of the engine process at random moments under load';
export const defaults = { times: 200 };
export const short = { times: 4 };

/** Requests under way at a kill must be told within this. */
const toldWithinMs = 1000;
const readyWithinMs = 10_000;

/** `seconds`, where given, ends the killing early. */
export async function run(report, { times, seed, seconds = Number.POSITIVE_INFINITY }) {
  report.section(`Engine process killed ${times} times (seed ${seed})`);
  const endsAt = performance.now() + seconds * 1000;
  const random = randomOf(seed);
  const server = await startServer({ args: ['--database', path.join(scratchFolder(), 'runs.db')] });
  const load = new MixedLoad(server.url, { clients: 8, seed });
  const runs = new StoredRuns(server.url, seed);
  const keeping = runs.keepGoing(3);
  const phases = {};
  const tellMs = [];
  const readyMs = [];
  let stray = 0;
  let numKills = 0;
  let slow = 0;
  try {
    while (numKills < times && performance.now() < endsAt) {
      // one in five dies again while it loads
      const inLoading = numKills > 0 && random() < 0.2;
      if (!inLoading) {
        await server.ready(60_000);
        await sleep(150 + random() * 1500);
      }
      const pid = await until(15_000, () => server.hostPid(), 5);
      if (pid === undefined) throw new Error('There is no engine process to kill.');
      if (inLoading) await sleep(random() * 400);
      const open = load.open();
      const killedAt = performance.now();
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        continue; // it had just ended
      }
      numKills += 1;
      count(phases, inLoading ? 'loading' : 'serving');
      const ends = Promise.all(open.map(async ({ ended, spec, phase }) => ({ result: await ended, spec, phase })));
      const ready = await until(
        30_000,
        async () => {
          const host = server.hostPid();
          return host !== undefined && host !== pid && (await server.probe('/health/ready')).status === 200;
        },
        25,
      );
      readyMs.push(ready ? performance.now() - killedAt : Number.POSITIVE_INFINITY);
      for (const { result, spec, phase } of await ends) {
        if (result.startedAt > killedAt) continue;
        count(phases, phase);
        const tookMs = result.endedAt - killedAt;
        tellMs.push(tookMs);
        if (tookMs > toldWithinMs) slow += 1;
        if (!endedOnce(result, spec.kind)) stray += 1;
      }
    }
    await load.stop();
    await server.ready(60_000);
    const ended = await runs.finish(120_000);
    await keeping;
    report.figure('kills', numKills);
    report.figure('what they met', JSON.stringify(phases));
    report.figure('requests under way at a kill', tellMs.length);
    report.figure(
      'told after',
      `p50 ${milliseconds(percentile(tellMs, 0.5))}, p99 ${milliseconds(percentile(tellMs, 0.99))}, max ${milliseconds(Math.max(...tellMs))}`,
    );
    report.figure(
      'ready again after',
      `p50 ${milliseconds(percentile(readyMs, 0.5))}, max ${milliseconds(Math.max(...readyMs))} (pauses of the back-off included)`,
    );
    report.check(`every request under way ended within ${toldWithinMs} ms`, slow === 0, `${slow} did not`);
    report.check('each of them with exactly one terminal event', stray === 0, `${stray} did not`);
    const others = load.done.filter(({ spec, result }) => result.status === 200 && !endedOnce(result, spec.kind));
    report.check('so did every other request', others.length === 0, `${others.length} did not`);
    report.check(
      `the engine was ready again within ${readyWithinMs} ms each time`,
      Math.max(...readyMs) < readyWithinMs,
    );
    const outcomes = {};
    for (const { result } of load.done)
      count(
        outcomes,
        result.end === 'refused' || result.end === 'error' ? (result.error?.code ?? 'other') : result.end,
      );
    report.figure('requests in all', JSON.stringify(outcomes));
    report.check(
      'what failed says engine_crashed or not_ready',
      Object.keys(outcomes).every((name) =>
        ['answer', 'complete', 'engine_crashed', 'not_ready', 'request_quarantined'].includes(name),
      ),
      JSON.stringify(outcomes),
    );
    report.check('every stored run ended', ended === true);
    const { faults, statuses } = await runs.faults();
    report.figure('stored runs', JSON.stringify(statuses));
    report.check('none of their events was lost or came twice', faults.length === 0, faults.slice(0, 3).join('; '));
    report.check(
      'none of them failed but for the quarantine',
      Object.keys(statuses).every((status) => !status.startsWith('failed') || status === 'failed: request_quarantined'),
      JSON.stringify(statuses),
    );
    await noLeak(report, server, numKills);
    await quarantine(report, server);
  } finally {
    await server.stop();
  }
}

/** After all of it: nothing runs, nothing waits, no slot is held, and as many sequences fit as before. */
async function noLeak(report, server, numKills) {
  report.check('nothing runs or waits afterwards', await server.idle());
  const ends = await Promise.all(
    Array.from({ length: 16 }, (_, index) =>
      post(server.url, '/v1/completions', {
        model: 'generator',
        prompt: `Number ${index}`,
        max_tokens: 4,
        ignore_eos: true,
      }),
    ),
  );
  report.check(
    '16 sequences run afterwards',
    ends.every(({ end }) => end === 'complete'),
  );
  await server.idle();
  const metrics = await server.metrics();
  report.check('no slot is held', metrics.sum('stv_kv_cache_slots', { state: 'used' }) === 0);
  const counted = metrics.sum('stv_engine_host_events_total', { event: 'crashed' });
  report.check('the metrics counted every crash', counted === numKills, `${counted} of ${numKills}`);
}

/** The same request at work in two crashes is refused the third time, and nothing else is. */
async function quarantine(report, server) {
  const body = {
    model: 'generator',
    prompt: 'This request is at work whenever the engine dies.',
    max_tokens: 400,
    ignore_eos: true,
  };
  let last;
  // a kill between two steps of a request that runs alone has no culprit, so two may not be enough
  for (let time = 0; time < 6 && last?.error?.code !== 'request_quarantined'; time += 1) {
    await server.ready(60_000);
    let isKilled = false;
    last = await post(server.url, '/v1/completions', body, {
      onEvent: () => {
        if (!isKilled) kill(server);
        isKilled = true;
      },
    });
  }
  report.check(
    'a request that was at work in two crashes is refused with its own error',
    last.error?.code === 'request_quarantined',
    JSON.stringify(last.error ?? last.end),
  );
  await server.ready(60_000);
  const other = await post(server.url, '/v1/completions', { ...body, prompt: 'Another request.', max_tokens: 4 });
  report.check('another request is served', other.end === 'complete', other.end);
}

function kill(server) {
  const pid = server.hostPid();
  if (pid !== undefined) process.kill(pid, 'SIGKILL');
}

function count(counts, name) {
  counts[name] = (counts[name] ?? 0) + 1;
}
