import type { ChildProcess } from 'node:child_process';

const PAUSE_MS = 100;
const KEPT_CHARACTERS = 4_000;

/**
 * Resolves when `GET url/health` of a child that was just spawned says yes. Throws with the end of what it printed when it ended
 * before, or was not ready in time; then it is still running.
 */
export async function untilHealthy(child: ChildProcess, url: string, timeoutMs: number): Promise<void> {
  let printed = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (bytes) => {
      printed = (printed + bytes).slice(-KEPT_CHARACTERS);
    });
  }
  for (const end = Date.now() + timeoutMs; Date.now() < end; ) {
    const ended = child.exitCode ?? child.signalCode;
    if (ended !== null) throw new Error(`${child.spawnfile} ended with ${ended}:\n${printed}`);
    const isHealthy = await fetch(`${url}/health`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (isHealthy) return;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  throw new Error(`${child.spawnfile} was not ready within ${timeoutMs / 1000} s:\n${printed}`);
}
