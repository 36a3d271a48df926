/** The commands of README.md as they stand: `npm start` on the default port, then the requests to try. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { dataDir, repository } from '../support/start-server.ts';

const readme = readFileSync(path.join(repository, 'README.md'), 'utf8');
let server: ChildProcess;

function commands(name: string): string {
  return execFileSync(process.execPath, ['scripts/readme-commands.mjs', name], { cwd: repository, encoding: 'utf8' });
}

beforeAll(async () => {
  expect(readme).toContain('```sh\nnpm start\n```');
  // a process group, because npm starts the server as its child
  server = spawn('npm', ['start'], {
    cwd: repository,
    env: { ...process.env, STV_DATA_DIR: dataDir },
    stdio: 'ignore',
    detached: true,
  });
  const end = Date.now() + 240_000;
  for (;;) {
    const ready = await fetch('http://127.0.0.1:8000/health/ready').then(
      (answer) => answer.ok,
      () => false,
    );
    if (ready) return;
    if (server.exitCode !== null || Date.now() > end) throw new Error('`npm start` did not become ready.');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
});

afterAll(async () => {
  process.kill(-(server.pid as number), 'SIGTERM');
  if (server.exitCode === null) await once(server, 'exit');
});

it('answers the requests that the README shows', () => {
  const output = execFileSync('bash', ['-euo', 'pipefail', '-c', commands('try')], { encoding: 'utf8' });
  expect(output).toContain('"object":"verification"');
  expect(output).toMatch(/^event: solve-end$/m);
  expect(output).toContain('"object":"chat.completion"');
  expect(output).not.toContain('"error":{');
});

it('names only files that exist', () => {
  for (const [, link] of readme.matchAll(/\]\(((?!http)[^)]+)\)/g)) {
    expect(() => readFileSync(path.join(repository, link as string)), link).not.toThrow();
  }
});
