/**
 * Typed events of a call: names and JSON checked, errors thrown, each event once. A stream that can be resumed is taken up
 * again after its last event when the connection breaks.
 */
import { apiError, StvApiError, StvConnectionError } from './client-errors.ts';
import { readEvents, type ServerSentEvent } from './sse-reader.ts';
import { backoffMs, delay } from './transport.ts';

interface AnyEvent {
  readonly event: string;
  readonly id: number;
  readonly data: unknown;
}

export interface StreamOptions {
  /** Silence (not even a comment) after which a connection counts as lost. The server comments every 15 s. */
  readonly idleTimeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** The event that ends the stream; an end without it is a lost connection. */
  readonly terminal: string;
}

/** The events of one answer. Throws StvApiError for the event `error`, StvConnectionError when the terminal event is missing. */
export async function* typedEvents<E extends AnyEvent>(
  response: Response,
  options: StreamOptions,
): AsyncGenerator<E, void> {
  const type = response.headers.get('content-type') ?? '';
  if (!type.startsWith('text/event-stream')) {
    await response.body?.cancel();
    throw new StvConnectionError(`The server answered with ${type || 'no content type'} where a stream was expected.`);
  }
  try {
    for await (const event of readEvents(response, options.idleTimeoutMs)) {
      yield parsed<E>(event, response);
      if (event.event === options.terminal) return;
    }
  } catch (thrown) {
    if (options.signal?.aborted) throw options.signal.reason;
    throw thrown;
  }
  throw new StvConnectionError('The stream ended before the answer was complete.');
}

function parsed<E extends AnyEvent>(event: ServerSentEvent, response: Response): E {
  let data: unknown;
  try {
    data = JSON.parse(event.data);
  } catch (cause) {
    throw new StvConnectionError(`The data of an event \`${event.event}\` is not JSON.`, { cause });
  }
  if (event.event === 'error') {
    const requestId = response.headers.get('x-request-id') ?? undefined;
    throw apiError(data, { status: undefined, requestId, retryAfterMs: undefined, shouldRetry: undefined });
  }
  // the contract is the server's promise; its tests hold every event against the schema
  return { event: event.event, id: Number(event.id), data } as E;
}

export interface ResumableOptions extends StreamOptions {
  /** Sends the request that begins the run; undefined to join a run that is known. */
  readonly begin: (() => Promise<Response>) | undefined;
  /** Asks for the events of a run after one of them; 204 where it has ended with that one. */
  readonly rejoin: (solveId: string, after: number) => Promise<Response>;
  readonly solveId?: string | undefined;
  readonly after?: number | undefined;
  /** False where a lost connection ends the run itself. */
  readonly isDurable: boolean;
  /** How long to try, from the loss of a connection on, without a single new event. */
  readonly resumeForMs: number;
  readonly retryDelayMs?: number | undefined;
  /** Told of every lost connection that is being taken up again. */
  readonly onReconnect?: ((error: Error) => void) | undefined;
  /** Told when a lost connection is there again, before any event of it. */
  readonly onReconnected?: (() => void) | undefined;
}

/** The events of a run, in order and each once, across as many connections as it takes. */
export async function* resumableEvents<E extends AnyEvent & { readonly data: { readonly solve_id: string } }>(
  options: ResumableOptions,
): AsyncGenerator<E, void> {
  const { begin, rejoin, signal } = options;
  let { solveId, after: lastId = 0 } = options;
  let numFailures = 0;
  let lostAt: number | undefined;
  for (;;) {
    let connectedAt = Number.POSITIVE_INFINITY;
    try {
      const response =
        solveId === undefined && begin !== undefined ? await begin() : await rejoin(solveId ?? '', lastId);
      connectedAt = Date.now();
      // the run has ended, and its last event has arrived
      if (response.status === 204) return;
      if (numFailures > 0) options.onReconnected?.();
      for await (const event of typedEvents<E>(response, options)) {
        if (event.id <= lastId) continue;
        lastId = event.id;
        solveId = event.data.solve_id;
        numFailures = 0;
        lostAt = undefined;
        yield event;
      }
      return;
    } catch (thrown) {
      if (signal?.aborted) throw signal.reason;
      const now = Date.now();
      // a connection that held so long without an event, while the run waited in the queue, was no failure
      if (lostAt === undefined || now - connectedAt > options.resumeForMs) lostAt = now;
      const leftMs = options.resumeForMs - (now - lostAt);
      const retryAfterMs = (thrown instanceof StvApiError && thrown.retryAfterMs) || 0;
      const isGivenUp = leftMs <= 0 || retryAfterMs > leftMs;
      if (!options.isDurable || isGivenUp || !mayPass(thrown)) throw withPlace(thrown, solveId, lastId);
      numFailures += 1;
      options.onReconnect?.(thrown);
      await delay(Math.max(backoffMs(numFailures, options.retryDelayMs), retryAfterMs), signal);
    }
  }
}

/** A run outlives lost connections and servers that restart; it does not outlive a refusal. */
function mayPass(thrown: unknown): thrown is Error {
  if (thrown instanceof StvConnectionError) return true;
  if (!(thrown instanceof StvApiError) || thrown.shouldRetry === false) return false;
  return thrown.type === 'overloaded_error' || thrown.status === 429 || (thrown.status ?? 0) >= 502;
}

function withPlace(thrown: unknown, solveId: string | undefined, lastEventId: number): unknown {
  if (!(thrown instanceof StvConnectionError)) return thrown;
  return new StvConnectionError(thrown.message, { cause: thrown.cause, solveId, lastEventId });
}
