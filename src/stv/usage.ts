/**
 * Token and time accounts as clients see them (the shape of OpenAI's `usage`), and their sums. Pure.
 */
import type { Timings, Usage } from '../engine/engine.ts';

export interface TokenUsage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly totalTokens: number;
  readonly promptTokensDetails: { readonly cachedTokens: number };
  readonly completionTokensDetails: {
    readonly acceptedPredictionTokens: number;
    readonly rejectedPredictionTokens: number;
    readonly reasoningTokens: number;
  };
}

/** Both roles of a run, a chain or a round. `totalTokens` = prompt (cached ones too) + completion of both. */
export interface RoleUsage {
  readonly generator: TokenUsage;
  readonly verifier: TokenUsage;
  readonly totalTokens: number;
}

/** Milliseconds. The first three are sums over engine calls (calls side by side add up), `totalMs` is time on the wall. */
export interface RequestTimings {
  readonly queueMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
  readonly totalMs: number;
}

export type Role = 'generator' | 'verifier';

export const noUsage: TokenUsage = tokenUsage({
  promptTokens: 0,
  cachedTokens: 0,
  completionTokens: 0,
  acceptedPredictionTokens: 0,
  rejectedPredictionTokens: 0,
});

export const noRoleUsage: RoleUsage = { generator: noUsage, verifier: noUsage, totalTokens: 0 };

export const noTimings: Timings = { queueMs: 0, prefillMs: 0, decodeMs: 0 };

/** What one engine call reported, as clients see it. */
export function tokenUsage(usage: Usage, reasoningTokens = 0): TokenUsage {
  return {
    promptTokens: usage.promptTokens,
    completionTokens: usage.completionTokens,
    totalTokens: usage.promptTokens + usage.completionTokens,
    promptTokensDetails: { cachedTokens: usage.cachedTokens },
    completionTokensDetails: {
      acceptedPredictionTokens: usage.acceptedPredictionTokens,
      rejectedPredictionTokens: usage.rejectedPredictionTokens,
      reasoningTokens,
    },
  };
}

export function addUsage(a: TokenUsage, b: TokenUsage): TokenUsage {
  const left = a.completionTokensDetails;
  const right = b.completionTokensDetails;
  return {
    promptTokens: a.promptTokens + b.promptTokens,
    completionTokens: a.completionTokens + b.completionTokens,
    totalTokens: a.totalTokens + b.totalTokens,
    promptTokensDetails: { cachedTokens: a.promptTokensDetails.cachedTokens + b.promptTokensDetails.cachedTokens },
    completionTokensDetails: {
      acceptedPredictionTokens: left.acceptedPredictionTokens + right.acceptedPredictionTokens,
      rejectedPredictionTokens: left.rejectedPredictionTokens + right.rejectedPredictionTokens,
      reasoningTokens: left.reasoningTokens + right.reasoningTokens,
    },
  };
}

export function addRoleUsage(a: RoleUsage, b: RoleUsage): RoleUsage {
  return {
    generator: addUsage(a.generator, b.generator),
    verifier: addUsage(a.verifier, b.verifier),
    totalTokens: a.totalTokens + b.totalTokens,
  };
}

/** `usage` with the tokens of one role added. */
export function chargeRole(usage: RoleUsage, role: Role, charge: TokenUsage): RoleUsage {
  return {
    ...usage,
    [role]: addUsage(usage[role], charge),
    totalTokens: usage.totalTokens + charge.totalTokens,
  };
}

export function addTimings(a: Timings, b: Timings): Timings {
  return {
    queueMs: a.queueMs + b.queueMs,
    prefillMs: a.prefillMs + b.prefillMs,
    decodeMs: a.decodeMs + b.decodeMs,
  };
}
