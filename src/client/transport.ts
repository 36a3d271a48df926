/**
 * One HTTP call with its retries. A call is sent again when the server says that it did not take it (429, 503 with its
 * consent), and after a lost connection only where sending it twice cannot do anything twice.
 */
import { errorOfResponse, type StvApiError, StvConnectionError } from './client-errors.ts';

export interface TransportOptions {
  /** Where the server is, with the path before `/solve` where a proxy adds one. Default `http://127.0.0.1:8000`. */
  readonly baseUrl?: string | undefined;
  /** Sent as bearer token; a function is asked at every call. */
  readonly apiKey?: string | (() => string | undefined) | undefined;
  /** Sent with every call. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** How often a call is sent again. Default 2. */
  readonly maxRetries?: number | undefined;
  /** The first wait where the server names no time; doubled each time, up to 8 s. Default 250. */
  readonly retryDelayMs?: number | undefined;
  /** Longest time to wait before a retry; a server that asks for more gets none. Default 60,000. */
  readonly maxRetryDelayMs?: number | undefined;
  /** Default the global `fetch`. */
  readonly fetch?: typeof globalThis.fetch | undefined;
}

/** What the client decides for the caller. */
interface OwnOptions extends TransportOptions {
  /** How long the beginning of a stream may take: the server sends its headers within seconds. Default: as `fetch` has it. */
  readonly streamHeadersMs?: number;
}

export interface Call {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly path: string;
  readonly body?: unknown;
  readonly accept?: 'application/json' | 'text/event-stream';
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** Whether doing it twice comes to the same as doing it once. */
  readonly isRepeatable: boolean;
}

/**
 * Sends a call; resolves with an answer of 2xx, a stream that begins or all of anything else. Throws StvApiError, StvConnectionError or the
 * reason of the abort, and TypeError for an address or a header that cannot be sent.
 */
export type Send = (call: Call) => Promise<Response>;

export function createTransport(options: OwnOptions): Send {
  const maxRetries = options.maxRetries ?? 2;
  const maxDelayMs = options.maxRetryDelayMs ?? 60_000;
  return async (call) => {
    for (let numTries = 1; ; numTries++) {
      const failure = await sendOnce(call, options);
      if (failure instanceof Response) return failure;
      const delayMs = retryDelayOf(failure, call, backoffMs(numTries, options.retryDelayMs));
      if (numTries > maxRetries || delayMs === undefined || delayMs > maxDelayMs) throw failure;
      await delay(delayMs, call.signal);
    }
  };
}

async function sendOnce(call: Call, options: OwnOptions): Promise<Response | StvApiError | StvConnectionError> {
  const send = options.fetch ?? globalThis.fetch;
  const base = (options.baseUrl ?? 'http://127.0.0.1:8000').replace(/\/+$/, '');
  const key = typeof options.apiKey === 'function' ? options.apiKey() : options.apiKey;
  call.signal?.throwIfAborted();
  const headers = {
    accept: call.accept ?? 'application/json',
    ...(call.body === undefined ? {} : { 'content-type': 'application/json' }),
    ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
    ...options.headers,
    ...call.headers,
  };
  if (options.fetch === undefined) new Request(`${base}${call.path}`); // throws for what is no address
  checkHeaders(headers);
  const lateness = new AbortController();
  const isStream = call.accept === 'text/event-stream';
  const headersMs = isStream ? options.streamHeadersMs : undefined;
  const timer = headersMs === undefined ? undefined : setTimeout(() => lateness.abort(), headersMs);
  let response: Response | undefined;
  try {
    response = await send(`${base}${call.path}`, {
      method: call.method,
      headers,
      ...(call.body === undefined ? {} : { body: JSON.stringify(call.body) }),
      signal: call.signal === undefined ? lateness.signal : AbortSignal.any([call.signal, lateness.signal]),
    });
    if (!response.ok) return await errorOfResponse(response);
    return isStream ? response : await whole(response);
  } catch (thrown) {
    if (call.signal?.aborted) throw call.signal.reason;
    const what = response === undefined ? 'cannot be reached' : 'was lost before its answer was complete';
    return new StvConnectionError(`The server at ${base} ${what}.`, { cause: thrown });
  } finally {
    clearTimeout(timer);
  }
}

/** `fetch` would fail as if the server could not be reached, and the call would be sent again. */
function checkHeaders(headers: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(headers)) {
    try {
      new Headers([[name, value]]);
    } catch (cause) {
      throw new TypeError(`The header ${name} holds a character that cannot be sent.`, { cause });
    }
  }
}

/** The same answer once all of it has arrived. */
async function whole(response: Response): Promise<Response> {
  const { status, headers } = response;
  return new Response(status === 204 ? null : await response.text(), { status, headers });
}

/** Milliseconds after which the call may be sent again; undefined = never. */
function retryDelayOf(failure: StvApiError | StvConnectionError, call: Call, waitMs: number): number | undefined {
  if (failure instanceof StvConnectionError) return call.isRepeatable ? waitMs : undefined;
  const { status, shouldRetry, retryAfterMs } = failure;
  if (shouldRetry === false) return undefined;
  const wasRefused = (status === 429 || status === 503) && (shouldRetry === true || retryAfterMs !== undefined);
  const mayPass = status === 429 || status === 502 || status === 503 || status === 504;
  if (!wasRefused && !(mayPass && call.isRepeatable)) return undefined;
  return retryAfterMs ?? waitMs;
}

/** Doubled each time up to 8 s, less up to a half by chance so that clients do not march in step. */
export function backoffMs(numTries: number, firstMs = 250): number {
  return Math.min(8000, firstMs * 2 ** (numTries - 1)) * (1 - Math.random() / 2);
}

/** Rejects with the reason of the abort. */
export function delay(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop, { once: true });
  });
}
