// Full disks, read-only folders, many stored runs. Needs mounts of its own, so only root runs all of it.
import { spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import Sqlite from 'libsql';
import { post } from '../support/client.mjs';
import { milliseconds } from '../support/report.mjs';
import { createServerProcess, scratchFolder, startServer } from '../support/server.mjs';

export const summary = 'full disks, read-only folders, thousands of stored runs';
export const defaults = { times: 5000 };
export const short = { times: 2000 };

const solve = { problem: 'What is 1 + 1?', max_rounds: 0, generator: { max_tokens: 4 }, verifier: { max_tokens: 4 } };
const completion = { model: 'generator', prompt: 'One', max_tokens: 2 };

export async function run(report, { times }) {
  await manyRuns(report, times);
  const folder = scratchFolder();
  const mounts = [];
  const mount = (name, ...args) => {
    const target = path.join(folder, name);
    mkdirSync(target);
    const isMounted = spawnSync('mount', [...args, target], { stdio: 'ignore' }).status === 0;
    if (isMounted) mounts.push(target);
    return isMounted ? target : undefined;
  };
  try {
    const small = mount('small', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs');
    if (small === undefined) {
      report.skip('full disks and read-only folders', 'mounting is not allowed here');
      return;
    }
    await fullStore(report, small);
    await fullLog(report, mount('log', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs'));
    await readOnly(report, mount('read-only', '-t', 'tmpfs', '-o', 'size=1m,ro', 'tmpfs'));
    await fullCache(report, mount('cache', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs'));
  } finally {
    for (const target of mounts.reverse()) spawnSync('umount', ['-l', target]);
  }
}

/** Leaves no byte. */
function fill(folder) {
  const file = path.join(folder, 'filler');
  const handle = openSync(file, 'w');
  for (const size of [65_536, 4096, 1]) {
    try {
      for (;;) writeSync(handle, Buffer.alloc(size));
    } catch {
      // full for this size
    }
  }
  // an open file keeps its bytes, even when it has been removed
  closeSync(handle);
  return file;
}

async function fullStore(report, folder) {
  report.section('The disk of the store is full');
  const server = await startServer({ args: ['--database', path.join(folder, 'runs.db')] });
  try {
    const before = await post(server.url, '/solve', { ...solve, store: true }, { kind: 'json' });
    report.check('a run is stored before', before.end === 'answer', JSON.stringify(before.error));
    const filler = fill(folder);
    let refused;
    // the log of the database may have room for a few more
    for (let n = 0; n < 20 && refused?.error?.code !== 'storage_full'; n += 1) {
      refused = await post(
        server.url,
        '/solve',
        { ...solve, store: true, problem: 'x'.repeat(50_000) },
        { kind: 'json' },
      );
    }
    report.check(
      'a run that is to be stored is refused with storage_full',
      refused.status === 503 && refused.error?.code === 'storage_full',
      JSON.stringify(refused.error ?? refused.end),
    );
    const other = await post(server.url, '/solve', solve, { kind: 'json' });
    report.check('a run that is not stored is served', other.end === 'answer', JSON.stringify(other.error));
    const ready = await server.probe('/health/ready');
    report.check(
      'ready says that runs cannot be stored',
      ready.status === 200 && /stored/.test(ready.body?.reason ?? ''),
      JSON.stringify(ready.body),
    );
    const read = await server.probe(`/solve/${before.json.id}`);
    report.check(
      'what is stored can be read',
      read.status === 200 && read.body.status === before.json.status,
      String(read.status),
    );
    rmSync(filler);
    const after = await post(server.url, '/solve', { ...solve, store: true }, { kind: 'json' });
    report.check('with room again runs are stored again', after.end === 'answer', JSON.stringify(after.error));
    const healthy = await server.probe('/health/ready');
    report.check(
      'and ready says so',
      healthy.status === 200 && healthy.body?.reason === null,
      JSON.stringify(healthy.body),
    );
  } finally {
    await server.stop();
  }
}

async function fullLog(report, folder) {
  report.section('The disk of the log is full');
  const log = path.join(folder, 'stderr.log');
  writeFileSync(log, '');
  fill(folder);
  const command = ['sh', '-c', 'exec "$@" 2>>"$0"', log];
  const server = await startServer({
    args: ['--database', path.join(scratchFolder(), 'runs.db'), '--log-level', 'debug'],
    command,
  });
  try {
    const ends = [];
    for (let n = 0; n < 5; n += 1) ends.push(await post(server.url, '/v1/completions', completion));
    report.check(
      'requests are served without a log',
      ends.every(({ end }) => end === 'complete'),
      JSON.stringify(ends.map(({ end }) => end)),
    );
  } finally {
    report.check('exit code 0', (await server.stop()).code === 0);
  }
}

/** The server must end by itself, with a message that names what cannot be written. */
async function refusesToStart(report, what, options, expected) {
  const server = await createServerProcess(options);
  server.spawn();
  const { code } = await server.exited;
  const said = server.stderr.trim().split('\n').at(-1) ?? '';
  report.check(
    `${what}: the server ends and says why`,
    code !== 0 && expected.test(server.stderr),
    `code ${code}: ${said.slice(0, 300)}`,
  );
}

async function readOnly(report, folder) {
  report.section('Read-only folders');
  await refusesToStart(report, 'a read-only store', { args: ['--database', path.join(folder, 'runs.db')] }, /runs\.db/);
  await refusesToStart(
    report,
    'a read-only data folder',
    { args: ['--database', path.join(scratchFolder(), 'runs.db')], env: { STV_DATA_DIR: folder } },
    /read-only|EROFS/,
  );
}

async function fullCache(report, folder) {
  report.section('The disk of the cache is full');
  fill(folder);
  await refusesToStart(
    report,
    'no room for weights',
    { args: ['--database', path.join(scratchFolder(), 'runs.db')], env: { STV_DATA_DIR: folder } },
    /no space|disk is full|ENOSPC|room/i,
  );
}

async function manyRuns(report, count) {
  report.section(`${count} stored runs`);
  const file = path.join(scratchFolder(), 'runs.db');
  const server = await startServer({ args: ['--database', file] });
  try {
    const { json } = await post(server.url, '/solve', { ...solve, store: true }, { kind: 'json' });
    await server.stop();
    const db = new Sqlite(file);
    const [run] = db.prepare('select * from runs where id = ?').all(json.id);
    const events = db.prepare('select * from events where run_id = ?').all(json.id);
    const insert = (table, row) =>
      db
        .prepare(`insert into ${table} (${Object.keys(row)}) values (${Object.keys(row).map(() => '?')})`)
        .run(...Object.values(row));
    db.exec('begin');
    for (let n = 0; n < count; n += 1) {
      const id = `slv_copy${String(n).padStart(20, '0')}`;
      // older than the limit of age, so that the sweep erases them all
      insert('runs', { ...run, id, created: run.created - n, ended: n % 2 === 0 ? 1000 + n : run.ended });
      for (const event of events) insert('events', { ...event, run_id: id });
    }
    db.prepare("update counters set value = (select sum(bytes) from runs) where name = 'ended_bytes'").run();
    db.exec('commit');
    db.close();
    server.spawn();
    await server.ready();
    const times = [];
    for (let page = 0; page < 20; page += 1) {
      const begun = performance.now();
      const { status, body } = await server.probe('/solve?limit=50');
      times.push(performance.now() - begun);
      if (status !== 200 || body.data.length !== 50) report.check('a page of 50 runs', false, String(status));
    }
    const listMs = times.sort((a, b) => a - b)[times.length >> 1];
    report.figure('GET /solve?limit=50', `${milliseconds(listMs)} (median of 20)`);
    report.check('a list takes less than 250 ms', listMs < 250);
    const check = new Sqlite(file);
    const left = () => check.prepare('select count(*) as count from runs').all()[0].count;
    const expected = Math.floor(count / 2) + 1;
    const begun = performance.now();
    let live = 0;
    while (left() > expected && performance.now() - begun < 60_000) {
      const asked = performance.now();
      await server.probe('/health/live');
      live = Math.max(live, performance.now() - asked);
    }
    report.figure(`sweep of ${count - expected + 1} runs (after the start)`, milliseconds(performance.now() - begun));
    report.figure('longest wait for /health/live meanwhile', milliseconds(live));
    report.check('the sweep erased what was too old', left() === expected, `${left()} left, expected ${expected}`);
    check.close();
  } finally {
    await server.stop();
  }
}
