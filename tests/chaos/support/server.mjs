// The built server as its users start it, seen from outside: its processes, its metrics, its health, its log.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import getPort from 'get-port';
import { sleep, until } from './report.mjs';

const root = fileURLToPath(new URL('../../..', import.meta.url));
export const stvCommand = path.join(root, 'dist/cli/main.js');

/** Weights are fetched and converted once a machine. */
const sharedData = process.env.STV_TEST_DATA_DIR ?? path.join(homedir(), '.cache/stv-ci/data');

/** A folder of this campaign alone; removed when the process ends. */
export function scratchFolder() {
  const folder = mkdtempSync(path.join(tmpdir(), 'stv-chaos-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Processes that are still there end with the campaign, whatever ends it. */
const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

/** What `/proc` tells of one process. */
export function processFacts(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return {
    residentBytes: Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) * 1024,
    numThreads: Number(/^Threads:\s+(\d+)/m.exec(status)?.[1]),
    state: stat[0],
    /** User and system, seconds. */
    cpuSeconds: (Number(stat[11]) + Number(stat[12])) / 100,
  };
}

/** Open files and sockets of one process, by kind. */
export function openHandles(pid) {
  const kinds = {};
  for (const name of readdirSync(`/proc/${pid}/fd`)) {
    let target = 'gone';
    try {
      target = readlinkSync(`/proc/${pid}/fd/${name}`);
    } catch {
      continue; // the one that read the folder
    }
    const kind = target.startsWith('/') ? 'file' : target.replace(/:.*/, '');
    kinds[kind] = (kinds[kind] ?? 0) + 1;
  }
  return { total: Object.values(kinds).reduce((sum, count) => sum + count, 0), kinds };
}

/** Of a size at which the engine has something to do: the bundled pack answers before anybody can break into it. */
const smollm2 = ['--pack', 'smollm2'];

export class Server {
  constructor({ port, pack = smollm2, args, env, command }) {
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.pack = pack;
    this.args = args;
    this.env = env;
    this.command = command;
    this.stderr = '';
  }

  /** Starts the process; resolves at once. */
  spawn() {
    const serve = [stvCommand, 'serve', ...this.pack, '--port', String(this.port), ...this.args];
    const [program, ...before] = [...this.command, process.execPath];
    this.child = spawn(program, [...before, ...serve], {
      cwd: root,
      env: { ...process.env, STV_DATA_DIR: sharedData, ...this.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    running.add(this.child);
    this.spawnedAt = performance.now();
    this.exited = once(this.child, 'exit').then(([code, signal]) => {
      running.delete(this.child);
      return { code, signal, at: performance.now() };
    });
    this.child.stdout.resume();
    this.child.stderr.on('data', (bytes) => {
      this.stderr = (this.stderr + bytes).slice(-200_000);
    });
    return this;
  }

  get pid() {
    return this.child.pid;
  }

  get hasEnded() {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  /** Process id of the engine host, undefined while there is none. */
  hostPid() {
    try {
      for (const task of readdirSync(`/proc/${this.pid}/task`)) {
        const children = readFileSync(`/proc/${this.pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean);
        for (const child of children) {
          if (readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('engine/host.js')) return Number(child);
        }
      }
    } catch {
      // it ended while it was looked at
    }
    return undefined;
  }

  /** Milliseconds until `/health/ready` answered 200; throws when the server ends or the limit passes. */
  async ready(limitMs = 240_000) {
    const begun = performance.now();
    const isReady = await until(limitMs, async () => {
      if (this.hasEnded) throw new Error(`The server ended before it was ready:\n${this.stderr.slice(-4000)}`);
      return (await this.probe('/health/ready')).status === 200;
    });
    if (!isReady) throw new Error(`The server was not ready within ${limitMs} ms:\n${this.stderr.slice(-4000)}`);
    return performance.now() - begun;
  }

  /** Status and JSON of a GET; status 0 where nobody answers. */
  async probe(route) {
    try {
      const answer = await fetch(this.url + route, { signal: AbortSignal.timeout(5000) });
      return { status: answer.status, body: await answer.json() };
    } catch {
      return { status: 0, body: undefined };
    }
  }

  async metrics() {
    return parseMetrics(await (await fetch(`${this.url}/metrics`)).text());
  }

  /** No sequence runs or waits and no slot is in use; false where that does not come in time. */
  async idle(limitMs = 30_000) {
    const found = await until(
      limitMs,
      async () => {
        const metrics = await this.metrics().catch(() => undefined);
        if (metrics === undefined) return false;
        const busy = metrics.sum('stv_sequences_running') + metrics.sum('stv_sequences_waiting');
        return busy === 0 && metrics.sum('stv_queued_tokens') === 0;
      },
      50,
    );
    return found === true;
  }

  signal(name) {
    this.child.kill(name);
  }

  async stop(limitMs = 60_000) {
    if (this.hasEnded) return this.exited;
    this.signal('SIGTERM');
    const ended = await Promise.race([this.exited, sleep(limitMs)]);
    if (ended === undefined) this.signal('SIGKILL');
    return this.exited;
  }
}

/** @param {{pack?: string[], args?: string[], env?: Record<string, string>, command?: string[]}} options `command` goes before `node` */
export async function createServerProcess({ pack, args = [], env = {}, command = [] } = {}) {
  if (!existsSync(stvCommand)) throw new Error('dist/ is missing: npm run build comes first.');
  return new Server({ port: await getPort({ host: '127.0.0.1' }), pack, args, env, command });
}

export async function startServer(options) {
  const server = (await createServerProcess(options)).spawn();
  await server.ready();
  return server;
}

/** Prometheus text as series; `sum` adds up those whose labels hold all that is asked for. */
export function parseMetrics(text) {
  const series = [];
  for (const line of text.split('\n')) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (found === null) continue;
    const labels = Object.fromEntries(
      [...(found[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((pair) => [pair[1], pair[2]]),
    );
    series.push({ name: found[1], labels, value: Number(found[3]) });
  }
  const select = (name, labels = {}) =>
    series.filter(
      (each) => each.name === name && Object.entries(labels).every(([label, value]) => each.labels[label] === value),
    );
  return {
    select,
    sum: (name, labels) => select(name, labels).reduce((total, { value }) => total + value, 0),
  };
}
