// A step that does not come back: the engine process is stopped with SIGSTOP, which nothing on the network can do.
import path from 'node:path';
import { endedOnce, post } from '../support/client.mjs';
import { milliseconds, until } from '../support/report.mjs';
import { scratchFolder, startServer } from '../support/server.mjs';
import { StoredRuns } from '../support/stored-runs.mjs';

export const summary = 'an engine process that stops answering (SIGSTOP)';
export const defaults = { seconds: 5 };
export const short = { seconds: 2 };

/** `seconds`: the limit of silence, `--stall-seconds`. */
export async function run(report, { seconds, seed }) {
  report.section(`Engine process stopped, limit of silence ${seconds} s`);
  const database = path.join(scratchFolder(), 'runs.db');
  const server = await startServer({ args: ['--database', database, '--stall-seconds', String(seconds)] });
  const runs = new StoredRuns(server.url, seed);
  try {
    await runs.begin();
    const pid = server.hostPid();
    let stoppedAt;
    const body = { model: 'generator', max_tokens: 300, ignore_eos: true };
    const open = await Promise.all(
      [1, 2, 3].map((n) => {
        return new Promise((resolve) => {
          const ended = post(
            server.url,
            '/v1/completions',
            { ...body, prompt: `Story ${n}` },
            { onEvent: () => resolve({ ended }) },
          );
        });
      }),
    );
    process.kill(pid, 'SIGSTOP');
    stoppedAt = performance.now();
    const sick = await until(seconds * 1000 + 30_000, async () => {
      const { status, body: progress } = await server.probe('/health/progress');
      return status === 503 && { progress, afterMs: performance.now() - stoppedAt };
    });
    const results = await Promise.all(open.map(({ ended }) => ended));
    const toldMs = Math.max(...results.map(({ endedAt }) => endedAt - stoppedAt));
    const isBack = await until(30_000, async () => {
      const host = server.hostPid();
      return host !== undefined && host !== pid && (await server.probe('/health/ready')).status === 200;
    });
    const backMs = performance.now() - stoppedAt;
    report.figure(
      'progress turned 503 after',
      sick ? `${milliseconds(sick.afterMs)} (${sick.progress.status})` : 'never',
    );
    report.figure('requests were told after', milliseconds(toldMs));
    report.figure('ready again after', milliseconds(backMs));
    const slackMs = 2000;
    report.check(
      'progress turned unhealthy within the limit',
      sick !== undefined && sick.afterMs < seconds * 1000 + slackMs,
    );
    report.check(
      'every request ended with engine_crashed, once',
      results.every((result) => endedOnce(result, 'openai') && result.error?.code === 'engine_crashed'),
      JSON.stringify(results.map(({ end, error }) => [end, error?.code])),
    );
    report.check('within the limit', toldMs < seconds * 1000 + slackMs);
    report.check('the engine was started again', isBack === true);
    const after = await post(server.url, '/v1/completions', { ...body, prompt: 'After it', max_tokens: 4 });
    report.check('the next request is served', after.end === 'complete', after.end);
    report.check('the stored run went on and ended', await runs.finish(60_000));
    const { faults, statuses } = await runs.faults();
    report.check('with every event once', faults.length === 0, faults.join('; '));
    report.check(
      'and did not fail',
      Object.keys(statuses).every((status) => !status.startsWith('failed')),
      JSON.stringify(statuses),
    );
    const metrics = await server.metrics();
    // more than one where the machine itself leaves a process without a core for longer than the limit
    const counted = metrics.sum('stv_engine_host_events_total', { event: 'hung' });
    report.check('the metrics counted the hang', counted >= 1, String(counted));
  } finally {
    await server.stop();
  }
}
