/** The record of each finished round as a trainer reads it, taken from the fold of the run's events. Pure. */
import { foldSolve, type SolveState } from './fold.ts';
import type { RunLabel } from './run-store.ts';
import type { AttemptRef, Models, RoundRecord, SolveEvent } from './solve-events.ts';

/** What wrote a round. */
export interface TraceVersions {
  readonly server: string;
  /** Of the pack whose prompts, verdict words and calibration held. */
  readonly pack: string;
}

export interface TraceRecord extends AttemptRef, Omit<RoundRecord, 'round' | 'models'> {
  /** Grows in the order in which rounds were stored; ordered as text too. */
  readonly traceId: string;
  readonly solveId: string;
  /** Unix seconds at the end of the round. */
  readonly created: number;
  readonly problem: string;
  /** The state that the attempt was made from; null in round 0. */
  readonly previousAttempt: string | null;
  readonly previousFeedback: string | null;
  readonly models: Models;
  readonly metadata: Readonly<Record<string, string>> | null;
  /** At the time the round was written; null for one that is older than this field. */
  readonly versions: TraceVersions | null;
  /** Only where it was asked for. */
  readonly label?: RunLabel | undefined;
}

/** A trace before the store gives it its place. */
export type NewTrace = Omit<TraceRecord, 'traceId' | 'label'>;

/** Traces of the rounds that `events` finish, in their order; `state` is the fold of all events before them. */
export function tracesOf(
  state: SolveState | undefined,
  events: readonly SolveEvent[],
  versions: TraceVersions | null,
): NewTrace[] {
  if (!events.some((event) => event.type === 'round-end' && event.finished)) return [];
  const traces: NewTrace[] = [];
  let current = state;
  for (const event of events) {
    current = foldSolve(current, event);
    if (event.type !== 'round-end' || !event.finished) continue;
    const rounds = current.answer.chains[event.chain]?.rounds;
    const record = rounds?.[event.round];
    if (record === undefined) continue;
    const previous = rounds?.[event.round - 1];
    const { start } = current;
    traces.push({
      ...record,
      solveId: event.solveId,
      chain: event.chain,
      created: start.created + Math.floor(event.elapsedMs / 1000),
      problem: start.problem,
      previousAttempt: previous?.attempt ?? null,
      previousFeedback: previous?.feedback ?? null,
      models: record.models ?? start.models,
      metadata: start.metadata,
      versions,
    });
  }
  return traces;
}
