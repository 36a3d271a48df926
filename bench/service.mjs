// What a client and an operator see of our server: latency, the step outside ONNX Runtime, lag of the API's event loop with
// many open streams, memory. Figures of one server process pair, read from its own metrics and from /proc.
import { readFileSync } from 'node:fs';
import { complete, firstTokenMs, gapsOf, median, percentile, text } from './load.mjs';
import { childrenOf, startStv } from './servers.mjs';

/** Value of one series of Prometheus text, 0 if absent. Labels as they stand in the text, in order. */
function sample(metrics, name, labels) {
  const pattern = new RegExp(`^${name}\\{[^}]*${labels}[^}]*\\} (\\S+)$`, 'm');
  return Number(pattern.exec(metrics)?.[1] ?? 0);
}

const scrape = async (url) => (await fetch(`${url}/metrics`)).text();

function residentMiB(pid) {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024;
}

/** The API process and the engine host it started. */
function memory(pid) {
  return { api: residentMiB(pid), host: childrenOf(pid).reduce((sum, child) => sum + residentMiB(child), 0) };
}

/** Share of the steps' time that was spent outside ONNX Runtime between two scrapes. */
function outsideShare(before, after) {
  const spent = (part) =>
    sample(after, 'stv_step_duration_seconds_sum', `part="${part}"`) -
    sample(before, 'stv_step_duration_seconds_sum', `part="${part}"`);
  return spent('outside') / (spent('outside') + spent('forward'));
}

/** @param {{stvArgs: string[], log: (line: string) => void}} options */
export async function benchService({ stvArgs, log }) {
  const starts = [];
  for (let run = 0; run < 3; run++) {
    const begun = performance.now();
    const started = await startStv(stvArgs);
    starts.push(performance.now() - begun);
    await started.stop();
  }
  log(`start with prepared weights until ready: ${(median(starts) / 1000).toFixed(2)} s (median of ${starts.length})`);
  const server = await startStv(stvArgs);
  let seed = 10_000;
  try {
    const rest = memory(server.pid);
    await complete(server.url, text(seed++, 60), { maxTokens: 8 });

    const single = [];
    for (let run = 0; run < 5; run++) single.push(await complete(server.url, text(seed++, 80), { maxTokens: 64 }));
    const firstToken = single.map(firstTokenMs);
    const perToken = single.map((run) => (run.times.at(-1) - run.times[0]) / (run.times.length - 1));
    log(
      `one request: time to first token ${median(firstToken).toFixed(0)} ms, per output token ${median(perToken).toFixed(1)} ms`,
    );

    const before = await scrape(server.url);
    await Promise.all(Array.from({ length: 8 }, () => complete(server.url, text(seed++, 80), { maxTokens: 128 })));
    const after = await scrape(server.url);
    const outside = outsideShare(before, after);
    log(`8 requests: ${(outside * 100).toFixed(1)} % of the step outside ONNX Runtime`);

    await scrape(server.url); // begins a new window of the lag
    const cpu = process.cpuUsage();
    const started = performance.now();
    const many = await Promise.all(
      Array.from({ length: 64 }, () => complete(server.url, text(seed++, 30), { maxTokens: 64 })),
    );
    const elapsed = performance.now() - started;
    const used = process.cpuUsage(cpu);
    const loaded = memory(server.pid);
    const lag = sample(await scrape(server.url), 'stv_event_loop_lag_seconds', 'quantile="0.99"') * 1000;
    const gaps = gapsOf(many);
    log(`64 open streams: p99 event-loop lag of the API process ${lag.toFixed(1)} ms`);
    log(
      `  time to first token p50 ${median(many.map(firstTokenMs)).toFixed(0)} ms, between tokens p50 ${median(gaps).toFixed(1)} / p99 ${percentile(gaps, 0.99).toFixed(1)} ms`,
    );
    log(
      `  the load generator itself took ${(((used.user + used.system) / 1000 / elapsed) * 100).toFixed(0)} % of a core`,
    );
    log(
      `memory (API + engine host): at rest ${rest.api.toFixed(0)} + ${rest.host.toFixed(0)} MiB, under load ${loaded.api.toFixed(0)} + ${loaded.host.toFixed(0)} MiB`,
    );
    return { firstToken, perToken, outside, lag };
  } finally {
    await server.stop();
  }
}
