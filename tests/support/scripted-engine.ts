/**
 * An Engine that answers from a script: a function of the request. Counts tokens in a plain way (a token is a word or a sign
 * with the blank space before it), keeps a ledger of what it reported, records every request and honours aborts.
 */
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
} from '../../src/engine/engine.ts';
import { StvError } from '../../src/errors.ts';

export interface ScriptedGeneration {
  readonly text: string;
  /** Throw this after so many tokens. */
  readonly error?: Error | undefined;
  readonly errorAfter?: number | undefined;
  /** Milliseconds before every token. Without it only promises run in between; 0 lets timers and sockets run as well. */
  readonly delayMs?: number | undefined;
  /** End with this although the text is complete. */
  readonly finishReason?: 'stop' | 'length' | 'error' | undefined;
  /** Answer an abort by throwing instead of by an `end` with what was used. */
  readonly throwsOnAbort?: boolean | undefined;
  /** Stop producing without an end. */
  readonly endsSilently?: boolean | undefined;
  /** Ignore the abort for so long. */
  readonly ignoresAbortMs?: number | undefined;
  readonly cachedTokens?: number | undefined;
}

export interface ScriptedScore {
  /** Probabilities by candidate, in order; missing ones are impossible. */
  readonly probabilities: readonly number[];
  readonly error?: Error | undefined;
  readonly delayMs?: number | undefined;
}

export interface EngineScript {
  readonly generate?: (request: GenerateRequest, count: number) => string | ScriptedGeneration;
  readonly score?: (request: ScoreRequest, count: number) => readonly number[] | ScriptedScore;
  readonly contextLength?: number;
  /** Throws where there is no room. */
  readonly checkRoom?: (model: string) => void;
}

export interface LedgerEntry {
  readonly id: string;
  readonly model: string;
  readonly usage: Usage;
}

export function countWords(text: string): number {
  return splitTokens(text).length;
}

function splitTokens(text: string): string[] {
  return text.match(/\s*(?:[\p{L}\p{N}]+|[^\s\p{L}\p{N}]|$)/gu)?.filter((token) => token !== '') ?? [];
}

/** Everything that the model reads, as one text. */
export function promptText(prompt: Prompt): string {
  if (prompt.kind === 'text') return prompt.text;
  if (prompt.kind === 'tokens') return prompt.tokens.join(' ');
  return [...prompt.messages.map(({ content }) => content), prompt.assistantPrefix ?? ''].join('\n');
}

function countPrompt(prompt: Prompt): number {
  if (prompt.kind !== 'chat') return countWords(promptText(prompt));
  // four tokens of template around every message and two to open the answer
  const messages = prompt.messages.reduce((sum, { content }) => sum + countWords(content) + 4, 0);
  return messages + 2 + countWords(prompt.assistantPrefix ?? '');
}

export class ScriptedEngine implements Engine {
  readonly generateRequests: GenerateRequest[] = [];
  readonly scoreRequests: ScoreRequest[] = [];
  /** What was reported, call by call; calls that report nothing count what they have shown. */
  readonly ledger: LedgerEntry[] = [];
  numOpen = 0;
  maxOpen = 0;
  readonly #script: EngineScript;

  constructor(script: EngineScript = {}) {
    this.#script = script;
  }

  /** Tokens of all calls, or of one model's. */
  totalTokens(model?: string): number {
    return this.ledger
      .filter((entry) => model === undefined || entry.model === model)
      .reduce((sum, { usage }) => sum + usage.promptTokens + usage.completionTokens, 0);
  }

  async *generate(request: GenerateRequest, { signal }: EngineCallOptions = {}): AsyncGenerator<GenerationEvent> {
    this.generateRequests.push(request);
    const scripted = this.#script.generate?.(request, this.generateRequests.length - 1) ?? 'ok';
    const script: ScriptedGeneration = typeof scripted === 'string' ? { text: scripted } : scripted;
    const promptTokens = countPrompt(request.prompt);
    let usage: Usage = {
      promptTokens: 0,
      cachedTokens: 0,
      completionTokens: 0,
      acceptedPredictionTokens: 0,
      rejectedPredictionTokens: 0,
    };
    this.#open();
    try {
      signal?.throwIfAborted();
      usage = { ...usage, promptTokens, cachedTokens: Math.min(script.cachedTokens ?? 0, promptTokens) };
      yield { type: 'start', promptTokens };
      const { text, stop } = cutAtStop(script.text, request.stop);
      const tokens = splitTokens(text);
      for (const [index, token] of tokens.entries()) {
        await this.#wait(script.delayMs, script.ignoresAbortMs === undefined ? signal : undefined);
        if (signal?.aborted === true) {
          await this.#wait(script.ignoresAbortMs);
          if (script.throwsOnAbort === true) throw abortedError();
          yield this.#end(request, 'cancelled', usage);
          return;
        }
        if (script.error !== undefined && index >= (script.errorAfter ?? 0)) throw script.error;
        if (index >= request.maxTokens) {
          yield this.#end(request, 'length', usage);
          return;
        }
        usage = { ...usage, completionTokens: usage.completionTokens + 1 };
        yield { type: 'delta', text: token, tokens: [index] };
      }
      if (script.error !== undefined) throw script.error;
      if (script.endsSilently === true) return;
      yield this.#end(request, script.finishReason ?? 'stop', usage, stop);
    } finally {
      this.#close(request.id, request.model, usage);
    }
  }

