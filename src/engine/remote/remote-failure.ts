/** What can go wrong with a remote server, and what follows from it: another attempt, a mark against the server, a code. */
import { type ErrorCode, StvError } from '../../errors.ts';

interface Rule {
  /** Another attempt can help, as long as nothing of the answer has been passed on. */
  readonly canRetry: boolean;
  /** Counts towards opening the circuit: the server is not well. */
  readonly isFault: boolean;
  readonly code: ErrorCode;
}

const RULES = {
  /** No connection. */
  unreachable: { canRetry: true, isFault: true, code: 'remote_unavailable' },
  /** The connection or the stream ended before the answer did. */
  broken: { canRetry: true, isFault: true, code: 'remote_unavailable' },
  /** No event in time. Not tried again: it would cost the same time once more. */
  silent: { canRetry: false, isFault: true, code: 'remote_unavailable' },
  /** Status 5xx, or an error inside the stream. */
  failed: { canRetry: true, isFault: true, code: 'remote_unavailable' },
  /** Ended before its end for a reason of its own, a content filter say: about this request, and the same another time. */
  incomplete: { canRetry: false, isFault: false, code: 'remote_unavailable' },
  /** 429. */
  busy: { canRetry: true, isFault: false, code: 'queue_full' },
  /** Not what was asked for: wrong content type, wrong JSON, endless events. It would say the same again. */
  malformed: { canRetry: false, isFault: true, code: 'remote_unavailable' },
  /** Another 4xx: this request is at fault, or the configuration. */
  refused: { canRetry: false, isFault: false, code: 'remote_unavailable' },
  /** 404 on a route that not every server has, and other requests for what it does not do. */
  unsupported: { canRetry: false, isFault: false, code: 'unsupported_parameter' },
  'context-exceeded': { canRetry: false, isFault: false, code: 'context_length_exceeded' },
} as const satisfies Record<string, Rule>;

export type RemoteFailureKind = keyof typeof RULES;

export interface RemoteFailureOptions {
  readonly cause?: unknown;
  readonly status?: number;
  readonly retryAfterMs?: number | undefined;
}

/** `message` is a full sentence and holds nothing that the server wrote: a server may quote the prompt in its errors. */
export class RemoteFailure extends Error {
  readonly kind: RemoteFailureKind;
  readonly status: number | undefined;
  readonly retryAfterMs: number | undefined;

  constructor(kind: RemoteFailureKind, message: string, options: RemoteFailureOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'RemoteFailure';
    this.kind = kind;
    this.status = options.status;
    this.retryAfterMs = options.retryAfterMs;
  }

  get canRetry(): boolean {
    return RULES[this.kind].canRetry;
  }

  get isFault(): boolean {
    return RULES[this.kind].isFault;
  }

  toStvError(): StvError {
    const { retryAfterMs } = this;
    return new StvError(RULES[this.kind].code, this.message, {
      cause: this,
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    });
  }
}

/** From a status that is not 200 to what it means. @param body the parsed error body, if there was one */
export function failureOfStatus(
  remote: string,
  status: number,
  { body, retryAfterMs }: { readonly body?: unknown; readonly retryAfterMs?: number | undefined },
): RemoteFailure {
  const word = errorWord(body);
  const said = `The remote ${remote} answered with status ${status}${word === undefined ? '' : ` (${word})`}`;
  const options = { status, retryAfterMs };
  if (status === 429) return new RemoteFailure('busy', `${said}: it is at its limit.`, options);
  if (status >= 500 || status === 408 || status === 425) return new RemoteFailure('failed', `${said}.`, options);
  if (status === 401 || status === 403) {
    return new RemoteFailure('refused', `${said}: it does not take the API key of this server.`, options);
  }
  if (isContextError(body, word)) {
    return new RemoteFailure(
      'context-exceeded',
      `The prompt and its answer do not fit the context of the remote ${remote}.`,
      options,
    );
  }
  if (status === 404 || status === 405 || status === 501) return new RemoteFailure('unsupported', `${said}.`, options);
  return new RemoteFailure('refused', `${said}.`, options);
}

/** The error's own short name, only where it cannot be prose. */
function errorWord(body: unknown): string | undefined {
  for (const field of ['code', 'type'] as const) {
    const value: unknown = errorField(body, field);
    if (typeof value === 'string' && /^[\w.-]{1,48}$/u.test(value)) return value;
  }
  return undefined;
}

function errorField(body: unknown, field: string): unknown {
  if (typeof body !== 'object' || body === null) return undefined;
  const error: unknown = Reflect.get(body, 'error');
  // some servers put the fields at the top
  const holder = typeof error === 'object' && error !== null ? error : body;
  return Reflect.get(holder, field);
}

/** Servers agree on no code for it; their messages all speak of the context. */
function isContextError(body: unknown, word: string | undefined): boolean {
  if (word !== undefined && /context/iu.test(word)) return true;
  const message = errorField(body, 'message');
  return (
    typeof message === 'string' &&
    /context (?:length|size|window)|(?:maximum|max)(?:_model_len| model length)|too long/iu.test(
      message.slice(0, 1_000),
    )
  );
}
