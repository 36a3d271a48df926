/** The JSON answer of each route is a fold over its stream: pure and one event at a time. */
import { StvError } from '../errors.ts';
import type { RefineEvent, RefinementAnswer } from './refine.ts';
import type { SolveAnswer, SolveAnswerOf, SolveEvent } from './solve-events.ts';
import type { VerificationAnswer, VerifyEvent } from './verify.ts';

/** What is known of a run after some of its events. */
export interface SolveState {
  readonly lastEventId: number;
  /** The answer once the run has ended, else what `GET` shows of it: status `running`. */
  readonly answer: SolveAnswer | SolveAnswerOf<'running'>;
}

/** The state after `event`; `undefined` before the first event. Throws StvError `internal` on a stream that is none. */
export function foldSolve(_state: SolveState | undefined, _event: SolveEvent): SolveState {
  throw new StvError('internal', 'coming');
}

/** Reads a verification to its end. */
export async function foldVerify(events: AsyncIterable<VerifyEvent>): Promise<VerificationAnswer> {
  for await (const event of events) {
    if (event.type !== 'verification-end') continue;
    const { type: _, ...answer } = event;
    return answer;
  }
  throw new StvError('internal', 'The verification ended without an answer.');
}

/** Reads a refinement to its end. */
export async function foldRefine(events: AsyncIterable<RefineEvent>): Promise<RefinementAnswer> {
  for await (const event of events) {
    if (event.type !== 'refinement-end') continue;
    const { type: _, ...answer } = event;
    return answer;
  }
  throw new StvError('internal', 'The refinement ended without an answer.');
}
