/**
 * The beginning of a run's stream. The loop announces its first round before the engine has taken the first call; what only
 * announces is held back for a moment, so that a run which is refused then gets the status of its refusal, as the JSON form does.
 */
import type { SolveEvent } from '../stv/solve-events.ts';
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
export async function* refusable(events: AsyncIterable<SolveEvent>): AsyncGenerator<SolveEvent> {
  const iterator = events[Symbol.asyncIterator]();
  let timer: NodeJS.Timeout | undefined;
  const isLate = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), holdMs);
  });
  const held: SolveEvent[] = [];
  const step = (): Promise<IteratorResult<SolveEvent>> => {
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
      const event = result.value;
      if (event.type === 'solve-end') {
        const answer = solveAnswerOf(event);
        if (answer.error !== null && isEmptyFailure(answer)) throw errorOf(answer.error);
      }
      held.push(event);
      next = step();
      if (!announcements.has(event.type)) break;
    }
    yield* held;
    for (let result = await next; result.done !== true; result = await step()) yield result.value;
  } finally {
    clearTimeout(timer);
    await iterator.return?.();
  }
}
