/**
 * The seam between the loop and whatever generates: the local engine, a remote OpenAI-compatible server and the scripted
 * engine of the tests implement `Engine`; nothing above knows which one it has. No HTTP here, no tensors, no pack prompts.
 */

export type ChatRole = 'system' | 'user' | 'assistant';

/** Text of a message is always inert: it can never become a special token or template syntax. */
export interface ChatMessage {
  readonly role: ChatRole;
  readonly content: string;
}

/** `assistantPrefix` is text that the model's answer is made to begin with; it is not part of the generated text. */
export type Prompt =
  | { readonly kind: 'chat'; readonly messages: readonly ChatMessage[]; readonly assistantPrefix?: string }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tokens'; readonly tokens: readonly number[] };

/** Bounds are checked at the edge (`sampling-params.ts` has them); 0 temperature is greedy and ignores the seed. */
export interface SamplingParams {
  readonly temperature: number;
  /** 0 = off. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  /** Unsigned 32-bit. Drawn by the caller and reported, so that a request can be repeated. */
  readonly seed: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  /** 1 = off. */
  readonly repetitionPenalty: number;
  /** Token id -> added to its logit. */
  readonly logitBias?: ReadonlyMap<number, number>;
}

export interface GenerateRequest {
  readonly id: string;
  /** A name or alias that `Engine.models()` lists. */
  readonly model: string;
  readonly prompt: Prompt;
  readonly sampling: SamplingParams;
  /** 0 reads the prompt only (with `promptLogprobs`). Never past the model's context. */
  readonly maxTokens: number;
  readonly stop: readonly string[];
  /** Keep a matched stop string in the text. Default false. */
  readonly includeStop?: boolean;
  /** Benchmarks only: go on past the end-of-sequence token. */
  readonly ignoreEos?: boolean;
  /** How many most likely alternatives to report beside each generated token; 0 = the token's own only; absent = none. */
  readonly logprobs?: number;
  /** Also report the log-probabilities of the prompt's own tokens (for `echo`); the value is the number of alternatives. */
  readonly promptLogprobs?: number;
  /** Text that the output probably repeats; a draft source, never a constraint. */
  readonly prediction?: string;
  /** A request follows that goes on from this text: what is cached of it is kept for a moment although others wait. */
  readonly isContinued?: boolean;
  readonly priority: 'interactive' | 'batch';
  /** Whose share of the engine it takes: opaque, equal for all requests of one API key. Absent: all such requests share one. */
  readonly shareKey?: string;
  /** Milliseconds since the epoch after which the request ends with `deadline_exceeded`. */
  readonly deadline?: number;
}

/** One token with its exact log-probability (natural log, before temperature and filters). */
export interface TokenLogprob {
  /** -1 where a remote server tells the text only. */
  readonly token: number;
  readonly text: string;
  readonly bytes: readonly number[];
  readonly logprob: number;
  readonly top: readonly {
    readonly token: number;
    readonly text: string;
    readonly bytes: readonly number[];
    readonly logprob: number;
  }[];
}

export interface Usage {
  readonly promptTokens: number;
  /** Prompt tokens whose cache was reused; counted in `promptTokens` as well. */
  readonly cachedTokens: number;
  readonly completionTokens: number;
  /** Of the request's `prediction`; 0 without one. */
  readonly acceptedPredictionTokens: number;
  readonly rejectedPredictionTokens: number;
  /** A remote server did not count: the numbers are this server's estimate. */
  readonly isEstimated?: true;
}

/** Milliseconds. `prefill` ends with the first token, `decode` is the rest. */
export interface Timings {
  readonly queueMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
}

export type FinishReason = 'stop' | 'length' | 'cancelled' | 'error';

/**
 * `start` comes when the request has been admitted and its prompt counted; `delta` any number of times; then exactly one
 * `end`. A failure is thrown as StvError instead of `end`. Leaving the iteration early, or aborting the signal, cancels.
 */
export type GenerationEvent =
  | { readonly type: 'start'; readonly promptTokens: number }
  | {
      readonly type: 'delta';
      readonly text: string;
      readonly tokens: readonly number[];
      readonly logprobs?: readonly TokenLogprob[];
    }
  | {
      readonly type: 'end';
      readonly finishReason: FinishReason;
      /** The stop string that ended the text, if one did. */
      readonly stop?: string;
      /** The end-of-sequence token, if one ended the text; no part of it. Only where log-probabilities were asked for. */
      readonly endToken?: TokenLogprob;
      readonly usage: Usage;
      readonly timings: Timings;
      /** Full name with digest of the weights that answered: `pack/role@sha256:…`. */
      readonly model: string;
      /** Log-probabilities of the prompt's tokens, null for the first. Present when asked for. */
      readonly promptLogprobs?: readonly (TokenLogprob | null)[];
    };

