/**
 * Every failure that a caller can meet, as one class with a stable code. A leaf: imports nothing of ours.
 * What a code means on the wire (status, `type`) is decided in `routes/error-handler.ts` alone.
 */

/** Codes are API: clients and tests match on them. */
export type ErrorCode =
  // the request
  | 'invalid_value'
  | 'unknown_field'
  | 'context_length_exceeded'
  | 'unsupported_parameter'
  | 'model_not_found'
  | 'not_found'
  | 'conflict'
  | 'idempotency_key_reused'
  | 'invalid_api_key'
  | 'insufficient_scope'
  // the moment
  | 'queue_full'
  | 'quota_exceeded'
  | 'not_ready'
  | 'draining'
  | 'engine_crashed'
  | 'storage_full'
  | 'request_quarantined'
  | 'remote_unavailable'
  | 'deadline_exceeded'
  | 'cancelled'
  // what lies on disk or in the machine
  | 'pack_invalid'
  | 'checkpoint_invalid'
  | 'architecture_unsupported'
  | 'download_failed'
  | 'disk_full'
  | 'config_invalid'
  | 'model_load_failed'
  | 'device_unavailable'
  | 'device_lost'
  | 'runtime_failed'
  | 'internal';

/** A limit by its name in the configuration and its value. */
export interface ReachedLimit {
  readonly name: string;
  readonly value: number;
}

export interface StvErrorOptions {
  /** Path of the field of the request that is wrong, as the client spelled it. */
  readonly param?: string;
  /** After how many milliseconds trying again can help. */
  readonly retryAfterMs?: number;
  /** The limit that was reached, for programs. */
  readonly limit?: ReachedLimit;
  readonly cause?: unknown;
}

/** The one error class. `message` is a full sentence for the person who has to act on it and never holds user text. */
export class StvError extends Error {
  readonly code: ErrorCode;
  readonly param: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly limit: ReachedLimit | undefined;

  constructor(code: ErrorCode, message: string, options: StvErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'StvError';
    this.code = code;
    this.param = options.param;
    this.retryAfterMs = options.retryAfterMs;
    this.limit = options.limit;
  }
}

/** The failure of a run: an error that is not ours may hold anything, and is not passed on. */
export function runFailure(thrown: unknown): StvError {
  return toStvError(thrown, 'internal', 'The run failed because of a defect of the server.');
}

/** Wraps anything thrown into an StvError, keeping one that already is. `words` take the place of a foreign message where a caller sees it. */
export function toStvError(thrown: unknown, code: ErrorCode = 'internal', words?: string): StvError {
  if (thrown instanceof StvError) return thrown;
  const message = words ?? (thrown instanceof Error ? thrown.message : String(thrown));
  return new StvError(code, message, { cause: thrown });
}
