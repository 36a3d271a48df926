/** Attempts of one request: each passes the circuit, failures are tried again as long as nothing has been passed on. */

import type { CallSignal } from './call-signal.ts';
import type { CircuitBreaker, CircuitPass } from './circuit-breaker.ts';
import { RemoteFailure } from './remote-failure.ts';
import { type RetryLimits, retryDelayMs, waitFor } from './retry.ts';

export interface AttemptsOptions {
  readonly breaker: CircuitBreaker;
  readonly limits: RetryLimits;
  readonly random: () => number;
  readonly call: CallSignal;
  /** A call beside the work, see `CircuitBreaker`. */
  readonly isAside: boolean;
  readonly onFailure: (failure: RemoteFailure) => void;
  readonly onRetry: () => void;
}

/**
 * Runs `attempt` until it resolves or is not to be made again. What it resolves with is the first thing worth keeping: the whole
 * answer, or a stream's first event; from then on `settle` judges the pass. Throws RemoteFailure, StvError from the circuit, or the
 * signal's reason.
 */
export async function withAttempts<T>(
  attempt: () => Promise<T>,
  options: AttemptsOptions,
): Promise<{ readonly value: T; readonly pass: CircuitPass }> {
  const { breaker, call, isAside, limits, random } = options;
  for (let numFailed = 1; ; numFailed++) {
    call.signal.throwIfAborted();
    const pass = breaker.enter({ isAside });
    try {
      const value = await attempt();
      pass.progress();
      return { value, pass };
    } catch (thrown) {
      settle(pass, thrown);
      if (!(thrown instanceof RemoteFailure)) throw thrown;
      options.onFailure(thrown);
      const delayMs = retryDelayMs(thrown, numFailed, { limits, leftMs: call.leftMs, random });
      if (delayMs === undefined) throw thrown;
      options.onRetry();
      await waitFor(delayMs, call.signal);
    }
  }
}

/** What a thrown thing says about the server. */
export function settle(pass: CircuitPass, thrown: unknown): void {
  if (!(thrown instanceof RemoteFailure)) pass.leave();
  else if (thrown.isFault) pass.fail();
  // it answered, so it is there
  else pass.succeed();
}
