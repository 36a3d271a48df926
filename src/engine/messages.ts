/**
 * Everything that crosses the border between the API process and the engine host: numbers and ids, no text of a user.
 * Sent with structured clone (`serialization: 'advanced'`), so typed arrays and maps arrive as they are.
 */
import type { ErrorCode } from '../errors.ts';
import type { DeviceName } from '../models/open-on-device.ts';
import type { SamplingParams } from './engine.ts';

/** Logits of a prompt position that are read: log-probabilities of `targets` and of the `top` best alternatives. */
export interface PromptRowRequest {
  readonly position: number;
  readonly targets: readonly number[];
  readonly top: number;
}

/** A sequence as the engine core takes it: already encoded, already within the model's limits. */
export interface SequenceSpec {
  /** Unique among the open sequences of the host. */
  readonly id: number;
  /** At least one token. */
  readonly prompt: Int32Array;
  /** 0 = read the prompt rows only. */
  readonly maxTokens: number;
  /** Tokens that end the sequence with `stop`; empty with `ignoreEos`. */
  readonly stopTokens: readonly number[];
  readonly sampling: SamplingParams;
  readonly priority: 'interactive' | 'batch';
  /** Who shares the engine with whom, opaque; those without one are one party. */
  readonly shareKey?: string | undefined;
  /** Alternatives beside each generated token; undefined = no log-probabilities. */
  readonly logprobs: number | undefined;
  /** Ascending positions, all within the prompt. */
  readonly promptRows: readonly PromptRowRequest[];
  /** What the output probably repeats, encoded; a draft source, never a constraint. */
  readonly prediction?: Int32Array;
  /** A sequence follows at once that goes on from this one. */
  readonly isContinued?: boolean;
  /** Goes on from a sequence that has just ended. */
  readonly isContinuation?: boolean;
  /** The host crashed while this request was open: it runs in steps of its own, announced, so that a second crash has a name. */
  readonly isSuspect?: boolean;
}

/** Log-probability of one generated token and of the most likely alternatives, best first. */
export interface TokenLogprobs {
  readonly logprob: number;
  readonly topTokens: readonly number[];
  readonly topLogprobs: readonly number[];
}

export interface PromptRowResult {
  readonly position: number;
  /** One for each target of the request. */
  readonly logprobs: readonly number[];
  readonly topTokens: readonly number[];
  readonly topLogprobs: readonly number[];
}

export type SequenceFinish =
  | { readonly reason: 'stop' | 'length' }
  | { readonly reason: 'error'; readonly code: ErrorCode; readonly message: string };

/** What one step did for one sequence. */
export interface SequenceOutput {
  readonly id: number;
  /** Present once, with the first step that computed something for it. */
  readonly started?: { readonly cachedTokens: number; readonly waitedMs: number };
  /** Sampled in this step, in order. */
  readonly tokens: readonly number[];
  /**
   * Guessed tokens that the step verified: those that are among `tokens`, and those that were computed for nothing.
   * `isPredicted`: guessed from the request's prediction, not from what stands in the sequence.
   */
  readonly drafted?: { readonly accepted: number; readonly rejected: number; readonly isPredicted: boolean };
  /** One for each token, where asked for. */
  readonly logprobs?: readonly TokenLogprobs[];
  readonly promptRows?: readonly PromptRowResult[];
  readonly finish?: SequenceFinish;
}

/** One step in numbers; the input of metrics. Durations in milliseconds. */
export interface StepStats {
  readonly numLanes: number;
  readonly numTokens: number;
  readonly numPromptTokens: number;
  readonly numOutputTokens: number;
  /** Guessed tokens that were verified, and those of them that came true; both are in the counts above. */
  readonly numDraftTokens: number;
  readonly numAcceptedTokens: number;
  /** Of these, the ones guessed from what stands in the sequence itself, without a prediction. */
  readonly numRepeatDraftTokens: number;
  readonly numRepeatAcceptedTokens: number;
  readonly forwardMs: number;
  /** The rest of the step: schedule, sample, update. */
  readonly outsideMs: number;
  readonly running: number;
  readonly waiting: number;
  readonly slotsUsed: number;
  readonly slotsCached: number;
  /** Of the sequences that this step admitted. */
  readonly prefixHitTokens: number;
  readonly prefixQueryTokens: number;
  readonly copiedTokens: number;
  readonly numPreemptions: number;
  readonly numEvictions: number;
}

/** How a model is to be opened. The folder is what `models` prepared; the limits shape its cache. */
export interface HostModel {
  readonly dir: string;
  readonly numSlots: number;
  readonly maxLength: number;
  readonly maxLanes: number;
  readonly maxBatchedTokens: number;
  /** Of a step; undefined = one per physical core. */
  readonly threads: number | undefined;
  readonly kv: 'auto' | 'fp32' | 'int8' | undefined;
  /** Another ONNX Runtime library than the packaged one. */
  readonly libraryPath: string | undefined;
  /** Most prompt tokens of a step in which something decodes. */
  readonly chunkTokens: number;
  readonly reusePrefixes: boolean;
  /** Guess tokens that a text repeats and verify several at once. */
  readonly drafting: boolean;
  readonly device: DeviceName;
}

/** API process -> engine host. `model` is the index in the list of the `load` message. */
export type ToHost =
  | { readonly type: 'load'; readonly models: readonly HostModel[] }
  | { readonly type: 'add'; readonly model: number; readonly sequence: SequenceSpec }
  | { readonly type: 'abort'; readonly model: number; readonly ids: readonly number[] }
  | { readonly type: 'shutdown' };

/** Engine host -> API process. One `step` message holds everything that a step did. */
export type FromHost =
  | { readonly type: 'loading'; readonly model: number; readonly ms: number }
  | { readonly type: 'ready'; readonly models: readonly HostModelReady[] }
  | {
      readonly type: 'step';
      readonly model: number;
      readonly outputs: readonly SequenceOutput[];
      readonly stats: StepStats;
    }
  /** The answer to an abort that found or left the model without work, so that no step is going to tell what its slots hold. */
  | { readonly type: 'slots'; readonly model: number; readonly used: number; readonly cached: number }
  /** The sequence is not one that the core can take; a defect of the sender, harmless to the others. */
  | { readonly type: 'refused'; readonly model: number; readonly id: number; readonly message: string }
  /** The next step computes this sequence and nothing else; sent before it begins. */
  | { readonly type: 'suspect-step'; readonly model: number; readonly id: number }
  | { readonly type: 'fatal'; readonly code: ErrorCode; readonly message: string };

/** The limits that a model really has once it is open. */
export interface HostModelReady {
  readonly vocabSize: number;
  readonly maxLength: number;
  readonly maxLanes: number;
  readonly numSlots: number;
  /** Where it runs. */
  readonly device: string;
  /** Why it runs there and not on a faster device. */
  readonly warning?: string | undefined;
}
