// The clock of the wall jumps while stored runs are live: by an hour ahead and back, by a day, and home again.
import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { post, words } from '../support/client.mjs';
import { milliseconds, sleep, until } from '../support/report.mjs';
import { scratchFolder, startServer } from '../support/server.mjs';
import { StoredRuns } from '../support/stored-runs.mjs';

export const summary = 'jumps of the wall clock while stored runs are live';
/** `seconds` between two jumps; a lease lapses in 15. */
export const defaults = { seconds: 25 };
export const short = { seconds: 4 };

/** Seconds ahead of the true time, one after another. */
const offsets = [3600, -3600, 86_400, 0];
const servedWithinMs = 30_000;

/** The library that lies to a process about the time, from Debian's package `faketime`. */
function fakeTimeLibrary() {
  return readdirSync('/usr/lib')
    .map((folder) => `/usr/lib/${folder}/faketime/libfaketimeMT.so.1`)
    .find((file) => existsSync(file));
}

export async function run(report, { seconds, seed }) {
  report.section(`Jumps of the clock, every ${seconds} s (seed ${seed})`);
  const library = fakeTimeLibrary();
  if (library === undefined) {
    report.skip('jumps of the clock', 'the package faketime is not installed');
    return;
  }
  const folder = scratchFolder();
  const file = path.join(folder, 'time');
  const jump = (offset) => {
    // a file that is read half written would be another jump
    writeFileSync(`${file}.new`, `${offset < 0 ? '' : '+'}${offset}\n`);
    renameSync(`${file}.new`, file);
  };
  jump(0);
  const server = await startServer({
    args: ['--database', path.join(folder, 'runs.db')],
    env: {
      LD_PRELOAD: library,
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_NO_CACHE: '1',
      // a jump of the wall clock is none of the monotonic one, by which timers run
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    },
  });
  const runs = new StoredRuns(server.url, seed);
  try {
    const keeping = runs.keepGoing(3);
    await until(30_000, () => runs.seen.size >= 3);
    let n = 0;
    for (const offset of offsets) {
      const live = runs.numOpen;
      const begun = runs.seen.size;
      jump(offset);
      const endsAt = performance.now() + seconds * 1000;
      const name = `${offset < 0 ? '' : '+'}${offset} s`;
      const answers = [];
      do {
        const health = await Promise.all(['ready', 'progress'].map((route) => server.probe(`/health/${route}`)));
        const served = await post(
          server.url,
          '/v1/completions',
          { model: 'generator', prompt: words(n++, 8), max_tokens: 4, stream: false, stream_options: undefined },
          { kind: 'openai' },
        );
        answers.push({ health, served });
        await sleep(300);
      } while (performance.now() < endsAt);
      const slowest = Math.max(...answers.map(({ served }) => served.endedAt - served.startedAt));
      report.figure(
        name,
        `${live} runs live at the jump, ${answers.length} requests answered, the slowest after ${milliseconds(slowest)}, ${runs.seen.size - begun} runs begun`,
      );
      const ahead = answers.at(-1).served.json?.created - Date.now() / 1000;
      report.check(`${name}: the server's clock did jump`, Math.abs(ahead - offset) < 60, `${ahead} s ahead`);
      report.check(
        `${name}: every request was answered within ${servedWithinMs} ms`,
        answers.every(({ served }) => served.end === 'answer') && slowest < servedWithinMs,
        JSON.stringify(answers.map(({ served }) => served.error ?? served.end).find((end) => end !== 'answer')),
      );
      report.check(
        `${name}: ready and progress said ok`,
        answers.every(({ health }) => health.every(({ status }) => status === 200)),
        JSON.stringify(answers.flatMap(({ health }) => health).find(({ status }) => status !== 200)),
      );
    }
    report.check('every run ended', await runs.finish(120_000), `${runs.numOpen} did not`);
    await keeping;
    await runs.check(report, 'with every event once');
    report.check('nothing runs or waits afterwards', await server.idle());
  } finally {
    await server.stop();
  }
}
