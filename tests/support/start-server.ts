/** Starts the built server as a user does, on a free loopback port, and stops it by process id. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const repository = fileURLToPath(new URL('../..', import.meta.url));
const main = path.join(repository, 'dist/cli/main.js');

/** Shared between test files, so that weights are fetched and converted once a machine. */
export const dataDir: string = process.env['STV_TEST_DATA_DIR'] ?? path.join(homedir(), '.cache/stv-ci/data');

export interface RunningServer {
  readonly url: string;
  readonly child: ChildProcess;
  readonly pid: number;
  /** Milliseconds from spawn until `/health/ready` answered 200. */
  readonly readyMs: number;
  /** Everything printed so far. */
  output(): { stdout: string; stderr: string };
  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>;
}

export interface StartOptions {
  /** What to serve; default: SmolLM2-135M, a real chat model. Empty: what the server takes by itself. */
  readonly pack?: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Wait for `/health/ready`. Default true. */
  readonly ready?: boolean;
  /** Own data folder instead of the shared one. */
  readonly dataDir?: string;
  readonly timeoutMs?: number;
}

export function freshFolder(): string {
  return mkdtempSync(path.join(tmpdir(), 'stv-e2e-'));
}

async function waitFor<T>(attempt: () => Promise<T | undefined>, child: ChildProcess, timeoutMs: number): Promise<T> {
  const end = Date.now() + timeoutMs;
  while (Date.now() < end) {
    if (child.exitCode !== null) throw new Error(`The server ended with exit code ${child.exitCode}.`);
    const value = await attempt();
    if (value !== undefined) return value;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`The server was not up within ${timeoutMs} ms.`);
}

export async function startServer(options: StartOptions = {}): Promise<RunningServer> {
  if (!existsSync(main)) throw new Error('dist/ is missing: run `npm run build` before the e2e tests.');
  const started = performance.now();
  const pack = options.pack ?? 'smollm2';
  const args = ['serve', '--port', '0', ...(pack ? ['--pack', pack] : []), ...(options.args ?? [])];
  const child = spawn(process.execPath, [main, ...args], {
    cwd: repository,
    env: { ...process.env, STV_DATA_DIR: options.dataDir ?? dataDir, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (bytes) => {
    stdout += bytes;
  });
  child.stderr.on('data', (bytes) => {
    stderr += bytes;
  });
  const timeoutMs = options.timeoutMs ?? 240_000;
  try {
    const url = await waitFor(async () => /^.*(http:\/\/\S+?)[/.,]?(?:\s|$)/m.exec(stdout)?.[1], child, timeoutMs);
    if (options.ready ?? true) {
      await waitFor(
        () =>
          fetch(`${url}/health/ready`).then(
            (answer) => (answer.ok ? true : undefined),
            () => undefined,
          ),
        child,
        timeoutMs,
      );
    }
    return {
      url,
      child,
      pid: child.pid as number,
      readyMs: performance.now() - started,
      output: () => ({ stdout, stderr }),
      async stop() {
        if (child.exitCode === null && child.signalCode === null) {
          child.kill('SIGTERM');
          await once(child, 'exit');
        }
        return child.exitCode;
      },
    };
  } catch (error) {
    child.kill('SIGKILL');
    throw new Error(`${(error as Error).message}\n--- stdout\n${stdout}\n--- stderr\n${stderr}`);
  }
}
