/** How the supervisor holds an engine host: a forked process in earnest, a loop in place in tests. */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { FromHost, ToHost } from './messages.ts';

export interface HostEvents {
  onMessage(message: FromHost): void;
  /** Once, when the host is gone for whatever reason. @param detail for the log: exit code or signal */
  onExit(detail: string): void;
}

export interface HostLink {
  /** Process id, where there is one. */
  readonly pid: number | undefined;
  send(message: ToHost): void;
  /** At once, without asking it. */
  kill(): void;
}

export type SpawnHost = (events: HostEvents) => HostLink;

export interface ForkHostOptions {
  /** Another entry than the built `host.js` beside this file. */
  readonly entry?: string;
  /** Limit of the host's JavaScript heap; weights and caches lie outside of it. */
  readonly maxHeapMiB?: number;
}

/** Forks `host.js` (or `host.ts` where Node runs TypeScript). Its output goes to our stderr: stdout belongs to the caller. */
export function forkHost({ entry, maxHeapMiB }: ForkHostOptions = {}): SpawnHost {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const path = entry ?? fileURLToPath(new URL(`./host.${extension}`, import.meta.url));
  return (events) => {
    const child = fork(path, {
      serialization: 'advanced',
      stdio: ['ignore', 2, 2, 'ipc'],
      execArgv: maxHeapMiB === undefined ? [] : [`--max-old-space-size=${maxHeapMiB}`],
    });
    let isGone = false;
    const gone = (detail: string): void => {
      if (isGone) return;
      isGone = true;
      events.onExit(detail);
    };
    child.on('message', (message) => events.onMessage(message as FromHost));
    child.on('error', (error) => gone(error.message));
    child.on('exit', (code, signal) => gone(signal === null ? `exit code ${code}` : `signal ${signal}`));
    return {
      pid: child.pid,
      send: (message) => {
        // a host that has just died is reported by its exit, not by the failed write
        if (child.connected) child.send(message, () => undefined);
      },
      kill: () => {
        child.kill('SIGKILL');
      },
    };
  };
}
