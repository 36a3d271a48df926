/**
 * The beginning of a stream. The loop announces what it begins before the engine has taken the first call; what only announces is
 * held back for a moment, so that whoever is refused then gets the status of the refusal, as with the JSON form.
 */
import type { RefineEvent } from '../stv/refine.ts';
import type { SolveEvent } from '../stv/solve-events.ts';
import type { VerifyEvent } from '../stv/verify.ts';
import { errorOf, isEmptyFailure, solveAnswerOf } from './solve-wire.ts';

/** A refusal comes at once; whoever waits in the queue for longer is shown the beginning. */
const holdMs = 1000;

const announcements: ReadonlySet<SolveEvent['type']> = new Set([
  'solve-start',
  'round-start',
  'attempt-start',
  // an attempt that came with the request
  'attempt-end',
  'verification-start',
  // of a round that was refused
  'round-end',
]);

/** The same events. Throws the error of a run that fails with nothing found before any of them was passed on. */
export function refusable(events: AsyncIterable<SolveEvent>): AsyncGenerator<SolveEvent> {
  return holdBack(events, (event) => {
    if (event.type === 'solve-end') {
      const answer = solveAnswerOf(event);
      if (answer.error !== null && isEmptyFailure(answer)) throw errorOf(answer.error);
    }
    return announcements.has(event.type);
  });
}

/** The same events of a verification or refinement, whose failure is thrown by themselves. */
export function refusableCall<E extends VerifyEvent | RefineEvent>(events: AsyncIterable<E>): AsyncGenerator<E> {
  return holdBack(events, ({ type }) => type === 'verification-start' || type === 'refinement-start');
}

/** @param isAnnouncement whether the event may be held back; may throw in its place */
async function* holdBack<E>(events: AsyncIterable<E>, isAnnouncement: (event: E) => boolean): AsyncGenerator<E> {
  const iterator = events[Symbol.asyncIterator]();
  let timer: NodeJS.Timeout | undefined;
  const isLate = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), holdMs);
  });
  const held: E[] = [];
  const step = (): Promise<IteratorResult<E>> => {
    const next = iterator.next();
    // the one that is under way when the reader leaves is awaited by nobody
    next.catch(() => {});
    return next;
  };
  try {
    let next = step();
    for (;;) {
      const result = await Promise.race([next, isLate]);
      if (result === 'late' || result.done === true) break;
      const isHeld = isAnnouncement(result.value);
      held.push(result.value);
      next = step();
      if (!isHeld) break;
    }
    yield* held;
    for (let result = await next; result.done !== true; result = await step()) yield result.value;
  } finally {
    clearTimeout(timer);
    await iterator.return?.();
  }
}
