/** When a failed attempt is made again. Pure but for the waiting itself. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RemoteLimits } from './remote-config.ts';
import type { RemoteFailure } from './remote-failure.ts';

export type RetryLimits = Pick<RemoteLimits, 'maxRetries' | 'minRetryDelayMs' | 'maxRetryDelayMs'>;

/**
 * Milliseconds to wait before the next attempt, or undefined when there is to be none. Exponential with full jitter, never
 * sooner than the server asked for; none when that is longer than the longest pause or would end after the deadline.
 * @param numFailed attempts that have failed, from 1
 * @param leftMs time until the request's deadline
 */
export function retryDelayMs(
  failure: RemoteFailure,
  numFailed: number,
  { limits, leftMs, random }: { readonly limits: RetryLimits; readonly leftMs: number; readonly random: () => number },
): number | undefined {
  if (!failure.canRetry || numFailed > limits.maxRetries) return undefined;
  const ceiling = Math.min(limits.maxRetryDelayMs, limits.minRetryDelayMs * 2 ** (numFailed - 1));
  const asked = failure.retryAfterMs ?? 0;
  if (asked > limits.maxRetryDelayMs) return undefined;
  // what is asked for gets its jitter on top, or all who were refused would come back together
  const delay = Math.round(asked + ceiling * random());
  return delay >= leftMs ? undefined : delay;
}

/** Rejects with the signal's reason. */
export async function waitFor(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, { signal });
  } catch {
    throw signal.reason;
  }
}

/**
 * `retry-after-ms`, else `retry-after` in seconds or as an HTTP date; undefined where neither can be read.
 * @param now milliseconds since the epoch
 */
export function readRetryAfter(
  headers: Readonly<Record<string, string | string[] | undefined>>,
  now: number,
): number | undefined {
  const ms = Number(first(headers['retry-after-ms']));
  if (Number.isFinite(ms) && ms >= 0) return ms;
  const text = first(headers['retry-after']);
  if (text === undefined || text.trim() === '') return undefined;
  const seconds = Number(text);
  if (Number.isFinite(seconds)) return seconds >= 0 ? seconds * 1000 : undefined;
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/** NaN-proof: an absent header must not read as the number 0. */
function first(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}
