// kill -9 of the whole server while stored runs go on: the store stays whole, every run ends, no event is lost or doubled.
import path from 'node:path';
import Sqlite from 'libsql';
import { MixedLoad } from '../support/mixed-load.mjs';
import { milliseconds, percentile, randomOf, sleep, until } from '../support/report.mjs';
import { createServerProcess, scratchFolder } from '../support/server.mjs';
import { StoredRuns } from '../support/stored-runs.mjs';

export const summary = 'kill -9 of the whole server while stored runs go on';
export const defaults = { times: 50 };
export const short = { times: 3 };

export async function run(report, { times, seed, seconds = Number.POSITIVE_INFINITY }) {
  report.section(`Whole server killed ${times} times (seed ${seed})`);
  const random = randomOf(seed);
  const endsAt = performance.now() + seconds * 1000;
  const database = path.join(scratchFolder(), 'runs.db');
  const server = await createServerProcess({ args: ['--database', database] });
  server.spawn();
  await server.ready();
  const load = new MixedLoad(server.url, { clients: 2, seed, keep: () => false });
  const runs = new StoredRuns(server.url, seed);
  const keeping = runs.keepGoing(4);
  const readyMs = [];
  let orphans = 0;
  let broken = 0;
  let numKills = 0;
  try {
    while (numKills < times && performance.now() < endsAt) {
      await sleep(random() * 6000);
      const host = server.hostPid();
      server.signal('SIGKILL');
      await server.exited;
      numKills += 1;
      if (integrityOf(database) !== 'ok') broken += 1;
      // the engine process must not outlive its parent
      if (host !== undefined && !(await until(5000, () => !isAlive(host)))) orphans += 1;
      server.spawn();
      readyMs.push(await server.ready(60_000));
    }
    await load.stop();
    const begun = performance.now();
    const ended = await runs.finish(180_000);
    await keeping;
    report.figure('kills', numKills);
    report.figure(
      'ready after a restart',
      `p50 ${milliseconds(percentile(readyMs, 0.5))}, max ${milliseconds(Math.max(...readyMs))}`,
    );
    report.figure('last run ended after the last restart', milliseconds(performance.now() - begun));
    report.check('PRAGMA integrity_check says ok after each kill', broken === 0, `${broken} times not`);
    report.check('no engine process outlived its server by 5 s', orphans === 0, `${orphans} did`);
    report.check('every run that was accepted ended', ended, `${runs.numOpen} did not`);
    await runs.check(report, 'none of their events was lost or came twice');
    report.check(
      'no run was begun twice',
      countRuns(database) === runs.seen.size,
      `${countRuns(database)} for ${runs.seen.size}`,
    );
    report.check('nothing runs or waits afterwards', await server.idle());
  } finally {
    await server.stop();
  }
}

function integrityOf(file) {
  const db = new Sqlite(file);
  const [row] = db.prepare('PRAGMA integrity_check').all();
  db.close();
  return row.integrity_check;
}

function countRuns(file) {
  const db = new Sqlite(file);
  const [row] = db.prepare('select count(*) as count from runs').all();
  db.close();
  return row.count;
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
