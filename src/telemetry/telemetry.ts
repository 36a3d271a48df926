/** Tracing of runs as the rest of the server sees it, and the trace context that a request comes with. */
import type { SolveRequest } from '../stv/solve-events.ts';
import type { Span } from '../stv/spans.ts';

export interface Telemetry {
  /** The span of a run, below the trace context that its request came with. `isResumed`: begun by an earlier process. */
  startRun(request: Pick<SolveRequest, 'id' | 'traceparent'>, isResumed: boolean): Span;
  /** The span of one verification or refinement that belongs to no run, below the trace context of its request. */
  startCall(name: 'verify' | 'refine', call: TracedCall): Span;
  /** Sends what has not been sent, for a few seconds at most. */
  close(): Promise<void>;
}

export interface TracedCall {
  readonly id: string;
  /** The model as the request named it. */
  readonly model: string;
  readonly traceparent?: string | undefined;
}

const traceparentForm = /^[\da-f]{2}-(?!0{32})([\da-f]{32})-(?!0{16})([\da-f]{16})-([\da-f]{2})(?:-.*)?$/;

/** The parts of a W3C `traceparent` header; undefined where it is none. */
export function parseTraceparent(
  header: string | undefined,
): { readonly traceId: string; readonly spanId: string; readonly traceFlags: number } | undefined {
  const match = traceparentForm.exec(header ?? '');
  if (match === null || header?.startsWith('ff')) return undefined;
  const [, traceId = '', spanId = '', flags = '00'] = match;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & 1 };
}
