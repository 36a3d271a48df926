/** Which of two attempts a run would rather return. Pure. */
import type { AttemptRef } from './solve-events.ts';

export interface RankedAttempt extends AttemptRef {
  readonly accepted: boolean;
  /** Null for an attempt that has not been verified. */
  readonly score: number | null;
}

/** Negative when `a` is better: accepted first, then the higher score (none is lowest), the later round, the lower chain. */
export function compareAttempts(a: RankedAttempt, b: RankedAttempt): number {
  return (
    Number(b.accepted) - Number(a.accepted) ||
    (b.score ?? -1) - (a.score ?? -1) ||
    b.round - a.round ||
    a.chain - b.chain
  );
}

/** Negative when `a` is the later one; between chains at the same round, the better. */
export function compareLast(a: RankedAttempt, b: RankedAttempt): number {
  return b.round - a.round || compareAttempts(a, b);
}
