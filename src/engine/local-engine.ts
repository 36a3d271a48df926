/**
 * `Engine` on this machine: prompts are encoded here, sequences run in the engine host, tokens become text again here. One object
 * owns every open request from its place in the queue to its one ending, whatever the host does in between.
 */
import { StvError, toStvError } from '../errors.ts';
import { Admission, type AdmissionLimits, DEFAULT_ADMISSION_LIMITS, type Ticket } from './admission.ts';
import type {
  Engine,
  EngineCallOptions,
  EngineStatus,
  GenerateRequest,
  GenerationEvent,
  ModelInfo,
  Prompt,
  ScoreRequest,
  ScoreResult,
} from './engine.ts';
import type { EngineStats, EngineStatsListener } from './engine-stats.ts';
import { GenerationStream } from './generation-stream.ts';
import { HostClient, type OpenSequence } from './host-client.ts';
import { type ForkHostOptions, forkHost, type SpawnHost } from './host-link.ts';
import type { HostModel, PromptRowResult, SequenceOutput, SequenceSpec } from './messages.ts';
import { checkSamplingParams, DEFAULT_SAMPLING } from './sampling-params.ts';
import { collectScore, planScore } from './score-plan.ts';
import { openTextService, type TextService } from './text-service.ts';

/** A model to serve. What is left out has a default that fits a small model on few cores. */
export interface LocalModel {
  /** Full name with digest, as answers report it. */
  readonly name: string;
  readonly aliases: readonly string[];
  readonly digest: string;
  /** Prepared model folder: weights and tokenizer files. */
  readonly dir: string;
  /** Cache slots; more than `maxLanes` keep more prefixes. Default 16. */
  readonly numSlots?: number;
  /** Tokens of prompt and output together; at most what the checkpoint allows. Default 2048. */
  readonly maxLength?: number;
  /** Sequences in one step. Default 16. */
  readonly maxLanes?: number;
  /** Tokens of one step. Default 512. */
  readonly maxBatchedTokens?: number;
  /** Prompt tokens of a step in which something decodes. Default 128. */
  readonly chunkTokens?: number;
  /** Default: one per physical core. */
  readonly threads?: number;
  readonly libraryPath?: string;
  /** Default true. */
  readonly reusePrefixes?: boolean;
}

export interface LocalEngineOptions {
  readonly models: readonly LocalModel[];
  readonly limits?: Partial<AdmissionLimits>;
  /** Silence of the host for so long while it has work means that it hangs. Default 60 s. */
  readonly hangAfterMs?: number;
  /** Default 10 minutes. */
  readonly loadTimeoutMs?: number;
  /** First pause before a crashed host is started again; doubles with every failure. Default 200 ms. */
  readonly minRestartDelayMs?: number;
  /** Default 30 s. */
  readonly maxRestartDelayMs?: number;
  readonly host?: ForkHostOptions;
  /** Tests: a host in place and a text side of their own. */
  readonly spawn?: SpawnHost;
  readonly text?: TextService;
  readonly now?: () => number;
}

/** Characters of a token before any prompt has told; English text has about four. */
const INITIAL_CHARS_PER_TOKEN = 3.5;

/** Starts the host and resolves when every model is ready. Rejects with the StvError that says why it cannot be. */
export async function startLocalEngine(options: LocalEngineOptions): Promise<LocalEngine> {
  const text = options.text ?? (await openTextService(options.models.map(({ dir }) => dir)));
  const engine = new LocalEngine(options, text);
  try {
    await engine.start();
  } catch (thrown) {
    await engine.close();
    throw thrown;
  }
  return engine;
}

export class LocalEngine implements Engine {
  readonly #models: readonly LocalModel[];
  readonly #text: TextService;
  readonly #host: HostClient;
  readonly #admission: Admission;
  readonly #now: () => number;
  /** Requests between their call and their end, for draining. */
  readonly #openRequests = new Set<object>();
  readonly #listeners = new Set<EngineStatsListener>();
  #charsPerToken = INITIAL_CHARS_PER_TOKEN;
  #isDraining = false;
  #onIdle: (() => void) | undefined;

