/**
 * What a failure looks like on the wire: the only place that knows codes, statuses and the error object together.
 * Messages of 5xx defects are replaced, so that neither user text nor a stack can leave the process.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { type ErrorCode, type ReachedLimit, StvError } from '../errors.ts';

/** The body of every error, before or inside a stream. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly code: string | null;
    readonly param: string | null;
    /** Which limit a 429 is about. */
    readonly limit?: ReachedLimit;
  };
}

export interface WireError {
  readonly status: number;
  readonly body: ErrorBody;
  /** Seconds; absent where trying again cannot help or nobody knows when. */
  readonly retryAfterMs?: number;
  /** Tells SDKs that retry by status alone what to do; absent leaves it to them. */
  readonly shouldRetry?: boolean;
}

type ErrorType =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'permission_error'
  | 'not_found_error'
  | 'conflict_error'
  | 'rate_limit_error'
  | 'overloaded_error'
  | 'timeout_error'
  | 'server_error';

interface Rule {
  readonly status: number;
  readonly type: ErrorType;
  readonly shouldRetry?: boolean;
  /** Used when the error itself names no time. */
  readonly retryAfterMs?: number;
  /** The message stays inside (logs); the client gets a fixed one. */
  readonly isHidden?: boolean;
}

const defect: Rule = { status: 500, type: 'server_error', isHidden: true };

const rules: Readonly<Record<ErrorCode, Rule>> = {
  invalid_value: { status: 400, type: 'invalid_request_error' },
  unknown_field: { status: 400, type: 'invalid_request_error' },
  context_length_exceeded: { status: 400, type: 'invalid_request_error' },
  unsupported_parameter: { status: 400, type: 'invalid_request_error' },
  invalid_api_key: { status: 401, type: 'authentication_error' },
  insufficient_scope: { status: 403, type: 'permission_error' },
  model_not_found: { status: 404, type: 'not_found_error' },
  not_found: { status: 404, type: 'not_found_error' },
  conflict: { status: 409, type: 'conflict_error', shouldRetry: false },
  idempotency_key_reused: { status: 422, type: 'conflict_error', shouldRetry: false },
  queue_full: { status: 429, type: 'rate_limit_error', shouldRetry: true, retryAfterMs: 1000 },
  quota_exceeded: { status: 429, type: 'rate_limit_error', shouldRetry: true, retryAfterMs: 1000 },
  cancelled: { status: 499, type: 'invalid_request_error', shouldRetry: false },
  not_ready: { status: 503, type: 'overloaded_error', shouldRetry: true, retryAfterMs: 5000 },
  draining: { status: 503, type: 'overloaded_error', shouldRetry: true, retryAfterMs: 5000 },
  engine_crashed: { status: 503, type: 'overloaded_error', shouldRetry: true, retryAfterMs: 5000 },
  remote_unavailable: { status: 503, type: 'overloaded_error', shouldRetry: true, retryAfterMs: 5000 },
  storage_full: { status: 503, type: 'overloaded_error', shouldRetry: false },
  request_quarantined: { status: 503, type: 'overloaded_error', shouldRetry: false },
  deadline_exceeded: { status: 504, type: 'timeout_error', shouldRetry: false },
  model_load_failed: { status: 422, type: 'invalid_request_error', shouldRetry: false },
  pack_invalid: defect,
  checkpoint_invalid: defect,
  architecture_unsupported: defect,
  download_failed: defect,
  disk_full: defect,
  config_invalid: defect,
  device_unavailable: defect,
  device_lost: { status: 503, type: 'overloaded_error', shouldRetry: true, retryAfterMs: 5000 },
  runtime_failed: defect,
  internal: defect,
};

/** Failures that the HTTP layer itself finds; their codes exist on the wire only. */
const httpFailures: Readonly<Record<string, { status: number; type: ErrorType; code: string; message: string }>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: {
    status: 413,
    type: 'invalid_request_error',
    code: 'body_too_large',
    message: 'The request body is larger than this server accepts.',
  },
  FST_ERR_CTP_INVALID_MEDIA_TYPE: {
    status: 415,
    type: 'invalid_request_error',
    code: 'unsupported_media_type',
    message: 'The body must be JSON and say so with `content-type: application/json`.',
  },
  FST_ERR_CTP_EMPTY_JSON_BODY: {
    status: 400,
    type: 'invalid_request_error',
    code: 'invalid_json',
    message: 'The body is empty; this route needs a JSON object.',
  },
  FST_ERR_CTP_INVALID_JSON_BODY: {
    status: 400,
    type: 'invalid_request_error',
    code: 'invalid_json',
    message: 'The body is not valid JSON.',
  },
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: {
    status: 400,
    type: 'invalid_request_error',
    code: 'invalid_content_length',
    message: 'The body is not as long as the content-length header says.',
  },
  FST_ERR_BAD_URL: {
    status: 400,
    type: 'invalid_request_error',
    code: 'invalid_url',
    message: 'The path of the URL cannot be decoded.',
  },
  FST_ERR_MAX_PARAM_LENGTH: {
    status: 404,
    type: 'not_found_error',
    code: 'not_found',
    message: 'The id in the path is longer than any id of this server.',
  },
};

