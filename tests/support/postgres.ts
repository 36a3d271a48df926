/** A PostgreSQL server of its own for a test file: in a temporary folder, on a socket there, stopped by its process id. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

export interface PostgresServer {
  /** A new, empty database; the connection string of it. */
  database(name: string): string;
  stop(): Promise<void>;
}

const root = '/usr/lib/postgresql';
/** PostgreSQL refuses to run as root; `nobody` is on every Linux machine. */
const nobody = 65_534;

/** Folder of the newest installed version's programs. */
export function findPostgres(): string | undefined {
  if (process.platform === 'win32' || !existsSync(root)) return undefined;
  const versions = readdirSync(root).sort((a, b) => Number(b) - Number(a));
  return versions.map((version) => path.join(root, version, 'bin')).find((bin) => existsSync(path.join(bin, 'initdb')));
}

export async function startPostgres(bin: string): Promise<PostgresServer> {
  const folder = mkdtempSync(path.join(tmpdir(), 'stv-postgres-'));
  const isRoot = process.getuid?.() === 0;
  if (isRoot) chownSync(folder, nobody, nobody);
  const options = { cwd: folder, ...(isRoot ? { uid: nobody, gid: nobody } : {}) };
  const run = (program: string, ...args: readonly string[]): void => {
    const { status, stderr, error } = spawnSync(path.join(bin, program), args, { ...options, encoding: 'utf8' });
    if (status !== 0) throw new Error(`${program} failed: ${error?.message ?? stderr}`);
  };
  const data = path.join(folder, 'data');
  run('initdb', '-D', data, '-U', 'stv', '-A', 'trust', '-E', 'UTF8', '--no-locale', '--no-sync');
  const child: ChildProcess = spawn(
    path.join(bin, 'postgres'),
    ['-D', data, '-k', folder, '-c', 'listen_addresses=', '-c', 'fsync=off', '-c', 'max_connections=60'],
    { ...options, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let log = '';
  child.stderr?.on('data', (bytes) => {
    log += bytes;
  });
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, 'exit');
      // fast shutdown: open connections are closed
      child.kill('SIGINT');
      await ended;
    }
    rmSync(folder, { recursive: true, force: true });
  };
  for (let tries = 0; !log.includes('ready to accept connections'); tries++) {
    if (child.exitCode !== null || tries > 300) {
      await stop();
      throw new Error(`PostgreSQL did not start:\n${log}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return {
    stop,
    database(name) {
      run('createdb', '-h', folder, '-U', 'stv', name);
      return `postgres://stv@localhost/${name}?host=${encodeURIComponent(folder)}`;
    },
  };
}
