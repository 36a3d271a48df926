/**
 * The typed client of the server's own routes. Uses fetch, streams and AbortSignal only, so that it runs in Node, Deno, Bun
 * and the browser. The OpenAI-compatible routes have clients enough.
 */
import { StvApiError } from './client-errors.ts';
import type {
  ModelList,
  Ready,
  RefineEvent,
  Refinement,
  RefineRequest,
  Share,
  Solve,
  SolveEvent,
  SolveList,
  SolveRequest,
  SolveState,
  Trace,
  Verification,
  VerifyEvent,
  VerifyRequest,
} from './contract.ts';
import { resumableEvents, typedEvents } from './event-stream.ts';
import { createTransport, type TransportOptions } from './transport.ts';

// biome-ignore lint/performance/noBarrelFile: this module is the entry of the package's `./client`
export { type ApiErrorDetails, StvApiError, StvConnectionError } from './client-errors.ts';
export type * from './contract.ts';
export type { TransportOptions } from './transport.ts';

export interface ClientOptions extends TransportOptions {
  /** Silence after which a stream counts as lost; the server gives a sign of life every 15 s. Default 45,000. */
  readonly idleTimeoutMs?: number | undefined;
  /** How long a stored run's lost stream is taken up again, from the loss on, without one new event. Default 120,000. */
  readonly resumeForMs?: number | undefined;
}

export interface CallOptions {
  /** Ends the call: the promise rejects, the stream throws, with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

export interface SolveCallOptions extends CallOptions {
  /** The same key and body attach to the same run. Stored runs get one of their own if you give none. */
  readonly idempotencyKey?: string | undefined;
  /** Told of every lost connection that is being taken up again. */
  readonly onReconnect?: ((error: Error) => void) | undefined;
  /** Told when a lost connection is there again; the run's next event may be long in coming. */
  readonly onReconnected?: (() => void) | undefined;
}

export interface ReadOptions extends CallOptions {
  /** The token of a share link, in place of a key. */
  readonly shareToken?: string | undefined;
}

export interface EventsOptions extends ReadOptions {
  /** Leave out the events up to this one. */
  readonly after?: number | undefined;
  readonly onReconnect?: ((error: Error) => void) | undefined;
  readonly onReconnected?: (() => void) | undefined;
}

export interface TracesQuery {
  readonly after?: string | undefined;
  /** All there are, when absent. */
  readonly limit?: number | undefined;
  /** Add the references and answers that callers gave. */
  readonly labels?: boolean | undefined;
}

/** Traces of one request. */
const tracesPage = 200;

/** `stream` and `background` are decided by the method that is called. */
type Body<R extends { readonly stream?: boolean }> = Omit<R, 'stream' | 'background'>;

export interface StvClient {
  verify(request: Body<VerifyRequest>, options?: CallOptions): Promise<Verification>;
  verifyStream(request: Body<VerifyRequest>, options?: CallOptions): AsyncGenerator<VerifyEvent, void>;
  refine(request: Body<RefineRequest>, options?: CallOptions): Promise<Refinement>;
  refineStream(request: Body<RefineRequest>, options?: CallOptions): AsyncGenerator<RefineEvent, void>;
  /** Waits for the end of the run. */
  solve(request: Body<SolveRequest>, options?: SolveCallOptions): Promise<Solve>;
  /**
   * The events of a new run. With `store: true` a lost connection is taken up again and every event comes exactly once;
   * without it the run ends with its connection, and leaving the loop cancels it.
   */
  solveStream(request: Body<SolveRequest>, options?: SolveCallOptions): AsyncGenerator<SolveEvent, void>;
  /** Begins a stored run and leaves it to the server. */
  solveInBackground(request: Body<SolveRequest>, options?: SolveCallOptions): Promise<SolveState>;
  getSolve(id: string, options?: ReadOptions): Promise<SolveState>;
  /** Replays a run and follows it to its end, across lost connections. Leaving the loop does not touch the run. */
  solveEvents(id: string, options?: EventsOptions): AsyncGenerator<SolveEvent, void>;
  /** Cancels a live run, at whatever server, and resolves with its state; one that has ended is left alone. */
  cancelSolve(id: string, options?: CallOptions): Promise<SolveState>;
  /** Cancels a live run (`cancelled`), erases an ended one with all its texts (`erased`). */
  deleteSolve(id: string, options?: CallOptions): Promise<'cancelled' | 'erased'>;
  /** Makes a read-only link to a stored run: whoever has its token can read and follow this run and nothing else. */
  shareSolve(id: string, options?: CallOptions): Promise<Share>;
  /** Stored runs, newest first. */
  listSolves(page?: { readonly limit?: number; readonly after?: string }, options?: CallOptions): Promise<SolveList>;
  /**
   * Finished rounds of every key's stored runs, oldest first, page after page until there are no more. Needs the scope `traces`.
   * To go on later, give the last `trace_id` as `after`.
   */
  traces(query?: TracesQuery, options?: CallOptions): AsyncGenerator<Trace, void>;
  models(options?: CallOptions): Promise<ModelList>;
  /** Resolves when both roles can serve; throws StvApiError (503) while they cannot. */
  ready(options?: CallOptions): Promise<Ready>;
}