  /** @see startLocalEngine */
  constructor(options: LocalEngineOptions, text: TextService) {
    this.#models = options.models;
    this.#text = text;
    this.#now = options.now ?? (() => performance.now());
    this.#admission = new Admission({ ...DEFAULT_ADMISSION_LIMITS, ...options.limits }, this.#now);
    this.#host = new HostClient({
      spawn: options.spawn ?? forkHost(options.host),
      models: options.models.map(toHostModel),
      names: options.models.map(({ name }) => name),
      hangAfterMs: options.hangAfterMs ?? 60_000,
      loadTimeoutMs: options.loadTimeoutMs ?? 600_000,
      minRestartDelayMs: options.minRestartDelayMs ?? 200,
      maxRestartDelayMs: options.maxRestartDelayMs ?? 30_000,
      now: this.#now,
      emit: (stats) => this.#emit(stats),
    });
  }

  start(): Promise<void> {
    return this.#host.start();
  }

  /** Process id of the engine host, for operators and tests. */
  get hostPid(): number | undefined {
    return this.#host.pid;
  }

  /** @returns a function that takes the listener off again */
  onStats(listener: EngineStatsListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  models(): readonly ModelInfo[] {
    return this.#models.map(({ name, aliases, digest }, index) => ({
      name,
      aliases,
      digest,
      contextLength: this.#contextLength(index),
      remote: false,
    }));
  }

  status(): EngineStatus {
    const { state, reason } = this.#host;
    const isDraining = this.#isDraining && state !== 'closed';
    const why = isDraining ? 'The engine finishes its open requests and takes no new ones.' : reason;
    return {
      state: isDraining ? 'draining' : state,
      ...(why === undefined ? {} : { reason: why }),
      running: this.#host.numRunning,
      waiting: this.#admission.queuedSequences,
      lastStepMsAgo: this.#ago(this.#host.lastStepAtMs),
      lastTokenMsAgo: this.#ago(this.#host.lastTokenAtMs),
    };
  }

  async *generate(request: GenerateRequest, { signal }: EngineCallOptions = {}): AsyncGenerator<GenerationEvent> {
    const requestedAtMs = this.#now();
    const model = this.#resolve(request.model);
    const { name } = this.#modelAt(model);
    let ticket: Ticket | undefined;
    let stream: GenerationStream | undefined;
    let sequence: OpenSequence | undefined;
    const owner = {};
    const deadline = watchDeadline(request.deadline, (error) => stream?.fail(error));
    const onAbort = (): void => stream?.finish('cancelled');
    signal?.addEventListener('abort', onAbort);
    this.#openRequests.add(owner);
    try {
      checkSamplingParams(request.sampling);
      this.#checkReady();
      ticket = this.#reserve(request.prompt, 1);
      deadline.check();
      const [prompt = new Int32Array(0)] = signal?.aborted ? [] : await this.#text.encode(model, request.prompt, ['']);
      deadline.check();
      if (signal?.aborted) {
        yield cancelledBeforeStart(name, prompt.length, this.#now() - requestedAtMs);
        return;
      }
      this.#learnCharsPerToken(request.prompt, prompt.length);
      ticket.setTokens(prompt.length);
      const maxTokens = this.#fitMaxTokens(model, request, prompt.length);
      const stopTokens = request.ignoreEos === true ? [] : this.#tableAt(model).stopTokenIds;
      stream = new GenerationStream({
        table: this.#tableAt(model),
        model: name,
        prompt,
        stop: request.stop,
        includeStop: request.includeStop ?? false,
        stopTokens,
        wantsLogprobs: request.logprobs !== undefined,
        wantsPromptLogprobs: request.promptLogprobs !== undefined,
        requestedAtMs,
        now: this.#now,
        onStart: () => ticket?.start(),
        onStopString: () => sequence !== undefined && this.#host.abort(sequence),
      });
      sequence = this.#host.send(model, stream, {
        prompt,
        maxTokens,
        stopTokens,
        sampling: request.sampling,
        priority: request.priority,
        logprobs: request.logprobs,
        promptRows: request.promptLogprobs === undefined ? [] : promptRowsOf(prompt, request.promptLogprobs),
      });
      stream.markSent();
      yield { type: 'start', promptTokens: prompt.length };
      for (;;) {
        const event = await stream.next();
        // before the event is handed over: whoever reads it may never come back
        if (event.type === 'end') this.#emitRequest('generate', event, stream.firstTokenMs);
        yield event;
        if (event.type === 'end') return;
      }
    } catch (thrown) {
      const error = toStvError(thrown);
      this.#emit({ type: 'error', model: name, code: error.code });
      throw error;
    } finally {
      deadline.stop();
      signal?.removeEventListener('abort', onAbort);
      if (sequence !== undefined) this.#host.abort(sequence);
      ticket?.release();
      this.#close(owner);
    }
  }

  async score(request: ScoreRequest, { signal }: EngineCallOptions = {}): Promise<ScoreResult> {
    const requestedAtMs = this.#now();
    const model = this.#resolve(request.model);
    const { name } = this.#modelAt(model);
    const open: OpenSequence[] = [];
    let ticket: Ticket | undefined;
    let rejectAll: (error: StvError) => void = () => {};
    const failed = new Promise<never>((_, reject) => {
      rejectAll = reject;
    });
    failed.catch(() => undefined); // may settle when nobody waits for it any more
    const owner = {};
    const deadline = watchDeadline(request.deadline, (error) => rejectAll(error));
    const onAbort = (): void => rejectAll(new StvError('cancelled', 'The request was cancelled.'));
    signal?.addEventListener('abort', onAbort);
    this.#openRequests.add(owner);
    try {
      checkCandidates(request.candidates);
      this.#checkReady();
      ticket = this.#reserve(request.prompt, 1);
      deadline.check();
      if (signal?.aborted) onAbort();
      const [prompt = new Int32Array(0), ...encodings] = await Promise.race([
        this.#text.encode(model, request.prompt, ['', ...request.candidates]),
        failed,
      ]);
      const plan = planScore(prompt, encodings);
      for (const { prompt: path } of plan.sequences) this.#checkContext(model, request.prompt, path.length + 1);
      ticket.setTokens(prompt.length);
      const sentAtMs = this.#now();
      let startedAtMs: number | undefined;
      let cachedTokens: number | undefined;
      const paths = plan.sequences.map((path) => {
        return new Promise<readonly PromptRowResult[]>((resolve, reject) => {
          const rows: PromptRowResult[] = [];
          const receive = (output: SequenceOutput): void => {
            if (output.started !== undefined) {
              ticket?.start();
              startedAtMs ??= Math.min(this.#now(), sentAtMs + output.started.waitedMs);
              cachedTokens ??= output.started.cachedTokens;
            }
            rows.push(...(output.promptRows ?? []));
            if (output.finish !== undefined) resolve(rows);
          };
          const spec = { ...SCORE_SPEC, ...path, priority: request.priority };
          open.push(this.#host.send(model, { push: receive, fail: reject }, spec));
        });
      });
      const results = await Promise.race([Promise.all(paths), failed]);
      const endMs = this.#now();
      const result: ScoreResult = {
        logprobs: collectScore(plan, encodings, results),
        usage: {
          promptTokens: prompt.length,
          cachedTokens: Math.min(cachedTokens ?? 0, prompt.length),
          completionTokens: 0,
          acceptedPredictionTokens: 0,
          rejectedPredictionTokens: 0,
        },
        timings: {
          queueMs: (startedAtMs ?? endMs) - requestedAtMs,
          prefillMs: endMs - (startedAtMs ?? endMs),
          decodeMs: 0,
        },
        model: name,
      };
      this.#emitRequest('score', { ...result, finishReason: 'length' }, endMs - requestedAtMs);
      return result;
    } catch (thrown) {
      const error = toStvError(thrown);
      this.#emit({ type: 'error', model: name, code: error.code });
      throw error;
    } finally {
      deadline.stop();
      signal?.removeEventListener('abort', onAbort);
      for (const sequence of open) this.#host.abort(sequence);
      ticket?.release();
      this.#close(owner);
    }
  }

  async tokenize(model: string, text: string): Promise<number[]> {
    return [...(await this.#text.tokenize(this.#resolve(model), text))];
  }

  detokenize(model: string, tokens: readonly number[]): Promise<string> {
    return this.#text.decode(this.#resolve(model), tokens);
  }

  async countTokens(model: string, prompt: Prompt): Promise<number> {
    const [tokens] = await this.#text.encode(this.#resolve(model), prompt, ['']);
    return tokens?.length ?? 0;
  }

  /** Takes no new request and resolves when the open ones have ended, or after `timeoutMs`. */
  async drain(timeoutMs = 30_000): Promise<void> {
    this.#isDraining = true;
    if (this.#openRequests.size === 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#onIdle = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Ends what is still open with `draining`, and the host. */
  async close(): Promise<void> {
    this.#isDraining = true;
    const error = new StvError('draining', 'The engine was closed before the request ended.');
    await Promise.all([this.#host.close(error), this.#text.close()]);
  }

  #resolve(name: string): number {
    const index = this.#models.findIndex((model) => model.name === name || model.aliases.includes(name));
    if (index < 0) {
      throw new StvError('model_not_found', `The model "${name}" is not served here.`, { param: 'model' });
    }
    return index;
  }

  /** As configured, until the host has told what the checkpoint allows. */
  #contextLength(model: number): number {
    return this.#host.limitsOf(model)?.maxLength ?? toHostModel(this.#modelAt(model)).maxLength;
  }

  #modelAt(index: number): LocalModel {
    const model = this.#models[index];
    if (model === undefined) throw new Error(`There is no model ${index}.`);
    return model;
  }

  #tableAt(index: number): TextService['tables'][number] {
    const table = this.#text.tables[index];
    if (table === undefined) throw new Error(`There is no token table ${index}.`);
    return table;
  }

  #checkReady(): void {
    if (this.#isDraining) throw new StvError('draining', 'The server is shutting down and takes no new requests.');
    this.#host.checkReady();
  }

  #reserve(prompt: Prompt, sequences: number): Ticket {
    const ticket = this.#admission.reserve({ sequences, estimatedTokens: this.#estimateTokens(prompt) });
    this.#emitQueue();
    return ticket;
  }

  #estimateTokens(prompt: Prompt): number {
    return prompt.kind === 'tokens' ? prompt.tokens.length : Math.ceil(charsOf(prompt) / this.#charsPerToken);
  }

  #learnCharsPerToken(prompt: Prompt, numTokens: number): void {
    if (prompt.kind === 'tokens' || numTokens === 0) return;
    const seen = Math.min(8, Math.max(0.5, charsOf(prompt) / numTokens));
    this.#charsPerToken += 0.05 * (seen - this.#charsPerToken);
  }

  /** Throws StvError `context_length_exceeded`. @param needed tokens that the slot has to have room for */
  #checkContext(model: number, prompt: Prompt, needed: number): void {
    const limit = this.#contextLength(model);
    if (needed <= limit) return;
    const param = prompt.kind === 'chat' ? 'messages' : 'prompt';
    throw new StvError(
      'context_length_exceeded',
      `The prompt is too long: it needs ${needed} tokens with its first answer token, the model's context holds ${limit}.`,
      { param },
    );
  }

  /** The output ends with `length` where the context ends. */
  #fitMaxTokens(model: number, request: GenerateRequest, numPromptTokens: number): number {
    if (numPromptTokens === 0) {
      throw new StvError('invalid_value', 'The prompt is empty: it has no token to continue from.', {
        param: 'prompt',
      });
    }
    this.#checkContext(model, request.prompt, numPromptTokens + (request.maxTokens > 0 ? 1 : 0));
    return Math.min(request.maxTokens, this.#contextLength(model) - numPromptTokens);
  }

  #close(owner: object): void {
    this.#openRequests.delete(owner);
    this.#emitQueue();
    if (this.#openRequests.size === 0) this.#onIdle?.();
  }

  #ago(atMs: number | undefined): number | null {
    return atMs === undefined ? null : Math.round(this.#now() - atMs);
  }

  #emitQueue(): void {
    if (this.#listeners.size === 0) return;
    const { queuedSequences, queuedTokens } = this.#admission;
    this.#emit({ type: 'queue', queuedRequests: queuedSequences, queuedTokens });
  }

  #emitRequest(
    kind: 'generate' | 'score',
    end: Pick<Extract<GenerationEvent, { type: 'end' }>, 'finishReason' | 'usage' | 'timings' | 'model'>,
    firstTokenMs: number | undefined,
  ): void {
    const { finishReason, usage, timings, model } = end;
    this.#emit({ type: 'request', model, kind, finishReason, usage, timings, firstTokenMs });
  }

  #emit(stats: EngineStats): void {
    for (const listener of this.#listeners) listener(stats);
  }
}

