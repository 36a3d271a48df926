/**
 * `Engine` on another machine: any OpenAI-compatible server. One object for each remote model: it owns the pool, the turns, the
 * circuit and every open request from its place in the queue to its one ending.
 */
import { setMaxListeners } from 'node:events';
import { StvError, toStvError } from '../../errors.ts';
import type {
  Engine,
  EngineCallOptions,
  EngineStatus,
  GenerateRequest,
  GenerationEvent,
  ModelInfo,
  Prompt,
  RemoteStatus,
  ScoreRequest,
  ScoreResult,
  Timings,
} from '../engine.ts';
import { type EngineStatsListener, StatsListeners } from '../engine-stats.ts';
import { checkCandidates } from '../request-limits.ts';
import { checkSamplingParams } from '../sampling-params.ts';
import { TokenEstimate } from '../token-estimate.ts';
import { CallSignal } from './call-signal.ts';
import { type CompletionChunk, type ReportedUsage, usageOf } from './completion-chunk.ts';
import { PrefixEcho } from './prefix-echo.ts';
import type { RemoteProfile } from './probe.ts';
import { maxTokensOf } from './prompt-size.ts';
import { RemoteClient } from './remote-client.ts';
import type { RemoteLimits } from './remote-config.ts';
import { RemoteFailure } from './remote-failure.ts';
import type { RemoteHttp } from './remote-http.ts';
import { scoreByText, scoreByTokens } from './remote-score.ts';
import { type AskRemote, LlamaCppTokenizer, type RemoteTokenizer, VllmTokenizer } from './remote-tokenizer.ts';
import { generateCall } from './request-body.ts';
import { Turns } from './turns.ts';

export interface RemoteEngineOptions {
  /** Head of the model's full name, `pack/role`; what serves it is written behind an `@`. */
  readonly label: string;
  readonly aliases: readonly string[];
  /** Monotonic milliseconds. */
  readonly now?: () => number;
  readonly random?: () => number;
}

export interface RemoteEngineParts {
  readonly http: RemoteHttp;
  readonly limits: RemoteLimits;
  readonly profile: RemoteProfile;
}

/** A server that refuses to give log-probabilities so often in a row gives none; less may have had another reason. */
const MAX_LOGPROB_REFUSALS = 3;

export class RemoteEngine implements Engine {
  readonly #info: ModelInfo;
  readonly #profile: RemoteProfile;
  readonly #http: RemoteHttp;
  readonly #client: RemoteClient;
  readonly #turns: Turns;
  readonly #tokenizer: RemoteTokenizer | undefined;
  readonly #now: () => number;
  readonly #estimate = new TokenEstimate();
  readonly #closing = new AbortController();
  readonly #stats = new StatsListeners();
  #givesLogprobs = true;
  #numLogprobRefusals = 0;
  #numEstimatedUsages = 0;
  #lastTokenAtMs: number | undefined;

  /** @see startRemoteEngine */
  constructor(options: RemoteEngineOptions, { http, limits, profile }: RemoteEngineParts) {
    this.#now = options.now ?? (() => performance.now());
    this.#profile = profile;
    this.#http = http;
    const digest = `remote:${shortName(profile.model)}`;
    this.#info = {
      name: `${options.label}@${digest}`,
      aliases: options.aliases,
      digest,
      contextLength: profile.contextLength,
      remote: true,
    };
    this.#client = new RemoteClient({ http, limits, now: this.#now, random: options.random ?? Math.random });
    this.#turns = new Turns(limits);
    // every open request listens
    setMaxListeners(0, this.#closing.signal);
    this.#tokenizer = profile.hasTokenizer ? this.#openTokenizer() : undefined;
  }

