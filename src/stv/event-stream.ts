/**
 * Turns work that reports through a callback into an async generator, and owns the work's lifetime: leaving the iteration
 * aborts it and waits for its end, so nothing runs on behind the consumer's back.
 */
import { setMaxListeners } from 'node:events';

export interface LinkedAbort {
  readonly signal: AbortSignal;
  abort(reason?: unknown): void;
  /** Lets go of the parent. */
  dispose(): void;
}

/** A signal that follows `parent` and can be aborted on its own. */
export function linkAbort(parent: AbortSignal | undefined): LinkedAbort {
  const controller = new AbortController();
  // a run's chains, votes and engine calls all listen
  setMaxListeners(0, controller.signal);
  const follow = (): void => controller.abort(parent?.reason);
  if (parent?.aborted === true) follow();
  else parent?.addEventListener('abort', follow, { once: true });
  return {
    signal: controller.signal,
    abort: (reason) => controller.abort(reason),
    dispose: () => parent?.removeEventListener('abort', follow),
  };
}

/** Resolves when the consumer has room again; what is emitted is taken in order either way. */
export type Emit<E> = (event: E) => Promise<void>;

/** Events that may wait for the consumer before `emit` makes its caller wait. */
const CAPACITY = 256;

/** What `produce` throws is thrown to the consumer after the events emitted before. */
export async function* eventStream<E>(
  produce: (emit: Emit<E>, signal: AbortSignal) => Promise<unknown>,
  parent?: AbortSignal,
): AsyncGenerator<E> {
  const queue: E[] = [];
  let wakeConsumer: (() => void) | undefined;
  let roomWaiters: (() => void)[] = [];
  let isAbandoned = false;
  let outcome: { readonly thrown: unknown } | 'running' | 'done' = 'running';

  const emit: Emit<E> = async (event) => {
    if (isAbandoned) return;
    queue.push(event);
    wakeConsumer?.();
    if (queue.length >= CAPACITY) await new Promise<void>((resolve) => roomWaiters.push(resolve));
  };
  const makeRoom = (): void => {
    const waiters = roomWaiters;
    roomWaiters = [];
    for (const resolve of waiters) resolve();
  };

  const abort = linkAbort(parent);
  const work = produce(emit, abort.signal).then(
    () => {
      outcome = 'done';
      wakeConsumer?.();
    },
    (thrown: unknown) => {
      outcome = { thrown };
      wakeConsumer?.();
    },
  );
  const ended = (): typeof outcome => outcome;
  try {
    for (;;) {
      while (queue.length > 0) {
        const event = queue.shift() as E; // not empty
        if (queue.length < CAPACITY) makeRoom();
        yield event;
      }
      const end = ended();
      if (end === 'running') {
        await new Promise<void>((resolve) => {
          wakeConsumer = resolve;
        });
        wakeConsumer = undefined;
      } else if (end === 'done') return;
      else throw end.thrown;
    }
  } finally {
    isAbandoned = true;
    makeRoom();
    abort.abort();
    await work;
    abort.dispose();
  }
}
