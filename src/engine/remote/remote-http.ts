/**
 * The wire to one remote server: a keep-alive pool, JSON calls and event streams, with bounds on time and size. Knows no models
 * and no prompts. Everything that goes wrong is a `RemoteFailure`; an aborted call rejects with the signal's reason, and its
 * connection is closed at once.
 */
import { createParser } from 'eventsource-parser';
import { type Dispatcher, Pool } from 'undici';
import { Patience } from './patience.ts';
import { parseRemoteUrl, type RemoteAddress, type RemoteLimits } from './remote-config.ts';
import { failureOfStatus, RemoteFailure } from './remote-failure.ts';
import { readRetryAfter } from './retry.ts';

export interface RemoteHttpOptions {
  readonly url: string;
  readonly apiKey: string | undefined;
  readonly limits: RemoteLimits;
}

/** Where a route lies: below the OpenAI path, or beside it. */
export type RemoteRoute = { readonly api: string } | { readonly own: string };

interface Call {
  readonly route: RemoteRoute;
  readonly method: 'GET' | 'POST';
  readonly body?: unknown;
  readonly accept: string;
  readonly signal: AbortSignal;
}

/** Beside the requests of the engine: short calls for tokens and health must not wait behind long streams. */
const SPARE_CONNECTIONS = 8;
/** How long the end of an answered stream is awaited so that its connection can be used again. */
const TRAILER_MS = 1000;
const MAX_ERROR_BYTES = 65_536;

export class RemoteHttp {
  /** Host and port: how messages and metrics name the server. */
  readonly name: string;
  readonly #address: RemoteAddress;
  readonly #limits: RemoteLimits;
  readonly #pool: Pool;
  readonly #headers: Readonly<Record<string, string>>;

