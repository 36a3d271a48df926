/** What is to be known about a remote server before it is asked anything, and the bounds of its limits. Opens no connection. */
import { StvError } from '../../errors.ts';

/** How a server wants to be spoken to beyond the common OpenAI fields; `auto` asks it at the start. */
export const REMOTE_DIALECTS = ['auto', 'vllm', 'llama.cpp', 'openai'] as const;
export type RemoteDialect = (typeof REMOTE_DIALECTS)[number];

export interface RemoteConfig {
  /** Base address with the version path, `http://host:8000/v1`. Nothing else is ever contacted. */
  readonly url: string;
  /** The name the server knows the model by; may be left out where it serves exactly one. */
  readonly model?: string | undefined;
  /** Sent as a bearer token. Comes from the environment, never from a file of a pack. */
  readonly apiKey?: string | undefined;
  readonly dialect?: RemoteDialect | undefined;
  /** Tokens of prompt and output together, where the server does not tell. */
  readonly contextLength?: number | undefined;
  /** Given to the server's chat template, e.g. `enable_thinking`; the plain OpenAI dialect has no place for them. */
  readonly templateVariables?: Readonly<Record<string, unknown>> | undefined;
  readonly limits?: Partial<RemoteLimits> | undefined;
}

/** Times in milliseconds, sizes in bytes. */
export interface RemoteLimits {
  /** Requests that the server gets at the same time. */
  readonly maxConcurrent: number;
  /** Requests that wait here for their turn; what comes next is refused with `queue_full`. */
  readonly maxQueued: number;
  readonly connectMs: number;
  /** From the request to the first event of its answer: queueing and prefill of the server included. */
  readonly firstEventMs: number;
  /** Between two events of an answer, whatever else the server sends meanwhile. */
  readonly stallMs: number;
  /** One event of a stream. */
  readonly maxEventBytes: number;
  /** An answer that is not a stream. */
  readonly maxJsonBytes: number;
  /** Further attempts of a request of which nothing has been streamed. */
  readonly maxRetries: number;
  readonly minRetryDelayMs: number;
  /** A server that asks for a longer pause is not asked again. */
  readonly maxRetryDelayMs: number;
  /** Failures in a row that open the circuit. */
  readonly failureThreshold: number;
  /** How long the circuit stays open at first; doubles with each trial that fails. */
  readonly minOpenMs: number;
  readonly maxOpenMs: number;
}

export const DEFAULT_REMOTE_LIMITS: RemoteLimits = {
  maxConcurrent: 64,
  maxQueued: 1024,
  connectMs: 5_000,
  firstEventMs: 300_000,
  stallMs: 60_000,
  maxEventBytes: 1_048_576,
  maxJsonBytes: 16_777_216,
  maxRetries: 2,
  minRetryDelayMs: 250,
  maxRetryDelayMs: 10_000,
  failureThreshold: 5,
  minOpenMs: 2_000,
  maxOpenMs: 60_000,
};

/** Used where neither the server nor the configuration tells. */
export const DEFAULT_REMOTE_CONTEXT = 32_768;

/** Addresses below which a server's routes lie. */
export interface RemoteAddress {
  readonly origin: string;
  /** Path of the OpenAI routes without a slash at the end, `/v1`. */
  readonly apiPath: string;
  /** Path of the server's own routes (`/tokenize`, `/props`), the part before `/v1`. */
  readonly ownPath: string;
}

/** Throws StvError `config_invalid` for anything but a plain http or https address. */
export function parseRemoteUrl(text: string): RemoteAddress {
  let url: URL;
  try {
    url = new URL(text);
  } catch (cause) {
    throw new StvError('config_invalid', `"${text}" is not the address of a remote server.`, { cause });
  }
  // before any message shows the address: it would show the password
  if (url.username !== '' || url.password !== '') {
    throw new StvError(
      'config_invalid',
      `The address of the remote server at ${url.host} holds a name or password; put the key into the environment.`,
    );
  }
  if ((url.protocol !== 'http:' && url.protocol !== 'https:') || url.search !== '' || url.hash !== '') {
    throw new StvError(
      'config_invalid',
      `"${text}" is not the address of a remote server: it must be http or https, without a query.`,
    );
  }
  const apiPath = url.pathname.replace(/\/+$/u, '');
  return { origin: url.origin, apiPath, ownPath: apiPath.replace(/\/v1$/u, '') };
}

/** The defaults with what a configuration names instead. Throws StvError `config_invalid`. */
export function resolveLimits(given: Partial<RemoteLimits> = {}): RemoteLimits {
  const limits = { ...DEFAULT_REMOTE_LIMITS, ...given };
  for (const [name, value] of Object.entries(limits)) {
    const minimum = name === 'maxQueued' || name === 'maxRetries' || name === 'minRetryDelayMs' ? 0 : 1;
    if (Number.isInteger(value) && value >= minimum && value <= 0x7fff_ffff) continue;
    throw new StvError('config_invalid', `${name} of a remote must be a whole number from ${minimum}, got ${value}.`);
  }
  return limits;
}
