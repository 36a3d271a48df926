/** Requests to one remote server with everything around them: circuit, retries, strict reading, counters. Knows no prompts. */
import { type AttemptsOptions, settle, withAttempts } from './attempts.ts';
import type { CallSignal } from './call-signal.ts';
import { CircuitBreaker } from './circuit-breaker.ts';
import { type CompletionChunk, readChunk } from './completion-chunk.ts';
import type { RemoteLimits } from './remote-config.ts';
import { RemoteFailure } from './remote-failure.ts';
import { parseJson, type RemoteHttp, type RemoteRoute } from './remote-http.ts';

export interface RemoteClientOptions {
  readonly http: RemoteHttp;
  readonly limits: RemoteLimits;
  readonly now: () => number;
  readonly random: () => number;
}

type Chunks = AsyncGenerator<CompletionChunk, void, undefined>;

interface StreamOptions {
  readonly call: CallSignal;
  /** What the server was asked for: a stream that goes on far beyond is ended. */
  readonly maxTokens: number;
}

interface AskOptions {
  readonly route: RemoteRoute;
  readonly body: unknown;
  readonly call: CallSignal;
  readonly isAside: boolean;
}

/** Events beyond the tokens asked for (roles, usage, progress) that a server may send. */
const SPARE_EVENTS = 1024;
/** More than the longest tokens of any vocabulary have. */
const MAX_TOKEN_CHARS = 256;

export class RemoteClient {
  readonly breaker: CircuitBreaker;
  numRequests = 0;
  numRetries = 0;
  numFailures = 0;
  readonly #http: RemoteHttp;
  readonly #limits: RemoteLimits;
  readonly #random: () => number;

  constructor({ http, limits, now, random }: RemoteClientOptions) {
    this.#http = http;
    this.#limits = limits;
    this.#random = random;
    this.breaker = new CircuitBreaker(http.name, limits, now);
  }

  get name(): string {
    return this.#http.name;
  }

  /** A JSON call that generates nothing, tried again where that can help. */
  ask(route: RemoteRoute, body: unknown, call: CallSignal): Promise<unknown> {
    return this.#askAs((answer) => answer, { route, body, call, isAside: true });
  }

  /** A whole answer of `chat/completions` or `completions`. */
  complete(route: RemoteRoute, body: unknown, call: CallSignal): Promise<CompletionChunk> {
    return this.#askAs((answer) => readChunk(this.name, answer), { route, body, call, isAside: false });
  }

  /**
   * The chunks of a streamed answer, tried again until the first with something in it; a failure behind that is thrown. Complete
   * once a chunk has told the finish, whatever comes behind. Leaving the iteration closes the connection.
   */
  async *stream(route: RemoteRoute, body: unknown, { call, maxTokens }: StreamOptions): Chunks {
    this.numRequests += 1;
    const { value: opened, pass } = await withAttempts(
      () => this.#begin(route, body, { call, maxTokens }),
      this.#attempts(call, false),
    );
    let hasFinished = false;
    try {
      let next: IteratorResult<CompletionChunk, void> = { value: opened.first, done: false };
      while (next.done !== true) {
        hasFinished ||= next.value.finish !== undefined;
        yield next.value;
        next = await opened.chunks.next();
      }
      if (!hasFinished) throw this.#endedEarly();
      pass.succeed();
    } catch (thrown) {
      // only its usage is lost
      if (hasFinished && thrown instanceof RemoteFailure) return pass.succeed();
      settle(pass, thrown);
      if (thrown instanceof RemoteFailure) this.numFailures += 1;
      throw thrown;
    } finally {
      // no effect where it was settled; who leaves early says nothing about the server
      pass.leave();
      await opened.chunks.return();
    }
  }

  async #askAs<T>(read: (answer: unknown) => T, { route, body, call, isAside }: AskOptions): Promise<T> {
    this.numRequests += 1;
    const { value, pass } = await withAttempts(
      async () => read(await this.#http.json(route, body, { signal: call.signal })),
      this.#attempts(call, isAside),
    );
    pass.succeed();
    return value;
  }

  async #begin(
    route: RemoteRoute,
    body: unknown,
    { call, maxTokens }: StreamOptions,
  ): Promise<{ readonly first: CompletionChunk; readonly chunks: Chunks }> {
    let hasBegun = false;
    const events = this.#http.stream(route, body, {
      signal: call.signal,
      patienceMs: () => (hasBegun ? this.#limits.stallMs : this.#limits.firstEventMs),
    });
    const chunks = this.#read(events, maxTokens);
    for (;;) {
      const { value, done } = await chunks.next();
      if (done === true) throw this.#endedEarly();
      if (isEmpty(value)) continue;
      hasBegun = true;
      return { first: value, chunks };
    }
  }

  async *#read(events: AsyncIterable<string>, maxTokens: number): Chunks {
    // what is passed on is kept by somebody, so it is bounded as a whole
    const maxChars = this.#limits.maxEventBytes + maxTokens * MAX_TOKEN_CHARS;
    let numTokens = 0;
    let numChars = 0;
    for await (const data of events) {
      const chunk = readChunk(this.name, parseJson(data));
      numTokens += Math.max(1, chunk.tokens?.length ?? chunk.logprobs?.length ?? 0);
      numChars += chunk.text.length + chunk.numReasoningChars;
      if (numTokens > maxTokens + SPARE_EVENTS || numChars > maxChars) {
        throw new RemoteFailure('malformed', `The remote ${this.name} goes on past the tokens that it was asked for.`);
      }
      yield chunk;
    }
  }

  #attempts(call: CallSignal, isAside: boolean): AttemptsOptions {
    return {
      breaker: this.breaker,
      limits: this.#limits,
      random: this.#random,
      call,
      isAside,
      onFailure: () => {
        this.numFailures += 1;
      },
      onRetry: () => {
        this.numRetries += 1;
      },
    };
  }

  #endedEarly(): RemoteFailure {
    return new RemoteFailure('broken', `The remote ${this.name} ended its answer before it was complete.`);
  }
}

/** Roles, keep-alive chunks, progress: nothing of the answer itself. Half a character has no text, but tokens or log-probabilities. */
function isEmpty({ text, numReasoningChars, finish, tokens, logprobs }: CompletionChunk): boolean {
  const numTokens = Math.max(tokens?.length ?? 0, logprobs?.length ?? 0);
  return text === '' && numReasoningChars === 0 && finish === undefined && numTokens === 0;
}
