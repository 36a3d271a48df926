/** How many tokens a call may produce: what was asked for, cut to what the model's context and the token budget leave. */
import type { SamplingParams } from '../engine/engine.ts';
import { StvError } from '../errors.ts';
import { throwIfAborted } from './engine-call.ts';
import type { SamplingOptions } from './loop-deps.ts';
import type { LoopPack, RoleDefaults } from './loop-pack.ts';
import type { Reservation, TokenBudget, TokenDemand } from './token-budget.ts';

/** Fewer tokens than this are not worth a call. */
const MIN_COMPLETION = 16;

/** Thrown inside a run whose token budget does not suffice for the next call. Never leaves the loop. */
export class BudgetExhausted extends Error {
  constructor() {
    super('The token budget does not suffice for the next call.');
    this.name = 'BudgetExhausted';
  }
}

export interface ResolvedRole {
  readonly sampling: Omit<SamplingParams, 'seed'>;
  readonly maxTokens: number;
}

/** The pack with its defaults within what a request may ask for, so that the limits that a run reports can be asked for again. */
export function withinLimit<P extends Pick<LoopPack, 'defaults'>>(pack: P, maxOutputTokens: number): P {
  const { generator, verifier } = pack.defaults;
  const within = (role: RoleDefaults): RoleDefaults => ({
    ...role,
    maxTokens: Math.min(role.maxTokens, maxOutputTokens),
  });
  return { ...pack, defaults: { generator: within(generator), verifier: within(verifier) } };
}

/** The request's own settings over the pack's. */
export function resolveRole(defaults: RoleDefaults, options: SamplingOptions): ResolvedRole {
  return {
    sampling: {
      ...defaults.sampling,
      temperature: options.temperature ?? defaults.sampling.temperature,
      topP: options.topP ?? defaults.sampling.topP,
      topK: options.topK ?? defaults.sampling.topK,
      minP: options.minP ?? defaults.sampling.minP,
    },
    maxTokens: options.maxTokens ?? defaults.maxTokens,
  };
}

export interface CompletionLimits {
  /** Tokens of prompts that are certain to be read. */
  readonly numFixed: number;
  /** How often each generated token is charged (read again by a later call of the same reservation). */
  readonly charges: number;
  readonly maxTokens: number;
}

export interface ReservedCompletion {
  readonly maxTokens: number;
  readonly reservation: Reservation;
}

/** Reserves for one call, or for a call and those that read its text again. Throws like `reserveTokens`. */
export async function reserveCompletion(
  budget: TokenBudget,
  { numFixed, charges, maxTokens }: CompletionLimits,
  signal: AbortSignal,
): Promise<ReservedCompletion> {
  const reservation = await reserveTokens(
    budget,
    { atLeast: numFixed + charges * Math.min(maxTokens, MIN_COMPLETION), atMost: numFixed + charges * maxTokens },
    signal,
  );
  if (!budget.isLimited) return { maxTokens, reservation };
  return { maxTokens: Math.min(maxTokens, Math.floor((reservation.tokens - numFixed) / charges)), reservation };
}

/** Throws `BudgetExhausted` when fewer than `atLeast` tokens can be had, the signal's reason when it is aborted. */
export async function reserveTokens(
  budget: TokenBudget,
  demand: TokenDemand,
  signal: AbortSignal,
): Promise<Reservation> {
  const reservation = await budget.reserve(demand, signal);
  if (signal.aborted) reservation?.release();
  throwIfAborted(signal);
  if (reservation === undefined) throw new BudgetExhausted();
  return reservation;
}

/** `maxTokens` within the context. Throws StvError `context_length_exceeded` when the prompt leaves no room for one token. */
export function clampToContext(numPrompt: number, maxTokens: number, contextLength: number): number {
  const room = contextLength - numPrompt;
  if (room < 1) {
    throw new StvError(
      'context_length_exceeded',
      `The texts make a prompt of ${numPrompt} tokens; the model's context holds ${contextLength} tokens of prompt and output together.`,
    );
  }
  return Math.min(maxTokens, room);
}
