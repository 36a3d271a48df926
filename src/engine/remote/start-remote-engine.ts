/** From a configured address to a remote engine: asks the server what it is, and waits for one that is not there yet. */
import { StvError, toStvError } from '../../errors.ts';
import { CallSignal } from './call-signal.ts';
import { probeRemote } from './probe.ts';
import { type RemoteConfig, resolveLimits } from './remote-config.ts';
import { RemoteEngine, type RemoteEngineOptions } from './remote-engine.ts';
import { RemoteFailure } from './remote-failure.ts';
import { RemoteHttp } from './remote-http.ts';
import { retryDelayMs, waitFor } from './retry.ts';

export interface StartRemoteOptions extends RemoteEngineOptions {
  readonly remote: RemoteConfig;
  /** How long a server that does not answer yet is waited for at the start. Default 10 minutes. */
  readonly startTimeoutMs?: number;
  /** Told once when the server has to be waited for. */
  readonly onWait?: (why: string) => void;
  readonly signal?: AbortSignal;
}

const POLL = { minRetryDelayMs: 500, maxRetryDelayMs: 5_000, maxRetries: Number.POSITIVE_INFINITY };

/**
 * Resolves once the server has told what it is. Throws StvError: `config_invalid` when the configuration does not fit it,
 * `remote_unavailable` when it cannot be asked in time, `cancelled`.
 */
export async function startRemoteEngine(options: StartRemoteOptions): Promise<RemoteEngine> {
  const limits = resolveLimits(options.remote.limits);
  const { url, apiKey } = options.remote;
  const http = new RemoteHttp({ url, apiKey, limits });
  const call = new CallSignal([options.signal], Date.now() + (options.startTimeoutMs ?? 600_000));
  const random = options.random ?? Math.random;
  let last: RemoteFailure | undefined;
  try {
    for (let numFailed = 1; ; numFailed++) {
      try {
        const profile = await probeRemote(http, options.remote, call.signal);
        return new RemoteEngine(options, { http, limits, profile });
      } catch (thrown) {
        if (!(thrown instanceof RemoteFailure)) throw thrown;
        last = thrown;
        const failure = thrown.kind === 'silent' ? new RemoteFailure('broken', thrown.message) : thrown;
        const delayMs = retryDelayMs(failure, numFailed, { limits: POLL, leftMs: call.leftMs, random });
        if (delayMs === undefined) throw thrown;
        if (numFailed === 1) options.onWait?.(`Waiting for the remote ${http.name}: ${thrown.message}`);
        await waitFor(delayMs, call.signal);
      }
    }
  } catch (thrown) {
    await http.close();
    const isLate = thrown instanceof StvError && thrown.code === 'deadline_exceeded';
    const cause = isLate && last !== undefined ? last : thrown;
    throw cause instanceof RemoteFailure ? cause.toStvError() : toStvError(cause);
  } finally {
    call.release();
  }
}
