/**
 * What the loop needs of a pack: prompts, the verdict's format, how an answer is found, defaults. Knows no files and no
 * weights; whoever reads packs from disk produces a value of this shape (`models/pack.ts` fits it structurally).
 */
import { createHash } from 'node:crypto';
import type { ChatRole, SamplingParams } from '../engine/engine.ts';

/** `template` is Jinja source. The caller's texts reach it only as values of variables, never as source. */
export interface PromptMessage {
  readonly role: ChatRole;
  readonly template: string;
}

/** `assistantPrefix` is written by the server at the head of the model's answer; it is not part of the generated text. */
export interface PromptTemplate {
  readonly messages: readonly PromptMessage[];
  readonly assistantPrefix?: string | undefined;
}

export interface LoopPrompts {
  /** Variables: `problem`. */
  readonly attempt: PromptTemplate;
  /** Variables: `problem`, `attempt`, `feedback`, `verdict` (`accept`, `reject`, `undetermined`). */
  readonly refine: PromptTemplate;
  /** Variables: `problem`, `solution`. */
  readonly verify: PromptTemplate;
  /** Variables: `problem`, `solution`, `reference`. Without it a request with a reference is refused. */
  readonly verifyWithReference?: PromptTemplate | undefined;
}

/**
 * The assistant text of a verification is `feedback.open`, the generated feedback, `feedback.close`, `verdict.open`, and then one
 * of `verdict.words`. The server writes all but the feedback, and reads the words' probabilities instead of sampling one.
 */
export interface FeedbackFormat {
  readonly open: string;
  readonly close: string;
  /** End the feedback; at least what the model itself writes to close it. Never part of the feedback. */
  readonly stop: readonly string[];
}

export interface VerdictFormat {
  readonly open: string;
  /** What the model writes after the word. Not read by the server; kept so that training texts are made of the same parts. */
  readonly close: string;
  readonly words: {
    readonly accept: string;
    readonly reject: string;
    readonly undetermined?: string | undefined;
  };
  /** Least probability that the words together must hold for a verdict to count, 0..1. */
  readonly minMass: number;
}

/** How the final answer is found in an attempt. A pattern is RE2 syntax (linear time); group 1, else the whole match; the last match wins. */
export type AnswerFormat =
  | { readonly kind: 'boxed' }
  | { readonly kind: 'last_line' }
  | { readonly kind: 'pattern'; readonly pattern: string };

/** From raw P(accept) to the probability that an accept is right. `points` ascend in x and in y, all within 0..1. */
export type Calibration =
  | { readonly kind: 'none' }
  | { readonly kind: 'temperature'; readonly temperature: number }
  | { readonly kind: 'platt'; readonly slope: number; readonly intercept: number }
  | { readonly kind: 'isotonic'; readonly points: readonly (readonly [number, number])[] };

export interface RoleDefaults {
  readonly sampling: Omit<SamplingParams, 'seed' | 'logitBias'>;
  readonly maxTokens: number;
}

/** Marks that a reasoning model puts around its thoughts; only what lies outside crosses from one role to the other. */
export interface ReasoningFormat {
  readonly open: string;
  readonly close: string;
  /** The chat template has written `open` already: what is generated begins inside. */
  readonly isOpened?: boolean | undefined;
}

export interface LoopPack {
  /** Name and version, for records. */
  readonly name: string;
  readonly version: string;
  readonly prompts: LoopPrompts;
  readonly feedback: FeedbackFormat;
  readonly verdict: VerdictFormat;
  readonly answer: AnswerFormat;
  readonly calibration: Calibration;
  readonly defaults: { readonly generator: RoleDefaults; readonly verifier: RoleDefaults };
  readonly reasoning?: ReasoningFormat | undefined;
}

/** `sha256:…` over everything that a run takes from its pack, so equal for packs that differ in nothing but name and version. */
export function digestLoopPack(pack: LoopPack): string {
  const { prompts, feedback, verdict, answer, calibration, defaults, reasoning = null } = pack;
  const parts = [prompts, feedback, verdict, answer, calibration, defaults, reasoning];
  return `sha256:${createHash('sha256').update(JSON.stringify(parts)).digest('hex')}`;
}
