/** A run as clients see it: answers, states and events of the loop in the words of the contract. */
import { StvError } from '../errors.ts';
import type { LiveRun } from '../runs/live-run.ts';
import type { SolveState } from '../stv/fold.ts';
import type { StoredRun } from '../stv/run-store.ts';
import type { SolveAnswer, SolveAnswerOf, SolveErrorRecord, SolveEvent } from '../stv/solve-events.ts';
import { noRoleUsage } from '../stv/usage.ts';
import { type ErrorBody, toWireError } from './error-handler.ts';
import type { Frame } from './sse.ts';
import { toWire } from './wire.ts';

/** The error of a failed run with the `type` that its code has in every other answer. */
export function wireErrorOf(record: SolveErrorRecord): ErrorBody['error'] {
  return toWireError(errorOf(record)).body.error;
}

/** The failure that a run has recorded, as it was thrown. */
export function errorOf({ code, message, param, retryAfterMs }: SolveErrorRecord): StvError {
  return new StvError(code, message, {
    ...(param === null ? {} : { param }),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

export function wireAnswer(answer: SolveAnswer | SolveAnswerOf<'running'>): Record<string, unknown> {
  return { ...toWire(answer), ...wireErrors(answer) };
}

/** Those of the run and of its chains; what was stored before chains had any has none. */
function wireErrors({ error, chains }: Pick<SolveAnswer, 'error' | 'chains'>): Record<string, unknown> {
  const wireError = (one: SolveErrorRecord | null | undefined): unknown => (one ? wireErrorOf(one) : null);
  return {
    error: wireError(error),
    chains: chains.map((chain) => ({ ...toWire(chain), error: wireError(chain.error) })),
  };
}

/** What `GET /solve/{id}` shows: the fold so far, or of a run without events what is known of it. */
export function wireState(
  id: string,
  created: number,
  state: SolveState | undefined,
  status: StoredRun['status'],
): Record<string, unknown> {
  if (state === undefined) return { ...unknownYet(id, created, status), chains: [] };
  const answer = wireAnswer(state.answer);
  return answer['status'] === 'running' ? { ...answer, status } : answer;
}

/** An entry of `GET /solve`: the run without its rounds. */
export function wireSummary({ id, created, status, summary, request }: StoredRun): Record<string, unknown> {
  const known =
    summary === undefined
      ? unknownYet(id, created, status)
      : { ...toWire(summary), status, error: summary.error === null ? null : wireErrorOf(summary.error) };
  return { ...known, problem: request.problem };
}

function unknownYet(id: string, created: number, status: StoredRun['status']): Record<string, unknown> {
  return {
    id,
    object: 'solve',
    created: Math.floor(created / 1000),
    models: null,
    status,
    stop_reason: null,
    solution: null,
    answer: null,
    score: null,
    chain: null,
    round: null,
    usage: toWire(noRoleUsage),
    seed: null,
    metadata: null,
    timings: { queue_ms: 0, prefill_ms: 0, decode_ms: 0, total_ms: 0 },
    error: null,
  };
}

export function solveFrame(event: SolveEvent): Frame {
  const { id, type, ...data } = event;
  const wire = toWire(data);
  if (event.type !== 'solve-end') return { event: type, id, data: JSON.stringify(wire) };
  return { event: type, id, data: JSON.stringify({ id: event.solveId, ...wire, ...wireErrors(event) }) };
}

export async function* solveFrames(events: AsyncIterable<SolveEvent>): AsyncGenerator<Frame> {
  for await (const event of events) yield solveFrame(event);
}

/** The answer that a terminal event carries; its `id` is the run's, not the event's. */
export function solveAnswerOf(event: SolveEvent & { readonly type: 'solve-end' }): SolveAnswer {
  const { type: _, id: __, solveId, ...answer } = event;
  return { id: solveId, ...answer };
}

/** A run that is not stored lives as long as somebody waits for it. */
export function holdFor(live: LiveRun, signal: AbortSignal): void {
  const leave = live.attach();
  if (signal.aborted) leave();
  else signal.addEventListener('abort', leave, { once: true });
}

/**
 * Whether a failed run gave its caller nothing at all, so that the failure itself is the better answer. An attempt that came
 * with the request is nothing found.
 */
export function isEmptyFailure(answer: SolveAnswer): boolean {
  if (answer.status !== 'failed' || answer.error === null) return false;
  if (answer.usage.totalTokens === 0) return true;
  return (
    answer.solution === null && answer.chains.every((chain) => chain.rounds.every((round) => round.attempt === null))
  );
}