  constructor({ url, apiKey, limits }: RemoteHttpOptions) {
    this.#address = parseRemoteUrl(url);
    this.name = new URL(this.#address.origin).host;
    this.#limits = limits;
    this.#pool = new Pool(this.#address.origin, {
      connections: limits.maxConcurrent + SPARE_CONNECTIONS,
      pipelining: 1,
      connect: { timeout: limits.connectMs },
      keepAliveTimeout: 30_000,
      // the times that matter here are those between events, which undici does not know
      headersTimeout: 0,
      bodyTimeout: 0,
      maxHeaderSize: 65_536,
    });
    this.#headers = {
      'user-agent': 'stv-server',
      ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
    };
  }

  /** The parsed answer of a call that is not a stream. @param timeoutMs default: the time a first event may take */
  async json(
    route: RemoteRoute,
    body: unknown,
    { signal, timeoutMs = this.#limits.firstEventMs }: { readonly signal: AbortSignal; readonly timeoutMs?: number },
  ): Promise<unknown> {
    const own = new Patience(signal, timeoutMs, () => this.#silent(timeoutMs));
    try {
      const response = await this.#send({
        route,
        method: body === undefined ? 'GET' : 'POST',
        body,
        accept: 'application/json',
        signal: own.signal,
      });
      const text = await this.#readText(response, this.#limits.maxJsonBytes);
      const value = parseJson(text);
      if (response.statusCode !== 200) throw this.#statusFailure(response, value);
      if (value === undefined) throw this.#malformed('something that is not JSON');
      return value;
    } catch (thrown) {
      throw this.#failureOf(thrown, own.signal);
    } finally {
      own.stop();
    }
  }

  /**
   * The data of each event, without `[DONE]`, which ends the iteration like the end of the answer. Leaving early closes the
   * connection. Reading slowly costs no time: only waiting for the server does.
   * @param options.patienceMs asked before each wait: how long the server may take for the next event
   */
  async *stream(
    route: RemoteRoute,
    body: unknown,
    { signal, patienceMs }: { readonly signal: AbortSignal; readonly patienceMs: () => number },
  ): AsyncGenerator<string, void, undefined> {
    const firstMs = patienceMs();
    const clock = new Patience(signal, firstMs, () => this.#silent(firstMs));
    let isDone = false;
    let rest: AsyncIterator<Uint8Array> | undefined;
    try {
      const response = await this.#send({
        route,
        method: 'POST',
        body,
        accept: 'text/event-stream',
        signal: clock.signal,
      });
      if (response.statusCode !== 200) {
        const text = await this.#readText(response, MAX_ERROR_BYTES);
        throw this.#statusFailure(response, parseJson(text));
      }
      const type = String(response.headers['content-type'] ?? '');
      if (!/^text\/event-stream\b/iu.test(type)) {
        throw this.#malformed('something that is not an event stream');
      }
      const bytes = (response.body as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
      rest = bytes;
      const events: string[] = [];
      let isTooLong = false;
      const parser = createParser({
        maxBufferSize: this.#limits.maxEventBytes,
        onEvent: ({ data }) => events.push(data),
        onError: ({ type: kind }) => {
          if (kind === 'max-buffer-size-exceeded') isTooLong = true;
        },
      });
      const decoder = new TextDecoder();
      for (;;) {
        const { value, done } = await bytes.next();
        if (done === true) return;
        // a chunk that is already too long would be parsed as a whole
        if (value.length > this.#limits.maxEventBytes) isTooLong = true;
        else parser.feed(decoder.decode(value, { stream: true }));
        if (isTooLong) {
          throw this.#malformed(`an event of more than ${this.#limits.maxEventBytes} bytes`);
        }
        for (const data of events.splice(0)) {
          if (data.trim() === '[DONE]') {
            isDone = true;
            return;
          }
          clock.pause();
          yield data;
          const ms = patienceMs();
          clock.restart(ms, () => this.#silent(ms));
        }
      }
    } catch (thrown) {
      throw this.#failureOf(thrown, clock.signal);
    } finally {
      clock.pause();
      if (isDone && rest !== undefined) void finish(rest, clock);
      else clock.abandon();
    }
  }

  /** Closes every connection; what is still open breaks. */
  async close(): Promise<void> {
    await this.#pool.destroy();
  }

  async #send({ route, method, body, accept, signal }: Call): Promise<Dispatcher.ResponseData> {
    const path = 'api' in route ? this.#address.apiPath + route.api : this.#address.ownPath + route.own;
    return this.#pool.request({
      path,
      method,
      headers: {
        ...this.#headers,
        accept,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      body: body === undefined ? null : JSON.stringify(body),
      signal,
    });
  }

  async #readText(response: Dispatcher.ResponseData, maxBytes: number): Promise<string> {
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const part of response.body as AsyncIterable<Uint8Array>) {
      size += part.length;
      if (size > maxBytes) throw this.#malformed(`an answer of more than ${maxBytes} bytes`);
      parts.push(part);
    }
    return Buffer.concat(parts).toString('utf8');
  }

  #statusFailure({ statusCode, headers }: Dispatcher.ResponseData, body: unknown): RemoteFailure {
    return failureOfStatus(this.name, statusCode, { body, retryAfterMs: readRetryAfter(headers, Date.now()) });
  }

  #malformed(what: string): RemoteFailure {
    return new RemoteFailure('malformed', `The remote ${this.name} answered with ${what}.`);
  }

  #silent(ms: number): RemoteFailure {
    return new RemoteFailure('silent', `The remote ${this.name} has sent nothing for ${ms} ms.`);
  }

  #failureOf(thrown: unknown, signal: AbortSignal): unknown {
    if (signal.aborted) return signal.reason;
    if (thrown instanceof RemoteFailure) return thrown;
    const code = codeOf(thrown);
    const isBeforeConnection = code !== undefined && UNREACHABLE.has(code);
    return isBeforeConnection
      ? new RemoteFailure('unreachable', `The remote ${this.name} cannot be reached (${code}).`, { cause: thrown })
      : new RemoteFailure('broken', `The connection to the remote ${this.name} broke (${code ?? 'unknown reason'}).`, {
          cause: thrown,
        });
  }
}

const UNREACHABLE = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ETIMEDOUT',
  'UND_ERR_CONNECT_TIMEOUT',
]);

function codeOf(thrown: unknown): string | undefined {
  const code: unknown = thrown instanceof Error ? Reflect.get(thrown, 'code') : undefined;
  return typeof code === 'string' && /^[\w.-]{1,48}$/u.test(code) ? code : undefined;
}

export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** Reads what follows `[DONE]` (nothing, mostly) so that the connection goes back to the pool; closes it where that takes long. */
async function finish(bytes: AsyncIterator<Uint8Array>, clock: Patience): Promise<void> {
  clock.restart(TRAILER_MS, () => new Error('The end of the answer did not come.'));
  try {
    while ((await bytes.next()).done !== true);
    clock.stop();
  } catch {
    // the answer itself is complete
    clock.abandon();
  }
}