/** Makes a client; opens no connection. */
export function createClient(options: ClientOptions = {}): StvClient {
  const idleTimeoutMs = options.idleTimeoutMs ?? 45_000;
  const send = createTransport({ ...options, streamHeadersMs: idleTimeoutMs });
  const resumeForMs = options.resumeForMs ?? 120_000;

  async function get<T>(path: string, { signal }: CallOptions = {}): Promise<T> {
    const response = await send({ method: 'GET', path, signal, isRepeatable: true });
    return (await response.json()) as T;
  }

  /** A stream of a request that keeps nothing on the server, so sending it twice does nothing twice. */
  async function* stream<E extends { readonly event: string; readonly id: number; readonly data: unknown }>(
    path: string,
    request: object,
    terminal: E['event'],
    { signal }: CallOptions,
  ): AsyncGenerator<E, void> {
    const body = { ...request, stream: true };
    const accept = 'text/event-stream';
    const response = await send({ method: 'POST', path, body, accept, signal, isRepeatable: true });
    yield* typedEvents<E>(response, { idleTimeoutMs, signal, terminal });
  }

  function verifyStream(request: Body<VerifyRequest>, call: CallOptions = {}): AsyncGenerator<VerifyEvent, void> {
    return stream<VerifyEvent>('/verify', request, 'verification-end', call);
  }

  function refineStream(request: Body<RefineRequest>, call: CallOptions = {}): AsyncGenerator<RefineEvent, void> {
    return stream<RefineEvent>('/refine', request, 'refinement-end', call);
  }

  function sendSolve(request: object, isStored: boolean, call: SolveCallOptions): () => Promise<Response> {
    const key = call.idempotencyKey ?? (isStored ? randomKey() : undefined);
    const headers = key === undefined ? {} : { 'idempotency-key': key };
    const { signal } = call;
    const isRepeatable = key !== undefined;
    const accept = 'stream' in request ? 'text/event-stream' : 'application/json';
    return () => send({ method: 'POST', path: '/solve', body: request, accept, headers, signal, isRepeatable });
  }

  function rejoin({ signal, shareToken }: ReadOptions): (id: string, after: number) => Promise<Response> {
    return (id, after) =>
      send({
        method: 'GET',
        path: `${pathOf(id)}/events${tokenQuery(shareToken)}`,
        accept: 'text/event-stream',
        headers: after === 0 ? {} : { 'last-event-id': String(after) },
        signal,
        isRepeatable: true,
      });
  }

  function solveStream(request: Body<SolveRequest>, call: SolveCallOptions = {}): AsyncGenerator<SolveEvent, void> {
    const isDurable = request.store === true;
    return resumableEvents<SolveEvent>({
      begin: sendSolve({ ...request, stream: true }, isDurable, call),
      rejoin: rejoin(call),
      isDurable,
      resumeForMs,
      retryDelayMs: options.retryDelayMs,
      idleTimeoutMs,
      signal: call.signal,
      onReconnect: call.onReconnect,
      onReconnected: call.onReconnected,
      terminal: 'solve-end',
    });
  }

  const client: StvClient = {
    verifyStream,
    refineStream,
    solveStream,
    verify: async (request, call) => lastData(verifyStream(request, call), 'verification-end'),
    refine: async (request, call) => lastData(refineStream(request, call), 'refinement-end'),
    // as a stream, because a run may take longer than the time in which HTTP clients and proxies expect an answer
    solve: async (request, call) => {
      const { solve_id: _, ...answer } = await lastData(solveStream(request, call), 'solve-end');
      return answer;
    },
    async solveInBackground(request, call = {}) {
      const response = await sendSolve({ ...request, background: true }, true, call)();
      return (await response.json()) as SolveState;
    },
    getSolve: (id, call) => get<SolveState>(`${pathOf(id)}${tokenQuery(call?.shareToken)}`, call),
    solveEvents: (id, call = {}) =>
      resumableEvents<SolveEvent>({
        begin: undefined,
        rejoin: rejoin(call),
        solveId: id,
        after: call.after,
        isDurable: true,
        resumeForMs,
        retryDelayMs: options.retryDelayMs,
        idleTimeoutMs,
        signal: call.signal,
        onReconnect: call.onReconnect,
        onReconnected: call.onReconnected,
        terminal: 'solve-end',
      }),
    async cancelSolve(id, call) {
      const { signal } = call ?? {};
      try {
        // cancelling twice comes to the same
        const response = await send({ method: 'POST', path: `${pathOf(id)}/cancel`, signal, isRepeatable: true });
        return (await response.json()) as SolveState;
      } catch (thrown) {
        if (thrown instanceof StvApiError && thrown.status === 409) return client.getSolve(id, call);
        throw thrown;
      }
    },
    deleteSolve: async (id, call) => ((await remove(id, call)) === undefined ? 'erased' : 'cancelled'),
    async shareSolve(id, { signal } = {}) {
      // the link made last is the one that holds, so a second one does no harm
      const response = await send({ method: 'POST', path: `${pathOf(id)}/share`, signal, isRepeatable: true });
      return (await response.json()) as Share;
    },
    listSolves(page = {}, call) {
      const query = new URLSearchParams();
      if (page.limit !== undefined) query.set('limit', String(page.limit));
      if (page.after !== undefined) query.set('after', page.after);
      return get<SolveList>(`/solve${query.size === 0 ? '' : `?${query}`}`, call);
    },
    async *traces({ after, limit = Number.POSITIVE_INFINITY, labels = false } = {}, { signal } = {}) {
      let last = after;
      for (let left = limit; left > 0; ) {
        const query = new URLSearchParams({ limit: String(Math.min(tracesPage, left)) });
        if (last !== undefined) query.set('after', last);
        if (labels) query.set('labels', 'true');
        const response = await send({ method: 'GET', path: `/traces?${query}`, signal, isRepeatable: true });
        const lines = (await response.text()).split('\n').filter((line) => line !== '');
        if (lines.length === 0) return;
        for (const line of lines) {
          const trace = JSON.parse(line) as Trace;
          last = trace.trace_id;
          yield trace;
        }
        left -= lines.length;
      }
    },
    models: (call) => get<ModelList>('/v1/models', call),
    ready: (call) => get<Ready>('/health/ready', call),
  };

  /** Deleting twice would first cancel and then erase, so it is never sent again. */
  async function remove(id: string, { signal }: CallOptions = {}): Promise<SolveState | undefined> {
    const response = await send({ method: 'DELETE', path: pathOf(id), signal, isRepeatable: false });
    return response.status === 204 ? undefined : ((await response.json()) as SolveState);
  }

  return client;
}

/** Whether a run goes on or will go on. */
export function isLive(state: { readonly status: SolveState['status'] }): boolean {
  return state.status === 'queued' || state.status === 'running' || state.status === 'parked';
}

function pathOf(id: string): string {
  return `/solve/${encodeURIComponent(id)}`;
}

function tokenQuery(token: string | undefined): string {
  return token === undefined ? '' : `?token=${encodeURIComponent(token)}`;
}

async function lastData<E extends { readonly event: string; readonly data: unknown }, N extends E['event']>(
  events: AsyncIterable<E>,
  name: N,
): Promise<Extract<E, { readonly event: N }>['data']> {
  let last: Extract<E, { readonly event: N }>['data'] | undefined;
  for await (const event of events) if (event.event === name) last = event.data;
  // the stream throws when its terminal event is missing
  return last as Extract<E, { readonly event: N }>['data'];
}

/** 128 bits as hexadecimal digits. `crypto.randomUUID` is missing on pages that come over plain HTTP. */
function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
