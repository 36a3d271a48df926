/** A real vLLM on the CPU with one model of the bundled pack, on loopback: a remote that takes and gives token ids. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import getPort from 'get-port';
import { repository } from './start-server.ts';
import { untilHealthy } from './until-healthy.ts';

/** Path of the program; `scripts/install-vllm.sh FOLDER` installs it. */
export const vllm: string | undefined = process.env['STV_VLLM'];

export interface VllmServer {
  /** Without a path. */
  readonly url: string;
  /** SIGKILL to it and the processes it started. */
  kill(): Promise<void>;
  /** Sequences that it works on now. */
  numRunning(): Promise<number>;
}

export async function startVllm(program: string, role: 'generator' | 'verifier'): Promise<VllmServer> {
  const port = await getPort({ host: '127.0.0.1' });
  const url = `http://127.0.0.1:${port}`;
  const model = path.join(repository, 'packs/stv-mini', role);
  const args = ['serve', model, '--host', '127.0.0.1', '--port', `${port}`, '--served-model-name', `mini-${role}`];
  const child: ChildProcess = spawn(
    program,
    [...args, '--dtype', 'float32', '--enforce-eager', '--max-num-seqs', '8'],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // a process group: vLLM's engine is a process of its own
      env: {
        ...process.env,
        PATH: `${path.dirname(program)}:${process.env['PATH']}`,
        VLLM_CPU_KVCACHE_SPACE: '1',
        VLLM_CPU_OMP_THREADS_BIND: 'nobind',
        OMP_NUM_THREADS: '1',
        HF_HUB_OFFLINE: '1',
        VLLM_NO_USAGE_STATS: '1',
      },
    },
  );
  const kill = async (): Promise<void> => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    process.kill(-child.pid, 'SIGKILL');
    await exit;
  };
  try {
    await untilHealthy(child, url, 280_000);
  } catch (error) {
    await kill();
    throw error;
  }
  return {
    url,
    kill,
    async numRunning() {
      const metrics = await (await fetch(`${url}/metrics`)).text();
      return Number(/^vllm:num_requests_running\{[^}]*\} (\S+)$/m.exec(metrics)?.[1] ?? Number.NaN);
    },
  };
}