function body(message: string, type: ErrorType, code: string | null, param?: string, limit?: ReachedLimit): ErrorBody {
  return { error: { message, type, code, param: param ?? null, ...(limit === undefined ? {} : { limit }) } };
}

/** Maps anything thrown to its wire form; `requestId` goes into the message of a defect so that it can be found in the log. */
export function toWireError(thrown: unknown, requestId = ''): WireError {
  if (thrown instanceof StvError) {
    const rule = rules[thrown.code];
    if (rule.isHidden) return hiddenDefect(requestId);
    const retryAfterMs = thrown.retryAfterMs ?? rule.retryAfterMs;
    return {
      status: rule.status,
      body: body(thrown.message, rule.type, thrown.code, thrown.param, thrown.limit),
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
      ...(rule.shouldRetry === undefined ? {} : { shouldRetry: rule.shouldRetry }),
    };
  }
  const error = thrown as Partial<FastifyError> | undefined;
  const known = error?.code === undefined ? undefined : httpFailures[error.code];
  if (known !== undefined) {
    const wire = { status: known.status, body: body(known.message, known.type, known.code) };
    return known.status === 413 ? { ...wire, shouldRetry: false } : wire;
  }
  // What the framework refuses by itself: broken encodings, aborted uploads.
  const status = error?.statusCode;
  if (status !== undefined && status >= 400 && status < 500) {
    return {
      status,
      body: body('The request is not well formed: its body or headers cannot be read.', 'invalid_request_error', null),
    };
  }
  return hiddenDefect(requestId);
}

function hiddenDefect(requestId: string): WireError {
  const where = requestId === '' ? '' : ` Its log entry has the request id ${requestId}.`;
  return { status: 500, body: body(`The server met a defect of its own.${where}`, 'server_error', 'internal') };
}

/** Headers that go with an error, beside its status. */
export function errorHeaders(wire: WireError): Record<string, string> {
  const headers: Record<string, string> = {};
  if (wire.retryAfterMs !== undefined) {
    headers['retry-after'] = String(Math.max(1, Math.ceil(wire.retryAfterMs / 1000)));
    headers['retry-after-ms'] = String(Math.ceil(wire.retryAfterMs));
  }
  if (wire.shouldRetry !== undefined) headers['x-should-retry'] = String(wire.shouldRetry);
  if (wire.status === 401) headers['www-authenticate'] = 'Bearer';
  return headers;
}

/** Under which an error is counted. */
export function codeOf({ body: { error } }: WireError): string {
  return error.code ?? error.type;
}

/** Codes worth a log line that wakes somebody; the rest are the caller's mistakes or the moment's load. */
export function isDefect(wire: WireError): boolean {
  return wire.status === 500;
}

export interface ErrorHandlerOptions {
  /** Named in the message of a 413. */
  readonly maxBodyBytes: number;
  readonly onError: (code: string) => void;
}

/** Installs the error handler, the 404 and the 405. */
export function installErrorHandling(app: FastifyInstance, options: ErrorHandlerOptions): void {
  const known: { method: string; pattern: RegExp }[] = [];
  app.addHook('onRoute', (route) => {
    // takes preflight requests for any path, and is no route of its own
    if (route.url === '*') return;
    const pattern = new RegExp(`^${route.url.replaceAll(/:[^/]+/g, '[^/]+').replaceAll('*', '.*')}/?$`);
    for (const method of [route.method].flat()) known.push({ method, pattern });
  });

  app.setErrorHandler((thrown, request, reply) => {
    // a body that nobody would read cannot be the trouble; that of files has words of its own for paths that lead nowhere
    if (!(thrown instanceof StvError) && (request.is404 || isLostPath(thrown, request))) {
      answerUnknownRoute(request, reply);
      return;
    }
    const mapped = toWireError(thrown, request.id);
    const wire = mapped.status === 413 ? withSizes(mapped, request, options.maxBodyBytes) : mapped;
    options.onError(codeOf(wire));
    if (isDefect(wire)) request.log.error({ err: thrown }, 'request failed');
    else request.log.debug({ status: wire.status, code: wire.body.error.code }, 'request refused');
    sendWireError(reply, wire);
  });

  app.setNotFoundHandler(answerUnknownRoute);

  function answerUnknownRoute(request: FastifyRequest, reply: FastifyReply): void {
    const pathname = request.url.split('?', 1)[0] ?? '/';
    const allowed = [...new Set(known.filter((route) => route.pattern.test(pathname)).map((route) => route.method))];
    const wire: WireError =
      // one that answers with files answers this method, and has no such file
      allowed.length > 0 && !allowed.includes(request.method)
        ? {
            status: 405,
            body: body(
              `This route does not answer ${request.method}; it answers ${allowed.join(', ')}.`,
              'not_found_error',
              'method_not_allowed',
            ),
          }
        : { status: 404, body: body('There is no such route on this server.', 'not_found_error', 'not_found') };
    options.onError(codeOf(wire));
    if (wire.status === 405) reply.header('allow', allowed.join(', '));
    sendWireError(reply, wire);
  }
}