  models(): readonly ModelInfo[] {
    return [this.#info];
  }

  /** @returns a function that takes the listener off again */
  onStats(listener: EngineStatsListener): () => void {
    return this.#stats.add(listener);
  }

  status(): EngineStatus {
    const { breaker } = this.#client;
    const isOpen = breaker.state === 'open';
    const isClosed = this.#closing.signal.aborted;
    const ago = this.#lastTokenAtMs === undefined ? null : Math.round(this.#now() - this.#lastTokenAtMs);
    return {
      state: isClosed ? 'closed' : isOpen ? 'restarting' : 'ready',
      ...(isOpen
        ? { reason: `The remote ${this.#http.name} has failed ${breaker.failuresInARow} times in a row.` }
        : {}),
      running: this.#turns.numRunning,
      waiting: this.#turns.numWaiting,
      lastStepMsAgo: ago,
      lastTokenMsAgo: ago,
      remotes: [this.#remoteStatus()],
    };
  }

  checkRoom(model: string): void {
    this.#resolve(model);
    this.#turns.checkRoom();
  }

  async *generate(request: GenerateRequest, { signal }: EngineCallOptions = {}): AsyncGenerator<GenerationEvent> {
    this.#resolve(request.model);
    const call = new CallSignal([signal, this.#closing.signal], request.deadline);
    const requestedAtMs = this.#now();
    const progress = new Progress(this.#estimated(request.prompt));
    let endTurn: (() => void) | undefined;
    try {
      checkSamplingParams(request.sampling);
      endTurn = await this.#turns.take(request.priority, call.signal);
      const { tokens, maxTokens } = await this.#fit(request, call);
      if (tokens !== undefined) progress.promptTokens = tokens.length;
      const { route, body, echoes } = generateCall(request, this.#profile, { maxTokens, tokens });
      const echo = new PrefixEcho(echoes);
      const sentAtMs = this.#now();
      progress.queueMs = sentAtMs - requestedAtMs;
      for await (const chunk of this.#client.stream(route, body, { call, maxTokens })) {
        this.#lastTokenAtMs = this.#now();
        progress.usage = chunk.usage ?? progress.usage;
        if (progress.firstAtMs === undefined) {
          progress.firstAtMs = this.#lastTokenAtMs;
          progress.prefillMs = progress.firstAtMs - sentAtMs;
          yield { type: 'start', promptTokens: progress.usage?.promptTokens ?? progress.promptTokens };
        }
        progress.numSeen +=
          chunk.tokens?.length ?? chunk.logprobs?.length ?? (chunk.text.length + chunk.numReasoningChars > 0 ? 1 : 0);
        const text = echo.push(chunk.text) + (chunk.finish === undefined ? '' : echo.flush());
        const delta = deltaOf(text, chunk, request.logprobs);
        if (delta !== undefined) yield delta;
        progress.finish = chunk.finish ?? progress.finish;
        progress.stop = chunk.stop ?? progress.stop;
      }
      const end = this.#endOf(progress, progress.finish ?? 'error');
      this.#learn(request.prompt, progress);
      this.#stats.emitRequest(
        'generate',
        end,
        progress.firstAtMs === undefined ? undefined : progress.firstAtMs - requestedAtMs,
      );
      yield end;
    } catch (thrown) {
      if (signal?.aborted === true) {
        const end = this.#endOf(progress, 'cancelled');
        this.#stats.emitRequest('generate', end, undefined);
        yield end;
        return;
      }
      throw this.#errorOf(thrown);
    } finally {
      // no abort: who leaves early has closed the stream by leaving it, and a whole answer's connection is to be used again
      call.release();
      endTurn?.();
    }
  }

  async score(request: ScoreRequest, { signal }: EngineCallOptions = {}): Promise<ScoreResult> {
    this.#resolve(request.model);
    const call = new CallSignal([signal, this.#closing.signal], request.deadline);
    const requestedAtMs = this.#now();
    let endTurn: (() => void) | undefined;
    try {
      checkCandidates(request.candidates);
      endTurn = await this.#turns.take(request.priority, call.signal);
      const sentAtMs = this.#now();
      const scored = await this.#scoreWithin(request, call);
      const endMs = this.#now();
      this.#lastTokenAtMs = endMs;
      if (scored.usage.isEstimated === true) this.#numEstimatedUsages += 1;
      const timings = { queueMs: sentAtMs - requestedAtMs, prefillMs: endMs - sentAtMs, decodeMs: 0 };
      const result: ScoreResult = { ...scored, timings, model: this.#info.name };
      this.#stats.emitRequest('score', { ...result, finishReason: 'length' }, endMs - requestedAtMs);
      return result;
    } catch (thrown) {
      throw this.#errorOf(thrown);
    } finally {
      call.release();
      endTurn?.();
    }
  }

  async tokenize(model: string, text: string): Promise<number[]> {
    this.#resolve(model);
    return [...(await this.#withTokenizer((tokenizer) => tokenizer.tokenize(text)))];
  }

  async detokenize(model: string, tokens: readonly number[]): Promise<string> {
    this.#resolve(model);
    return this.#withTokenizer((tokenizer) => tokenizer.detokenize(tokens));
  }

  /** Exact where the server encodes for us, else an upper bound from the bytes. */
  async countTokens(model: string, prompt: Prompt): Promise<number> {
    this.#resolve(model);
    if (this.#tokenizer === undefined) return maxTokensOf(prompt);
    const [tokens] = await this.#withTokenizer((tokenizer) => tokenizer.encode(prompt, ['']));
    return tokens?.length ?? 0;
  }

  /** Ends what is still open with `draining` and closes every connection. */
  async close(): Promise<void> {
    this.#closing.abort(new StvError('draining', 'The engine was closed before the request ended.'));
    await this.#http.close();
  }

  async #scoreWithin(
    request: ScoreRequest,
    call: CallSignal,
  ): Promise<Pick<ScoreResult, 'logprobs' | 'usage' | 'method'>> {
    const deps = { client: this.#client, profile: this.#profile, call };
    if (this.#tokenizer !== undefined && this.#givesLogprobs) {
      const encodings = await call.race(this.#tokenizer.encode(request.prompt, ['', ...request.candidates]));
      const longest = Math.max(...encodings.map(({ length }) => length));
      this.#checkContext(request.prompt, longest);
      const scored = await scoreByTokens(encodings, deps);
      if (scored !== undefined) return scored;
    }
    const { score, lacksLogprobs, hasRefused } = await scoreByText(request.prompt, request.candidates, {
      ...deps,
      withLogprobs: this.#givesLogprobs,
      estimate: { promptTokens: this.#estimated(request.prompt) },
    });
    this.#numLogprobRefusals = hasRefused ? this.#numLogprobRefusals + 1 : 0;
    if (lacksLogprobs || this.#numLogprobRefusals >= MAX_LOGPROB_REFUSALS) this.#givesLogprobs = false;
    return score;
  }

  /** The prompt's tokens where they are sent in its place, and the output's limit within the context. */
  async #fit(
    { prompt, maxTokens }: GenerateRequest,
    call: CallSignal,
  ): Promise<{ readonly tokens: Int32Array | undefined; readonly maxTokens: number }> {
    const { contextLength, dialect } = this.#profile;
    // with llama-server inert text is possible only in tokens; vLLM is asked only when it matters
    const isNear = maxTokensOf(prompt) + maxTokens > contextLength;
    if (this.#tokenizer === undefined || (dialect !== 'llama.cpp' && !isNear)) return { tokens: undefined, maxTokens };
    const [tokens = new Int32Array(0)] = await call.race(this.#tokenizer.encode(prompt, ['']));
    this.#checkContext(prompt, tokens.length + 1);
    const fitted = Math.min(maxTokens, contextLength - tokens.length);
    return { tokens: dialect === 'llama.cpp' ? tokens : undefined, maxTokens: fitted };
  }

  #checkContext(prompt: Prompt, needed: number): void {
    const { contextLength } = this.#profile;
    if (needed <= contextLength) return;
    throw new StvError(
      'context_length_exceeded',
      `The prompt is too long: it needs ${needed} tokens with its first answer token, the model's context holds ${contextLength}.`,
      { param: prompt.kind === 'chat' ? 'messages' : 'prompt' },
    );
  }

  #openTokenizer(): RemoteTokenizer {
    const ask: AskRemote = async (route, body) => {
      const call = new CallSignal([this.#closing.signal]);
      try {
        return await this.#client.ask(route, body, call);
      } finally {
        call.release();
      }
    };
    const { dialect, model, templateFields } = this.#profile;
    const named = { remote: this.#http.name, model, templateFields };
    return dialect === 'llama.cpp'
      ? new LlamaCppTokenizer(named, ask, this.#now)
      : new VllmTokenizer(named, ask, this.#now);
  }

  async #withTokenizer<T>(use: (tokenizer: RemoteTokenizer) => Promise<T>): Promise<T> {
    if (this.#tokenizer === undefined) {
      throw new StvError(
        'unsupported_parameter',
        'The remote server behind this model does not encode or decode text for others.',
        { param: 'model' },
      );
    }
    try {
      return await use(this.#tokenizer);
    } catch (thrown) {
      throw this.#errorOf(thrown);
    }
  }

  #resolve(name: string): void {
    if (name === this.#info.name || this.#info.aliases.includes(name)) return;
    throw new StvError('model_not_found', `The model "${name}" is not served here.`, { param: 'model' });
  }

  #endOf(progress: Progress, finishReason: 'stop' | 'length' | 'cancelled' | 'error'): EndEvent {
    const usage = usageOf(progress.usage, { promptTokens: progress.promptTokens, completionTokens: progress.numSeen });
    if (usage.isEstimated === true && finishReason !== 'cancelled') this.#numEstimatedUsages += 1;
    const { stop, queueMs, prefillMs, firstAtMs } = progress;
    const timings: Timings = { queueMs, prefillMs, decodeMs: firstAtMs === undefined ? 0 : this.#now() - firstAtMs };
    return {
      type: 'end',
      finishReason,
      ...(stop === undefined || finishReason !== 'stop' ? {} : { stop }),
      usage,
      timings,
      model: this.#info.name,
    };
  }

  #learn(prompt: Prompt, { usage }: Progress): void {
    if (usage !== undefined) this.#estimate.learn(prompt, usage.promptTokens);
  }

  #errorOf(thrown: unknown): StvError {
    const error = thrown instanceof RemoteFailure ? thrown.toStvError() : toStvError(thrown);
    this.#stats.emit({ type: 'error', model: this.#info.name, code: error.code });
    return error;
  }

  #remoteStatus(): RemoteStatus {
    const { breaker, numRequests, numRetries, numFailures } = this.#client;
    return {
      remote: this.#http.name,
      model: this.#profile.model,
      dialect: this.#profile.dialect,
      circuit: breaker.state,
      failuresInARow: breaker.failuresInARow,
      circuitOpened: breaker.numOpened,
      running: this.#turns.numRunning,
      waiting: this.#turns.numWaiting,
      requests: numRequests,
      retries: numRetries,
      failures: numFailures,
      estimatedUsages: this.#numEstimatedUsages,
    };
  }

  #estimated(prompt: Prompt): number {
    return prompt.kind === 'tokens' ? prompt.tokens.length : Math.max(1, Math.round(this.#estimate.of(prompt)));
  }
}

type EndEvent = Extract<GenerationEvent, { type: 'end' }>;

/** undefined where the chunk tells nothing that was asked for. Half a character, or a beginning that is held back, has no text yet. */
function deltaOf(
  text: string,
  { tokens = [], logprobs = [] }: CompletionChunk,
  numAlternatives: number | undefined,
): GenerationEvent | undefined {
  const wanted =
    numAlternatives === undefined
      ? {}
      : { logprobs: logprobs.map((one) => ({ ...one, top: one.top.slice(0, numAlternatives) })) };
  if (text === '' && tokens.length === 0 && (wanted.logprobs?.length ?? 0) === 0) return undefined;
  return { type: 'delta', text, tokens, ...wanted };
}

/** What is known of an answer so far. */
class Progress {
  promptTokens: number;
  usage: ReportedUsage | undefined;
  /** Tokens, or chunks where the server does not tell tokens apart. */
  numSeen = 0;
  finish: 'stop' | 'length' | undefined;
  stop: string | undefined;
  queueMs = 0;
  prefillMs = 0;
  firstAtMs: number | undefined;

  constructor(promptTokens: number) {
    this.promptTokens = promptTokens;
  }
}

/** A file's path says nothing to others; other names stay whole. */
function shortName(model: string): string {
  return /^(?:\/|[A-Za-z]:\\|\.)/u.test(model) ? (model.split(/[\\/]/u).at(-1) ?? model) : model;
}
