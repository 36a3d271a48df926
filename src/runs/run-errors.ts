/** What readers and callers of a run are told when it is not, or no longer, theirs to have. */
import { StvError } from '../errors.ts';

export function unknownRun(): StvError {
  return new StvError('not_found', 'There is no such run; one that was not stored is forgotten when it ends.');
}

export function takenOver(): StvError {
  return new StvError('engine_crashed', 'Another server has taken this run over; ask for its events again.');
}

export function alreadyEnded(): StvError {
  return new StvError('conflict', 'The run has already ended.');
}

export function keyReused(): StvError {
  return new StvError('idempotency_key_reused', 'This Idempotency-Key came with another body before.');
}
