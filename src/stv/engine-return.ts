/** What a run that must not be lost does while the engine is away: it waits, as long as there is hope for another engine. */
import type { Engine } from '../engine/engine.ts';
import { StvError } from '../errors.ts';
import { throwIfAborted } from './engine-call.ts';

/** Between two looks at the engine. */
const LOOK_MS = 100;

/** Whether the call was lost with the engine, or met one that is starting again. */
export function isEngineAway(error: unknown): boolean {
  return error instanceof StvError && (error.code === 'engine_crashed' || error.code === 'not_ready');
}

/** Resolves when the engine serves again. Throws the signal's reason on an abort, and `not_ready` where no engine will come. */
export async function engineBack(engine: Engine, signal: AbortSignal): Promise<void> {
  for (;;) {
    throwIfAborted(signal);
    const { state, reason } = engine.status();
    if (state === 'ready') return;
    if (state === 'closed') throw new StvError('not_ready', reason ?? 'The engine is closed.');
    await pause(LOOK_MS, signal);
  }
}

/** Resolves early on an abort. */
export async function pause(delayMs: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const wake = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', wake);
      resolve();
    };
    const timer = setTimeout(wake, delayMs);
    signal.addEventListener('abort', wake, { once: true });
  });
}