const SCORE_SPEC = { maxTokens: 0, stopTokens: [], sampling: DEFAULT_SAMPLING, logprobs: undefined } as const;

function toHostModel(model: LocalModel): HostModel {
  const maxLanes = model.maxLanes ?? 16;
  return {
    dir: model.dir,
    numSlots: model.numSlots ?? 16,
    maxLength: model.maxLength ?? 2048,
    maxLanes,
    maxBatchedTokens: Math.max(maxLanes, model.maxBatchedTokens ?? 512),
    chunkTokens: model.chunkTokens ?? 128,
    threads: model.threads,
    libraryPath: model.libraryPath,
    reusePrefixes: model.reusePrefixes ?? true,
  };
}

function charsOf(prompt: Exclude<Prompt, { kind: 'tokens' }>): number {
  if (prompt.kind === 'text') return prompt.text.length;
  return prompt.messages.reduce((sum, { content }) => sum + content.length + 16, prompt.assistantPrefix?.length ?? 0);
}

/** Every token but the first is a target of the row before it. */
function promptRowsOf(prompt: Int32Array, top: number): SequenceSpec['promptRows'] {
  return Array.from({ length: prompt.length - 1 }, (_, position) => ({
    position,
    targets: [prompt[position + 1] as number], // position + 1 < prompt.length
    top,
  }));
}

