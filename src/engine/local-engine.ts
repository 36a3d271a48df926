/**
 * `Engine` on this machine: prompts are encoded here, sequences run in the engine host, tokens become text again here. One object
 * owns every open request from its place in the queue to its one ending, whatever the host does in between.
 */
import { StvError, toStvError } from '../errors.ts';
import type { DeviceName } from '../models/open-on-device.ts';
import { Admission, type AdmissionLimits, DEFAULT_ADMISSION_LIMITS } from './admission.ts';
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
  Usage,
} from './engine.ts';
import { type EngineStatsListener, StatsListeners } from './engine-stats.ts';
import { GenerationStream } from './generation-stream.ts';
import { HostClient } from './host-client.ts';
import { type ForkHostOptions, forkHost, type SpawnHost } from './host-link.ts';
import type { InterruptionSources } from './interruption.ts';
import type { HostModel, SequenceSpec } from './messages.ts';
import { OpenRequest } from './open-request.ts';
import { residentBytesOf } from './process-memory.ts';
import { checkCandidates, checkPrompt, fitMaxTokens, type ModelLimits } from './request-limits.ts';
import { checkSamplingParams } from './sampling-params.ts';
import { collectScore, numPromptTokens, planScore } from './score-plan.ts';
import { ScoreReader } from './score-reader.ts';
import { checkTokenIds } from './text-encoding.ts';
import { openTextService, type TextService } from './text-service.ts';
import { TokenEstimate } from './token-estimate.ts';

/** A model to serve. What is left out has a default that fits a small model on few cores. */
export interface LocalModel {
  /** Full name with digest, as answers report it. */
  readonly name: string;
  readonly aliases: readonly string[];
  readonly digest: string;
  /** Prepared model folder: weights and tokenizer files. */
  readonly dir: string;
  /** What the chat template is given beside the messages. */
  readonly templateVariables?: Readonly<Record<string, unknown>> | undefined;
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
  /** How keys and values are cached; absent: as `auto`. */
  readonly kv?: 'auto' | 'fp32' | 'int8';
  readonly libraryPath?: string;
  /** Default true. */
  readonly reusePrefixes?: boolean;
  /** Guess what a text repeats and verify several tokens in one step. Default true. */
  readonly drafting?: boolean;
  /** Default 'cpu'. */
  readonly device?: DeviceName;
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
  /** Default 5 s: a host that can serve is back soon even after many failures, and a loop of crashes costs little. */
  readonly maxRestartDelayMs?: number;
  readonly host?: ForkHostOptions;
  /** Tests: a host in place and a text side of their own. */
  readonly spawn?: SpawnHost;
  readonly text?: TextService;
  readonly now?: () => number;
}

