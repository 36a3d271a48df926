// Where the processor time goes while so many streams decode: node bench/cpu-time.mjs STREAMS [flags of stv serve]
// One line for each thread of this client, of the API process and of the engine host, as Linux counts it (/proc), in milliseconds a second.
import { readdirSync, readFileSync } from 'node:fs';
import { decodeRate, text } from './load.mjs';
import { childrenOf, startStv } from './servers.mjs';

const TICK_MS = 10; // USER_HZ is 100 on every Linux that Node runs on
const TOKENS = 200;
/** Threads that did less are not listed. */
const LEAST_MS_PER_SECOND = 2;

/** @returns Map of `process thread` to milliseconds of processor time so far */
function times(processes) {
  const found = new Map();
  for (const [name, pid] of processes) {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      // fields behind the name in brackets, which may hold spaces: utime and stime are the 12th and 13th of them
      const fields = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ');
      found.set(`${name} ${thread}`, (Number(fields[11]) + Number(fields[12])) * TICK_MS);
    }
  }
  return found;
}

const [streams = '8', ...flags] = process.argv.slice(2);
const server = await startStv(flags);
try {
  const processes = [
    ['client', process.pid],
    ['api', server.pid],
    ...childrenOf(server.pid).map((pid) => ['engine', pid]),
  ];
  await decodeRate(server.url, [text(1, 60)], 16);
  const before = times(processes);
  const started = performance.now();
  const prompts = Array.from({ length: Number(streams) }, (_, index) => text(2 + index, 80));
  const { tokensPerSecond } = await decodeRate(server.url, prompts, TOKENS);
  const seconds = (performance.now() - started) / 1000;
  console.log(`${streams} streams: ${tokensPerSecond.toFixed(0)} tokens/s; processor time, ms a second:`);
  for (const [thread, ms] of times(processes)) {
    const perSecond = (ms - (before.get(thread) ?? 0)) / seconds;
    if (perSecond >= LEAST_MS_PER_SECOND) console.log(`  ${thread.padEnd(20)}${perSecond.toFixed(0).padStart(5)}`);
  }
} finally {
  await server.stop();
}
