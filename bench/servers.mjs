// Starts the servers that are compared, each in its own process on a free loopback port, and stops them by process id.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import getPort from 'get-port';

export const root = fileURLToPath(new URL('..', import.meta.url));

/** Process ids of a process's children, as Linux tells them. */
export function childrenOf(pid) {
  return readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
  );
}

async function untilReady(url, child, deadlineMs) {
  const end = Date.now() + deadlineMs;
  while (Date.now() < end) {
    const ended = child.exitCode ?? child.signalCode;
    if (ended !== null) throw new Error(`${child.spawnfile} ended with ${ended} before it was ready`);
    const ready = await fetch(url).then(
      (answer) => answer.ok,
      () => false,
    );
    if (ready) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`${url} was not ready within ${deadlineMs} ms`);
}

async function start(command, args, { port, readyPath, env = {} }) {
  const output = [];
  const child = spawn(command, args, { cwd: root, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (bytes) => {
      output.push(bytes);
      if (output.length > 200) output.shift();
    });
  }
  const url = `http://127.0.0.1:${port}`;
  try {
    await untilReady(url + readyPath, child, 600_000);
  } catch (error) {
    child.kill('SIGKILL');
    process.stderr.write(Buffer.concat(output).subarray(-4000));
    throw error;
  }
  return {
    url,
    pid: child.pid,
    async stop() {
      child.kill('SIGTERM');
      if (child.exitCode === null) await once(child, 'exit');
    },
  };
}

/** Our server as a user starts it, with SmolLM2-135M where no other pack or checkpoint is named. `args` are flags of `stv serve`. */
export async function startStv(args = [], pack = 'smollm2') {
  const port = await getPort({ host: '127.0.0.1' });
  const serve = ['serve', '--pack', pack, '--port', `${port}`, ...args];
  return start(process.execPath, [path.join(root, 'dist/cli/main.js'), ...serve], {
    port,
    readyPath: '/health/ready',
  });
}

/** llama-server with `parallel` slots of `context` tokens each and as many threads as the machine has cores. */
export async function startLlama(binary, gguf, { parallel, context, threads }) {
  const port = await getPort({ host: '127.0.0.1' });
  const args = [
    '-m',
    gguf,
    '--host',
    '127.0.0.1',
    '--port',
    `${port}`,
    '-np',
    `${parallel}`,
    '-c',
    `${parallel * context}`,
  ];
  return start(binary, [...args, '-t', `${threads}`, '-tb', `${threads}`, '--no-webui'], {
    port,
    readyPath: '/health',
  });
}