  #end(
    request: GenerateRequest,
    finishReason: 'stop' | 'length' | 'cancelled' | 'error',
    usage: Usage,
    stop?: string,
  ): GenerationEvent {
    return {
      type: 'end',
      finishReason,
      usage,
      timings: { queueMs: 1, prefillMs: 2, decodeMs: usage.completionTokens },
      model: this.#nameOf(request.model),
      ...(stop === undefined ? {} : { stop }),
    };
  }

  async score(request: ScoreRequest, { signal }: EngineCallOptions = {}): Promise<ScoreResult> {
    this.scoreRequests.push(request);
    const scripted = this.#script.score?.(request, this.scoreRequests.length - 1) ?? [0.9, 0.1];
    const script: ScriptedScore = 'probabilities' in scripted ? scripted : { probabilities: scripted };
    let usage: Usage = {
      promptTokens: 0,
      cachedTokens: 0,
      completionTokens: 0,
      acceptedPredictionTokens: 0,
      rejectedPredictionTokens: 0,
    };
    this.#open();
    try {
      await this.#wait(script.delayMs, signal);
      if (signal?.aborted === true) throw abortedError();
      if (script.error !== undefined) throw script.error;
      usage = { ...usage, promptTokens: countPrompt(request.prompt) };
      return {
        logprobs: request.candidates.map((_, index) => Math.log(script.probabilities[index] ?? 0)),
        usage,
        timings: { queueMs: 1, prefillMs: 2, decodeMs: 0 },
        model: this.#nameOf(request.model),
      };
    } finally {
      this.#close(request.id, request.model, usage);
    }
  }

  models(): readonly ModelInfo[] {
    return ['generator', 'verifier'].map((role) => ({
      name: this.#nameOf(role),
      aliases: [role],
      digest: 'sha256:00',
      contextLength: this.#script.contextLength ?? 8_192,
      remote: false,
    }));
  }

  async tokenize(_model: string, text: string): Promise<number[]> {
    return splitTokens(text).map((_, index) => index);
  }

  async detokenize(_model: string, tokens: readonly number[]): Promise<string> {
    return tokens.join(' ');
  }

  checkRoom(model: string): void {
    this.#script.checkRoom?.(model);
  }

  async countTokens(_model: string, prompt: Prompt, _options?: EngineCallOptions): Promise<number> {
    return countPrompt(prompt);
  }

  status(): EngineStatus {
    return { state: 'ready', running: this.numOpen, waiting: 0, lastStepMsAgo: null, lastTokenMsAgo: null };
  }

  async close(): Promise<void> {}

  #nameOf(role: string): string {
    return `scripted/${role}@sha256:00`;
  }

  #open(): void {
    this.numOpen++;
    this.maxOpen = Math.max(this.maxOpen, this.numOpen);
  }

  #close(id: string, model: string, usage: Usage): void {
    this.numOpen--;
    this.ledger.push({ id, model, usage });
  }

  /** An abort ends the wait. */
  async #wait(delayMs?: number, signal?: AbortSignal): Promise<void> {
    if (delayMs === undefined) {
      await Promise.resolve();
      return;
    }
    if (delayMs === 0) {
      await new Promise((resolve) => setImmediate(resolve));
      return;
    }
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, delayMs);
      signal?.addEventListener('abort', done, { once: true });
    });
  }
}

function abortedError(): StvError {
  return new StvError('cancelled', 'The engine was told to stop.');
}

function cutAtStop(text: string, stops: readonly string[]): { readonly text: string; readonly stop?: string } {
  let end = text.length;
  let stop: string | undefined;
  for (const candidate of stops) {
    const at = text.indexOf(candidate);
    if (at === -1 || at >= end) continue;
    end = at;
    stop = candidate;
  }
  return { text: text.slice(0, end), ...(stop === undefined ? {} : { stop }) };
}
