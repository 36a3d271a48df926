/** An engine whose answers a test writes down: text by request, one delta a word, abort and failures as the real one has them. */
import type {
  Engine,
  EngineStatus,
  FinishReason,
  GenerateRequest,
  GenerationEvent,
  ModelInfo,
  Prompt,
  ScoreRequest,
  TokenLogprob,
  Usage,
} from '../../src/engine/engine.ts';

export interface TestEngineOptions {
  /** The text to generate. Throwing makes the generation fail. */
  readonly reply?: (request: GenerateRequest) => string;
  /** P(first candidate) of a score request; the others share the rest. */
  readonly accept?: (request: ScoreRequest) => number;
  /** Called before each delta with the words given so far; throwing makes the generation fail there. */
  readonly onWord?: (request: GenerateRequest, numWords: number) => void;
  /** Milliseconds before each delta. */
  readonly delayMs?: number;
  readonly status?: Partial<EngineStatus>;
  /** Throws where there is no room. */
  readonly checkRoom?: () => void;
}

export const testModels: readonly ModelInfo[] = [
  {
    name: 'test/generator@sha256:0123456789abcdef',
    aliases: ['generator', 'test/generator'],
    digest: 'sha256:0123456789abcdef',
    contextLength: 4096,
    remote: false,
  },
  {
    name: 'test/verifier@sha256:fedcba9876543210',
    aliases: ['verifier', 'test/verifier'],
    digest: 'sha256:fedcba9876543210',
    contextLength: 4096,
    remote: false,
  },
];

const encoder = new TextEncoder();

export function promptText(prompt: Prompt): string {
  switch (prompt.kind) {
    case 'text':
      return prompt.text;
    case 'tokens':
      return String.fromCharCode(...prompt.tokens);
    case 'chat':
      return prompt.messages.map((message) => message.content).join('\n') + (prompt.assistantPrefix ?? '');
  }
}

function countOf(prompt: Prompt): number {
  return Math.max(1, promptText(prompt).split(/\s+/).length);
}

function logprobOf(text: string, top: number): TokenLogprob {
  const bytes = [...encoder.encode(text)];
  const self = { token: text.length, text, bytes, logprob: -0.5 };
  return { ...self, top: top === 0 ? [] : [self] };
}

export class TestEngine implements Engine {
  readonly requests: GenerateRequest[] = [];
  readonly scores: ScoreRequest[] = [];
  /** How often a prompt was counted. */
  numCounts = 0;
  /** Requests that ended because their signal was aborted. */
  readonly aborted: string[] = [];
  /** Generations that have begun and not ended. */
  numOpen = 0;
  readonly #options: TestEngineOptions;

  constructor(options: TestEngineOptions = {}) {
    this.#options = options;
  }

  async *generate(
    request: GenerateRequest,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<GenerationEvent> {
    this.requests.push(request);
    const text = (this.#options.reply ?? (() => 'one two three'))(request);
    const promptTokens = countOf(request.prompt);
    this.numOpen += 1;
    let completionTokens = 0;
    try {
      yield { type: 'start', promptTokens };
      let finishReason: FinishReason | undefined;
      const words = request.maxTokens === 0 ? [] : (text.match(/\s*\S+|\s+$/g) ?? []);
      for (const word of words.slice(0, request.maxTokens)) {
        await this.#pause(signal);
        if (signal?.aborted) {
          this.aborted.push(request.id);
          finishReason = 'cancelled';
          break;
        }
        this.#options.onWord?.(request, completionTokens);
        completionTokens += 1;
        const logprobs = request.logprobs === undefined ? {} : { logprobs: [logprobOf(word, request.logprobs)] };
        yield { type: 'delta', text: word, tokens: [word.length], ...logprobs };
      }
      const { promptLogprobs } = request;
      finishReason ??= words.length > completionTokens || request.maxTokens === 0 ? 'length' : 'stop';
      yield {
        type: 'end',
        finishReason,
        usage: usageOf(promptTokens, completionTokens),
        timings: { queueMs: 1, prefillMs: 2, decodeMs: 3 },
        model: this.#nameOf(request.model),
        ...(request.logprobs === undefined || finishReason !== 'stop'
          ? {}
          : { endToken: logprobOf('<end>', request.logprobs) }),
        ...(promptLogprobs === undefined
          ? {}
          : {
              promptLogprobs: [...promptText(request.prompt)].map((character, index) =>
                index === 0 ? null : logprobOf(character, promptLogprobs),
              ),
            }),
      };
    } finally {
      this.numOpen -= 1;
    }
  }

  async score(request: ScoreRequest) {
    this.scores.push(request);
    const accept = (this.#options.accept ?? (() => 0.9))(request);
    const rest = (1 - accept) / Math.max(1, request.candidates.length - 1);
    return {
      logprobs: request.candidates.map((_, index) => Math.log(index === 0 ? accept : rest)),
      usage: usageOf(countOf(request.prompt), 0),
      timings: { queueMs: 0, prefillMs: 1, decodeMs: 0 },
      model: this.#nameOf(request.model),
    };
  }

  models(): readonly ModelInfo[] {
    return testModels;
  }

  async tokenize(_model: string, text: string): Promise<number[]> {
    return [...encoder.encode(text)];
  }

  async detokenize(_model: string, tokens: readonly number[]): Promise<string> {
    return new TextDecoder().decode(Uint8Array.from(tokens));
  }

  checkRoom(): void {
    this.#options.checkRoom?.();
  }

  async countTokens(_model: string, prompt: Prompt): Promise<number> {
    this.numCounts += 1;
    return countOf(prompt);
  }

  status(): EngineStatus {
    return {
      state: 'ready',
      running: this.numOpen,
      waiting: 0,
      lastStepMsAgo: null,
      lastTokenMsAgo: null,
      ...this.#options.status,
    };
  }

  async close(): Promise<void> {}

  #nameOf(model: string): string {
    return testModels.find(({ name, aliases }) => name === model || aliases.includes(model))?.name ?? model;
  }

  async #pause(signal: AbortSignal | undefined): Promise<void> {
    const { delayMs } = this.#options;
    if (delayMs === undefined) return;
    await new Promise<void>((resolve) => {
      const settle = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', settle);
        resolve();
      };
      const timer = setTimeout(settle, delayMs);
      signal?.addEventListener('abort', settle);
    });
  }
}

function usageOf(promptTokens: number, completionTokens: number): Usage {
  return { promptTokens, cachedTokens: 0, completionTokens, acceptedPredictionTokens: 0, rejectedPredictionTokens: 0 };
}