/** A request without a body that foreign code refuses, with a code that no client knows, can only have named what is not there. */
function isLostPath(thrown: unknown, { method }: FastifyRequest): boolean {
  const { statusCode = 500, code } = thrown as Partial<FastifyError>;
  const isRead = method === 'GET' || method === 'HEAD';
  return isRead && statusCode >= 400 && statusCode < 500 && !(code !== undefined && code in httpFailures);
}

function withSizes(wire: WireError, request: FastifyRequest, maxBodyBytes: number): WireError {
  const given = request.headers['content-length'];
  const size = given === undefined ? '' : `, got ${given}`;
  const message = `The request body must hold at most ${maxBodyBytes} bytes${size}.`;
  return { ...wire, body: { error: { ...wire.body.error, message } } };
}

export function sendWireError(reply: FastifyReply, wire: WireError): void {
  reply.code(wire.status).headers(errorHeaders(wire)).type('application/json; charset=utf-8').send(wire.body);
}

/** For failures before a request object exists: answers on the bare socket in the same form. */
export function answerClientError(error: Error & { code?: string }, socket: Socket): void {
  // behind what waits for a reader no answer arrives, and the connection would stay open
  const isStuck = error.code === 'ERR_HTTP_REQUEST_TIMEOUT' && socket.writableLength > 0;
  if (error.code === 'ECONNRESET' || !socket.writable || isStuck) {
    socket.destroy();
    return;
  }
  const wire = bareFailure(error.code);
  const text = JSON.stringify(wire.body);
  socket.end(
    `HTTP/1.1 ${wire.status} ${wire.reason}\r\ncontent-type: application/json; charset=utf-8\r\n` +
      `content-length: ${Buffer.byteLength(text)}\r\nconnection: close\r\n\r\n${text}`,
  );
}

function bareFailure(code: string | undefined): { status: number; reason: string; body: ErrorBody } {
  const type = 'invalid_request_error';
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    const message = 'The request did not arrive within the time this server allows.';
    return { status: 408, reason: 'Request Timeout', body: body(message, type, 'request_timeout') };
  }
  if (code === 'HPE_HEADER_OVERFLOW') {
    const message = 'The request headers are larger than this server accepts.';
    return { status: 431, reason: 'Request Header Fields Too Large', body: body(message, type, 'headers_too_large') };
  }
  const message = 'The bytes on this connection are not a valid HTTP/1.1 request.';
  return { status: 400, reason: 'Bad Request', body: body(message, type, 'invalid_http') };
}

/** What Node would refuse with an empty answer: HTTP/1.1 asks for the header. */
export async function refuseWithoutHost({ headers, raw }: FastifyRequest): Promise<void> {
  if (headers.host !== undefined || raw.httpVersion === '1.0') return;
  throw new StvError('invalid_value', 'A request of HTTP/1.1 must have the header Host.', { param: 'Host' });
}

/** An `Expect` that Node does not know itself; `100-continue` never arrives here. */
export function answerExpectation(_request: IncomingMessage, response: ServerResponse): void {
  const message = 'This server meets no expectation but `100-continue` in the header Expect.';
  const text = JSON.stringify(body(message, 'invalid_request_error', 'expectation_failed', 'Expect'));
  const headers = { 'content-type': 'application/json; charset=utf-8', 'content-length': Buffer.byteLength(text) };
  response.writeHead(417, { ...headers, connection: 'close' }).end(text);
}

/** For the framework's own early refusals (bad URL), which bypass the error handler. */
export function answerFrameworkError(error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  sendWireError(reply, toWireError(error, request.id));
}
