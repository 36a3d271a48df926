/** Starts client programs as their users do and reads what they print. Nothing is skipped where a client is missing. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const cache = process.env['STV_CI_CACHE'] ?? path.join(homedir(), '.cache/stv-ci');

export const clientsFolder: string = fileURLToPath(new URL('.', import.meta.url));

/** A program of one of the Python environments. */
export function pythonProgram(environment: 'clients' | 'litellm', name: string): string {
  return installed(path.join(cache, `${environment}-venv/bin/${name}`));
}

/** A script of the folder `programs`. */
export function clientScript(name: string): string {
  installed(path.join(clientsFolder, 'node_modules/ai/package.json'));
  return path.join(clientsFolder, 'programs', name);
}

/** The command line that runs a script in another runtime than this one, without leave for anything but what the script needs. */
export function runtimeCommand(runtime: 'deno' | 'bun', script: string): readonly [string, ...string[]] {
  const modules = path.join(clientsFolder, 'node_modules');
  const { platform, arch } = process;
  if (runtime === 'bun') {
    const cpu = arch === 'arm64' ? 'aarch64' : arch;
    return [installed(path.join(modules, `@oven/bun-${platform}-${cpu}/bin/bun`)), script];
  }
  const system = platform === 'linux' ? `linux-${arch}-glibc` : `${platform}-${arch}`;
  const deno = installed(path.join(modules, `@deno/${system}/deno`));
  return [deno, 'run', '--no-prompt', '--allow-net=127.0.0.1', '--allow-env=STV_URL', script];
}

function installed(file: string): string {
  if (!existsSync(file)) throw new Error(`${file} is missing: run scripts/install-clients.sh before this suite.`);
  return file;
}

/** Runs to the end and gives stdout. Throws with everything printed when the program fails. */
export function runToEnd(command: string, args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (bytes) => {
      stdout += bytes;
    });
    child.stderr.on('data', (bytes) => {
      stderr += bytes;
    });
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(stdout);
      else
        reject(
          new Error(`${path.basename(command)} ended with ${code}.\n--- stdout\n${stdout}\n--- stderr\n${stderr}`),
        );
    });
  });
}

/** The last line that a program printed, which is one JSON object. */
export async function readReport(command: string, args: readonly string[], url: string): Promise<Report> {
  const stdout = await runToEnd(command, args, { STV_URL: url });
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Report;
}

/** What a program reports is as loose as the client it uses; the tests say what must be in it. */
export type Report = Record<string, any>;
