/** The two ways in which a call fails: the server said no, or there was no (more) server to hear. */

export interface ApiErrorDetails {
  /** HTTP status; undefined for an error that came inside a stream. */
  readonly status: number | undefined;
  /** `type` of the error object, e.g. `invalid_request_error`. */
  readonly type: string;
  readonly code: string | undefined;
  /** Path of the field that is wrong. */
  readonly param: string | undefined;
  readonly requestId: string | undefined;
  /** After how many milliseconds trying again can help. */
  readonly retryAfterMs: number | undefined;
  /** The server's own word on whether the same request may succeed later; undefined where it said nothing. */
  readonly shouldRetry: boolean | undefined;
}

/** The server refused the request or ended the stream with an error. */
export class StvApiError extends Error implements ApiErrorDetails {
  readonly status: number | undefined;
  readonly type: string;
  readonly code: string | undefined;
  readonly param: string | undefined;
  readonly requestId: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly shouldRetry: boolean | undefined;

  constructor(message: string, details: ApiErrorDetails) {
    super(message);
    this.name = 'StvApiError';
    this.status = details.status;
    this.type = details.type;
    this.code = details.code;
    this.param = details.param;
    this.requestId = details.requestId;
    this.retryAfterMs = details.retryAfterMs;
    this.shouldRetry = details.shouldRetry;
  }
}

export interface ConnectionErrorOptions {
  readonly cause?: unknown;
  /** The run whose stream was lost, and the last event that arrived: `solveEvents(id, {after})` goes on from there. */
  readonly solveId?: string | undefined;
  readonly lastEventId?: number | undefined;
}

/** The server could not be reached, or the connection was lost before the answer was complete. */
export class StvConnectionError extends Error {
  readonly solveId: string | undefined;
  readonly lastEventId: number | undefined;

  constructor(message: string, options: ConnectionErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'StvConnectionError';
    this.solveId = options.solveId;
    this.lastEventId = options.lastEventId;
  }
}

/** The error that a refusal carries; bodies that are not ours (a proxy's page) become a plain sentence. */
export async function errorOfResponse(response: Response): Promise<StvApiError> {
  const body: unknown = await response.json().catch(() => undefined);
  const { headers, status } = response;
  const shouldRetry = headers.get('x-should-retry');
  return apiError(body, {
    status,
    requestId: headers.get('x-request-id') ?? undefined,
    retryAfterMs: retryAfterOf(headers),
    shouldRetry: shouldRetry === null ? undefined : shouldRetry === 'true',
  });
}

type Circumstances = Pick<ApiErrorDetails, 'status' | 'requestId' | 'retryAfterMs' | 'shouldRetry'>;

/** Reads `{error: {message, type, code, param}}`, whatever else `body` may be. */
export function apiError(body: unknown, circumstances: Circumstances): StvApiError {
  const { error } = (typeof body === 'object' && body !== null ? body : {}) as { readonly error?: unknown };
  const given = (typeof error === 'object' && error !== null ? error : {}) as Readonly<Record<string, unknown>>;
  const text = (name: string): string | undefined =>
    typeof given[name] === 'string' ? (given[name] as string) : undefined;
  const { status } = circumstances;
  const message = text('message') ?? `The server answered ${status ?? 'with an error'} and gave no reason.`;
  return new StvApiError(message, {
    ...circumstances,
    type: text('type') ?? 'server_error',
    code: text('code'),
    param: text('param'),
  });
}

/** `retry-after-ms`, or `retry-after` in seconds or as a date. */
function retryAfterOf(headers: Headers): number | undefined {
  const milliseconds = Number(headers.get('retry-after-ms') ?? Number.NaN);
  if (milliseconds >= 0) return milliseconds;
  const value = headers.get('retry-after');
  if (value === null || value === '') return undefined;
  const seconds = Number(value);
  if (seconds >= 0) return seconds * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}