function checkCandidates(candidates: readonly string[]): void {
  if (candidates.length > 0 && new Set(candidates).size === candidates.length && !candidates.includes('')) return;
  throw new StvError('invalid_value', 'candidates must be one or more distinct texts that are not empty.', {
    param: 'candidates',
  });
}

function cancelledBeforeStart(model: string, promptTokens: number, queueMs: number): GenerationEvent {
  return {
    type: 'end',
    finishReason: 'cancelled',
    usage: {
      promptTokens,
      cachedTokens: 0,
      completionTokens: 0,
      acceptedPredictionTokens: 0,
      rejectedPredictionTokens: 0,
    },
    timings: { queueMs, prefillMs: 0, decodeMs: 0 },
    model,
  };
}

interface Deadline {
  /** Throws once it has passed. */
  check(): void;
  stop(): void;
}

/** @param deadline milliseconds since the epoch */
function watchDeadline(deadline: number | undefined, onPassed: (error: StvError) => void): Deadline {
  if (deadline === undefined) return { check: () => {}, stop: () => {} };
  const error = new StvError('deadline_exceeded', 'The deadline of the request passed before it was finished.');
  const timer = setTimeout(() => onPassed(error), Math.min(0x7fff_ffff, Math.max(0, deadline - Date.now())));
  return {
    check: () => {
      if (Date.now() >= deadline) throw error;
    },
    stop: () => clearTimeout(timer),
  };
}
