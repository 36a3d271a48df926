/** The verification-refinement loop as a stream of events. */
import type { SolveState } from './fold.ts';
import type { LoopCallOptions, LoopDeps } from './loop-deps.ts';
import type { SolveEvent, SolveRequest } from './solve-events.ts';

export interface SolveOptions extends LoopCallOptions {
  /** Fold of the events that an interrupted run has already sent: it goes on after its finished rounds. */
  readonly resume?: SolveState | undefined;
}

/**
 * Runs the loop. Before `solve-start` a failure is thrown as StvError (unknown model); after it the last event is always one
 * `solve-end`, whatever happens. Aborting the signal ends with status `cancelled` (stop reason `shutdown` if the signal's
 * reason is an StvError `draining`); leaving the iteration early cancels as well.
 */
export async function* solve(
  _request: SolveRequest,
  _deps: LoopDeps,
  _options: SolveOptions = {},
): AsyncGenerator<SolveEvent> {
  throw new Error('coming');
}
