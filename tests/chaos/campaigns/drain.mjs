// SIGTERM with open streams and stored runs, and a second signal.
import path from 'node:path';
import { endedOnce, post, words } from '../support/client.mjs';
import { milliseconds, sleep, until } from '../support/report.mjs';
import { Server, scratchFolder, startServer } from '../support/server.mjs';
import { StoredRuns } from '../support/stored-runs.mjs';

export const summary = 'SIGTERM with open streams and stored runs; a second signal';
export const defaults = {};
export const short = {};

const completion = (n, maxTokens) => ({
  model: 'generator',
  prompt: words(n, 12),
  max_tokens: maxTokens,
  ignore_eos: true,
});

/** So many completions that have begun to stream. */
function streaming(server, count, maxTokens) {
  return Promise.all(
    Array.from({ length: count }, (_, n) => {
      return new Promise((resolve) => {
        const ended = post(server.url, '/v1/completions', completion(n, maxTokens), {
          onEvent: () => resolve({ ended }),
        });
      });
    }),
  );
}

export async function run(report, options) {
  const database = path.join(scratchFolder(), 'runs.db');
  await graceful(report, database, options);
  await beyondGrace(report);
  await twice(report);
  await whileLoading(report);
}

async function graceful(report, database, { seed }) {
  report.section('SIGTERM: what runs may finish');
  const server = await startServer({ args: ['--database', database, '--drain-seconds', '60'] });
  const runs = new StoredRuns(server.url, seed);
  const ids = [await runs.begin(), await runs.begin()];
  const open = await streaming(server, 4, 24);
  const begun = performance.now();
  server.signal('SIGTERM');
  const notReady = await until(5000, async () => {
    const { status, body } = await server.probe('/health/ready');
    return status === 503 && { body, afterMs: performance.now() - begun };
  });
  const late = await post(server.url, '/v1/completions', completion(99, 4));
  const parked = await Promise.all(ids.map((id) => server.probe(`/solve/${id}`)));
  const results = await Promise.all(open.map(({ ended }) => ended));
  const { code, at } = await server.exited;
  const lastEnd = Math.max(...results.map(({ endedAt }) => endedAt));
  report.figure('ready turned 503 after', notReady ? milliseconds(notReady.afterMs) : 'never');
  report.figure('the process ended after', milliseconds(performance.now() - begun));
  report.check('ready answers 503 draining', notReady?.body.status === 'draining', JSON.stringify(notReady?.body));
  report.check(
    'a new request is refused with draining and a retry-after',
    late.status === 503 && late.error?.code === 'draining' && late.headers['retry-after'] !== undefined,
    JSON.stringify(late.error ?? late.end),
  );
  report.check(
    'what was streaming was finished',
    results.every((result) => result.end === 'complete' && endedOnce(result, 'openai')),
    JSON.stringify(results.map(({ end }) => end)),
  );
  report.check(
    'the stored runs were parked',
    parked.every(({ body }) => body?.status === 'parked'),
    JSON.stringify(parked.map(({ body }) => body?.status)),
  );
  report.check('readers of parked runs did not hold it up', at - lastEnd < 10_000, `${Math.round(at - lastEnd)} ms`);
  report.check('exit code 0', code === 0, String(code));
  // the next server goes on with them; the readers of before follow
  const next = new Server({ port: server.port, args: server.args, env: server.env, command: [] }).spawn();
  try {
    await next.ready();
    report.check('the next server ends the stored runs', await runs.finish(60_000));
    await runs.check(report, 'with every event once');
  } finally {
    await next.stop();
  }
}

async function beyondGrace(report) {
  report.section('SIGTERM: what does not finish in time');
  const server = await startServer({
    args: ['--database', path.join(scratchFolder(), 'runs.db'), '--drain-seconds', '1'],
  });
  const open = await streaming(server, 3, 1500);
  const begun = performance.now();
  server.signal('SIGTERM');
  const results = await Promise.all(open.map(({ ended }) => ended));
  const { code } = await server.exited;
  const tookMs = performance.now() - begun;
  report.figure('the process ended after', milliseconds(tookMs));
  report.check(
    'each stream ended with one error that says draining',
    results.every((result) => endedOnce(result, 'openai') && result.error?.code === 'draining'),
    JSON.stringify(results.map(({ end, error }) => [end, error?.code])),
  );
  report.check('exit code 0', code === 0, String(code));
  report.check('the grace period was kept', tookMs < 8000);
}

async function twice(report) {
  report.section('A second signal');
  const server = await startServer({
    args: ['--database', path.join(scratchFolder(), 'runs.db'), '--drain-seconds', '600'],
  });
  const host = server.hostPid();
  const open = await streaming(server, 2, 1500);
  server.signal('SIGTERM');
  await sleep(800); // sooner it would count as the same signal
  report.check('one signal waits', !server.hasEnded);
  const begun = performance.now();
  server.signal('SIGTERM');
  const { code } = await server.exited;
  const tookMs = performance.now() - begun;
  report.figure('the second ended it after', milliseconds(tookMs));
  report.check('two signals end it at once', tookMs < 1000);
  report.check('exit code 143', code === 143, String(code));
  await Promise.all(open.map(({ ended }) => ended));
  const isGone = await until(5000, () => {
    try {
      process.kill(host, 0);
      return false;
    } catch {
      return true;
    }
  });
  report.check('the engine process is gone as well', isGone === true);
}

async function whileLoading(report) {
  report.section('SIGTERM while the models load');
  const server = await startServer({ args: ['--database', path.join(scratchFolder(), 'runs.db')] });
  await server.stop();
  server.spawn();
  await until(10_000, async () => (await server.probe('/health/live')).status === 200, 5);
  server.signal('SIGTERM');
  const { code } = await server.exited;
  report.check('exit code 0', code === 0, String(code));
}