/** Starts the host and resolves when every model is ready. Rejects with the StvError that says why it cannot be. */
export async function startLocalEngine(options: LocalEngineOptions): Promise<LocalEngine> {
  const engine = new LocalEngine(options);
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
  readonly #openText: () => Promise<TextService>;
  #openedText: TextService | undefined;
  readonly #host: HostClient;
  readonly #admission: Admission;
  readonly #now: () => number;
  /** Requests between their call and their end, for draining. */
  readonly #openRequests = new Set<OpenRequest>();
  readonly #stats = new StatsListeners();
  readonly #estimate = new TokenEstimate();
  #isDraining = false;
  #onIdle: (() => void) | undefined;

  /** @see startLocalEngine */
  constructor(options: LocalEngineOptions) {
    this.#models = options.models;
    this.#openText = async () => options.text ?? openTextService(options.models);
    this.#now = options.now ?? (() => performance.now());
    this.#admission = new Admission({ ...DEFAULT_ADMISSION_LIMITS, ...options.limits }, this.#now);
    this.#host = new HostClient({
      spawn: options.spawn ?? forkHost(options.host),
      models: options.models.map(toHostModel),
      names: options.models.map(({ name }) => name),
      hangAfterMs: options.hangAfterMs ?? 60_000,
      loadTimeoutMs: options.loadTimeoutMs ?? 600_000,
      minRestartDelayMs: options.minRestartDelayMs ?? 200,
      maxRestartDelayMs: options.maxRestartDelayMs ?? 5_000,
      now: this.#now,
      emit: (stats) => this.#stats.emit(stats),
    });
  }

  /** Tokenizer and host load side by side; both have ended, well or badly, when this settles. */
  async start(): Promise<void> {
    const open = this.#openText().then((text) => {
      this.#openedText = text;
    });
    for (const result of await Promise.allSettled([open, this.#host.start()])) {
      if (result.status === 'rejected') throw result.reason;
    }
  }

  get #text(): TextService {
    if (this.#openedText === undefined) throw new StvError('not_ready', 'The engine is still loading.');
    return this.#openedText;
  }

  /** Process id of the engine host, for operators and tests. */
  get hostPid(): number | undefined {
    return this.#host.pid;
  }

  /** Resident bytes of the engine host; undefined while there is none or where the system does not tell. */
  residentBytes(): number | undefined {
    return residentBytesOf(this.#host.pid);
  }

  /** @returns a function that takes the listener off again */
  onStats(listener: EngineStatsListener): () => void {
    return this.#stats.add(listener);
  }

  models(): readonly ModelInfo[] {
    return this.#models.map(({ name, aliases, digest }, index) => ({
      name,
      aliases,
      digest,
      contextLength: this.#limits(index).contextLength,
      remote: false,
      device: this.#host.limitsOf(index)?.device,
      warning: this.#host.limitsOf(index)?.warning,
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
    const model = this.#resolve(request.model);
    const open = this.#open(model, { signal, deadline: request.deadline });
    let stream: GenerationStream | undefined;
    try {
      checkSamplingParams(request.sampling);
      checkTokenIds(request.sampling.logitBias?.keys() ?? [], this.#tableOf(model).vocabSize, 'logit_bias');
      const [prompt] = await this.#encode(open, request, ['']);
      const maxTokens = fitMaxTokens(request, prompt, this.#limits(model));
      const prediction = await this.#encodePrediction(open, request.prediction, maxTokens);
      stream = this.#stream(open, { request, prompt, maxTokens, prediction });
      yield { type: 'start', promptTokens: prompt.length };
      for (;;) {
        const event = await stream.next();
        if (event.type === 'end') {
          // first of all: whoever reads the end may never come back for more
          open.close();
          this.#stats.emitRequest('generate', event, stream.firstTokenMs);
        }
        yield event;
        if (event.type === 'end') return;
      }
    } catch (thrown) {
      const error = toStvError(thrown);
      open.close();
      if (error.code === 'cancelled' && stream === undefined) {
        const end = cancelledBeforeStart(open.name, this.#now() - open.requestedAtMs);
        this.#stats.emitRequest('generate', end, undefined);
        yield end;
        return;
      }
      this.#stats.emit({ type: 'error', model: open.name, code: error.code });
      throw error;
    } finally {
      open.close();
    }
  }

  async score(request: ScoreRequest, { signal }: EngineCallOptions = {}): Promise<ScoreResult> {
    const model = this.#resolve(request.model);
    const open = this.#open(model, { signal, deadline: request.deadline });
    try {
      checkCandidates(request.candidates);
      const { priority, shareKey, isContinuation = false } = request;
      const [prompt, ...encodings] = await this.#encode(open, request, ['', ...request.candidates]);
      const limits = this.#limits(model);
      for (const encoding of [prompt, ...encodings])
        checkPrompt(request.prompt, encoding, { limits, numOutputTokens: 0 });
      const plan = planScore(prompt, encodings);
      const { start: onStart } = open;
      const order = { priority, shareKey, isContinuation };
      const reader = new ScoreReader({ host: this.#host, model, ...order, now: this.#now, onStart });
      open.onClose(() => reader.close());
      const results = await open.interruption.race(reader.read(plan));
      const endMs = this.#now();
      const startedAtMs = reader.startedAtMs ?? endMs;
      const result: ScoreResult = {
        logprobs: collectScore(plan, encodings, results),
        usage: { ...NO_USAGE, promptTokens: numPromptTokens(plan), cachedTokens: reader.cachedTokens },
        timings: { queueMs: startedAtMs - open.requestedAtMs, prefillMs: endMs - startedAtMs, decodeMs: 0 },
        model: open.name,
      };
      this.#stats.emitRequest('score', { ...result, finishReason: 'length' }, endMs - open.requestedAtMs);
      return result;
    } catch (thrown) {
      const error = toStvError(thrown);
      this.#stats.emit({ type: 'error', model: open.name, code: error.code });
      throw error;
    } finally {
      open.close();
    }
  }

  async tokenize(model: string, text: string): Promise<number[]> {
    return [...(await this.#text.tokenize(this.#resolve(model), text))];
  }

  async detokenize(model: string, tokens: readonly number[]): Promise<string> {
    const index = this.#resolve(model);
    // under which name the caller gave them, only the caller knows
    checkTokenIds(tokens, this.#tableOf(index).vocabSize);
    return this.#text.decode(index, tokens);
  }

  async countTokens(model: string, prompt: Prompt, { signal }: EngineCallOptions = {}): Promise<number> {
    const [tokens] = await this.#text.encode(this.#resolve(model), prompt, [''], signal);
    return tokens?.length ?? 0;
  }

  checkRoom(model: string, shareKey?: string): void {
    this.#resolve(model);
    this.#admission.check({ sequences: 1, estimatedTokens: 0, shareKey });
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
    await Promise.all([this.#host.close(error), this.#openedText?.close()]);
  }

  #resolve(name: string): number {
    const index = this.#models.findIndex((model) => model.name === name || model.aliases.includes(name));
    if (index < 0) {
      throw new StvError('model_not_found', `The model "${name}" is not served here.`, { param: 'model' });
    }
    return index;
  }

  #modelAt(index: number): LocalModel {
    const model = this.#models[index];
    if (model === undefined) throw new Error(`There is no model ${index}.`);
    return model;
  }

  #tableOf(model: number): TextService['tables'][number] {
    const table = this.#text.tables[model];
    if (table === undefined) throw new Error(`There is no token table ${model}.`);
    return table;
  }

  /** As configured, until the host has told what the checkpoint allows. */
  #limits(model: number): ModelLimits {
    const known = this.#host.limitsOf(model);
    const contextLength = known?.maxLength ?? toHostModel(this.#modelAt(model)).maxLength;
    return { contextLength, vocabSize: known?.vocabSize };
  }

  #open(model: number, sources: InterruptionSources): OpenRequest {
    const open = new OpenRequest({
      onStart: () => this.#emitQueue(),
      model,
      name: this.#modelAt(model).name,
      requestedAtMs: this.#now(),
      ...sources,
    });
    this.#openRequests.add(open);
    open.onClose(() => {
      this.#openRequests.delete(open);
      this.#emitQueue();
      if (this.#openRequests.size === 0) this.#onIdle?.();
    });
    return open;
  }

  /** Reserves a place, at once, and then encodes the prompt with each continuation. */
  async #encode(
    open: OpenRequest,
    { prompt, shareKey, isContinuation }: Pick<ScoreRequest, 'prompt' | 'shareKey' | 'isContinuation'>,
    continuations: readonly string[],
  ): Promise<Encodings> {
    if (this.#isDraining) throw new StvError('draining', 'The server is shutting down and takes no new requests.');
    this.#host.checkReady();
    const estimatedTokens = Math.ceil(this.#estimate.of(prompt));
    open.hold(this.#admission.reserve({ sequences: 1, estimatedTokens, shareKey, isContinuation }));
    this.#emitQueue();
    const { interruption } = open;
    const encoding = this.#text.encode(open.model, prompt, continuations, interruption.signal);
    const encodings = await interruption.race(encoding);
    const [first = new Int32Array(0), ...others] = encodings;
    this.#estimate.learn(prompt, first.length);
    open.setTokens(first.length);
    this.#emitQueue();
    return [first, ...others];
  }

  /** As far as the output can reach it. */
  async #encodePrediction(
    open: OpenRequest,
    text: string | undefined,
    maxTokens: number,
  ): Promise<Int32Array | undefined> {
    if (text === undefined || text === '' || this.#modelAt(open.model).drafting === false) return undefined;
    const reachable = text.slice(0, maxTokens * MAX_CHARACTERS_PER_PREDICTED_TOKEN);
    return open.interruption.race(this.#text.tokenize(open.model, reachable, open.interruption.signal));
  }

  /** Hands the sequence to the host; from here on the stream tells what becomes of it. */
  #stream(
    open: OpenRequest,
    {
      request,
      prompt,
      maxTokens,
      prediction,
    }: { request: GenerateRequest; prompt: Int32Array; maxTokens: number; prediction: Int32Array | undefined },
  ): GenerationStream {
    const table = this.#tableOf(open.model);
    const stopTokens = request.ignoreEos === true ? [] : table.stopTokenIds;
    const { stop, includeStop = false, logprobs, promptLogprobs, sampling, priority, shareKey } = request;
    const { isContinued = false } = request;
    const stream = new GenerationStream({
      table,
      model: open.name,
      prompt,
      stop,
      includeStop,
      stopTokens,
      wantsLogprobs: logprobs !== undefined,
      wantsPromptLogprobs: promptLogprobs !== undefined,
      requestedAtMs: open.requestedAtMs,
      now: this.#now,
      onStart: open.start,
      onStopString: () => this.#host.complete(sequence),
    });
    const promptRows = promptLogprobs === undefined ? [] : promptRowsOf(prompt, promptLogprobs);
    const expected = prediction === undefined ? {} : { prediction };
    const order = { priority, shareKey, isContinued };
    const spec = { prompt, maxTokens, stopTokens, sampling, ...order, logprobs, promptRows, ...expected };
    const sequence = this.#host.send(open.model, stream, spec);
    stream.markSent();
    open.onClose(() => this.#host.abort(sequence));
    open.interruption.onInterrupt((error) => {
      this.#host.abort(sequence); // now, not when the reader comes back
      if (error.code === 'cancelled') stream.finish('cancelled');
      else stream.fail(error);
    });
    return stream;
  }

  #ago(atMs: number | undefined): number | null {
    return atMs === undefined ? null : Math.round(this.#now() - atMs);
  }

  #emitQueue(): void {
    if (this.#stats.isEmpty) return;
    const { queuedSequences, queuedTokens } = this.#admission;
    this.#stats.emit({ type: 'queue', queuedRequests: queuedSequences, queuedTokens });
  }
}

/** English has four to five; what lies behind is not worth encoding. */
const MAX_CHARACTERS_PER_PREDICTED_TOKEN = 16;

/** The prompt's own encoding and that of each continuation. */
type Encodings = readonly [Int32Array, ...Int32Array[]];

/** Tokens of a sequence where neither the operator nor the pack says anything; a checkpoint may hold fewer. */
export const DEFAULT_CONTEXT = 2048;

function toHostModel(model: LocalModel): HostModel {
  const maxLanes = model.maxLanes ?? 16;
  return {
    dir: model.dir,
    numSlots: model.numSlots ?? 16,
    maxLength: model.maxLength ?? DEFAULT_CONTEXT,
    maxLanes,
    maxBatchedTokens: Math.max(maxLanes, model.maxBatchedTokens ?? 512),
    chunkTokens: model.chunkTokens ?? 128,
    threads: model.threads,
    kv: model.kv,
    libraryPath: model.libraryPath,
    reusePrefixes: model.reusePrefixes ?? true,
    drafting: model.drafting ?? true,
    device: model.device ?? 'cpu',
  };
}

/** Every token but the first is a target of the row before it. */
function promptRowsOf(prompt: Int32Array, top: number): SequenceSpec['promptRows'] {
  return Array.from({ length: prompt.length - 1 }, (_, position) => ({
    position,
    targets: [prompt[position + 1] as number], // position + 1 < prompt.length
    top,
  }));
}

const NO_USAGE: Usage = {
  promptTokens: 0,
  cachedTokens: 0,
  completionTokens: 0,
  acceptedPredictionTokens: 0,
  rejectedPredictionTokens: 0,
};

function cancelledBeforeStart(model: string, queueMs: number): Extract<GenerationEvent, { type: 'end' }> {
  const timings = { queueMs, prefillMs: 0, decodeMs: 0 };
  return { type: 'end', finishReason: 'cancelled', usage: NO_USAGE, timings, model };
}