/** How likely each candidate text is as the continuation of a prompt: one prefill, no sampling. */
export interface ScoreRequest {
  readonly id: string;
  readonly model: string;
  readonly prompt: Prompt;
  /** Distinct non-empty texts. */
  readonly candidates: readonly string[];
  /**
   * Goes on from a text that was generated a moment ago: never refused for a full queue, and ahead of what arrived lately. A remote
   * server has a queue of its own and is not told.
   */
  readonly isContinuation?: boolean;
  readonly priority: 'interactive' | 'batch';
  /** Whose share of the engine it takes: opaque, equal for all requests of one API key. Absent: all such requests share one. */
  readonly shareKey?: string;
  readonly deadline?: number;
}

export interface ScoreResult {
  /** Natural log-probability of each candidate, in order: the product over its tokens; -Infinity where a remote gave none. */
  readonly logprobs: readonly number[];
  /** All of it prompt tokens: the prompt once, and the candidates' own tokens as far as they had to be read. */
  readonly usage: Usage;
  readonly timings: Timings;
  readonly model: string;
  /**
   * How a remote server was read; absent = exactly, over all tokens of the candidates. `first-token`: from the texts of the most
   * likely first tokens. `vote`: it gives no log-probabilities, so one short greedy answer counts as 0 against -Infinity.
   */
  readonly method?: 'first-token' | 'vote';
}

export interface ModelInfo {
  /** Full name with digest. */
  readonly name: string;
  /** Other names it answers to: `generator`, `verifier`, `pack/role`. */
  readonly aliases: readonly string[];
  readonly digest: string;
  /** Tokens of prompt and output together. */
  readonly contextLength: number;
  readonly remote: boolean;
  /** Where it runs: `cpu`, `webgpu`, `cuda`; absent for remote ones. */
  readonly device?: string | undefined;
  /** Why it runs there and not on a faster device. */
  readonly warning?: string | undefined;
}

/** How one remote server is doing. Counters run since the start. */
export interface RemoteStatus {
  /** Host and port. */
  readonly remote: string;
  readonly model: string;
  readonly dialect: string;
  readonly circuit: 'closed' | 'open' | 'half-open';
  readonly failuresInARow: number;
  readonly circuitOpened: number;
  readonly running: number;
  readonly waiting: number;
  readonly requests: number;
  readonly retries: number;
  readonly failures: number;
  /** Answers whose tokens the server did not count. */
  readonly estimatedUsages: number;
}

export interface EngineStatus {
  readonly state: 'loading' | 'ready' | 'restarting' | 'draining' | 'closed';
  /** Why it is not ready, for `/health/ready`. */
  readonly reason?: string;
  readonly running: number;
  readonly waiting: number;
  readonly lastStepMsAgo: number | null;
  readonly lastTokenMsAgo: number | null;
  /** One for each remote server, where there are any. */
  readonly remotes?: readonly RemoteStatus[];
}

export interface EngineCallOptions {
  readonly signal?: AbortSignal;
}

export interface Engine {
  generate(request: GenerateRequest, options?: EngineCallOptions): AsyncIterable<GenerationEvent>;
  score(request: ScoreRequest, options?: EngineCallOptions): Promise<ScoreResult>;
  models(): readonly ModelInfo[];
  /** Special tokens in `text` are inert. */
  tokenize(model: string, text: string): Promise<number[]>;
  /** Throws StvError `invalid_value` for an id that the model does not have. */
  detokenize(model: string, tokens: readonly number[]): Promise<string>;
  /**
   * How many prompt tokens `generate` counts for this prompt (template and prefix included), without computing anything: what a
   * token budget is reserved by. A remote that cannot tell answers with an upper bound. After an abort it may throw or go on.
   */
  countTokens(model: string, prompt: Prompt, options?: EngineCallOptions): Promise<number>;
  /**
   * Throws StvError `queue_full` where a request would be refused now, and reserves nothing: what saves a caller the work of
   * preparing one. `shareKey` as in a request.
   */
  checkRoom(model: string, shareKey?: string): void;
  status(): EngineStatus;
  close(): Promise<void>;
}
