/**
 * One call of the engine, with its account settled whatever happens: what the engine reports is what is charged, and where a
 * call fails without a report, what was seen of it. Knows no prompts and no verdicts.
 */
import type {
  Engine,
  GenerateRequest,
  GenerationEvent,
  ModelInfo,
  Prompt,
  ScoreRequest,
  ScoreResult,
  Timings,
  Usage,
} from '../engine/engine.ts';
import { StvError } from '../errors.ts';
import type { QueuePatience } from './queue-patience.ts';
import { noTimings } from './usage.ts';

export interface EngineCallContext {
  readonly engine: Engine;
  readonly signal: AbortSignal;
  readonly patience: QueuePatience;
  /** Called once for every try of a call, before it returns or throws. */
  readonly account: (usage: Usage, timings: Timings) => void;
}

export interface GeneratedText {
  readonly text: string;
  readonly finishReason: 'stop' | 'length';
  readonly usage: Usage;
  readonly model: string;
  /** Only where the request asked for them. */
  readonly tokens: SampledTokens | undefined;
}

/**
 * The tokens that were sampled, each with its natural log-probability under the model as it is (before temperature and filters).
 * The end-of-sequence token that ended the text is the last of them. -1 where a remote server tells no token ids.
 */
export interface SampledTokens {
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
}

/** How long an aborted engine may take to end by itself (and so to report what it used) before it is left alone. */
const ABORT_GRACE_MS = 2_000;

const nothing: Usage = {
  promptTokens: 0,
  cachedTokens: 0,
  completionTokens: 0,
  acceptedPredictionTokens: 0,
  rejectedPredictionTokens: 0,
};

/**
 * The model that answers to `name`; `param` is the request's field that named it. Throws StvError `model_not_found`, or
 * `not_ready` while the engine cannot tell.
 */
export function findModel(engine: Engine, name: string, param: string): ModelInfo {
  const model = engine.models().find((info) => info.name === name || info.aliases.includes(name));
  if (model !== undefined) return model;
  const { state, reason } = engine.status();
  if (state !== 'ready') {
    throw new StvError('not_ready', reason ?? `The engine is not ready yet (${state}).`, { retryAfterMs: 1_000 });
  }
  throw new StvError('model_not_found', `The model that \`${param}\` names is not served here; see GET /v1/models.`, {
    param,
  });
}

/** Why a signal was aborted, as the error to throw. */
function abortError(signal: AbortSignal): StvError {
  const reason: unknown = signal.reason;
  return reason instanceof StvError ? reason : new StvError('cancelled', 'The request was cancelled.');
}

export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw abortError(signal);
}

/** Rejects once `signal` has been aborted for the grace period; `release` must be called. */
function abortTimeout(signal: AbortSignal): { readonly expired: Promise<never>; readonly release: () => void } {
  let timer: NodeJS.Timeout | undefined;
  let start: () => void = () => undefined;
  const expired = new Promise<never>((_, reject) => {
    start = (): void => {
      timer = setTimeout(() => reject(abortError(signal)), ABORT_GRACE_MS);
    };
  });
  // nobody may be waiting when it fires
  expired.catch(() => undefined);
  if (signal.aborted) start();
  else signal.addEventListener('abort', start, { once: true });
  return {
    expired,
    release: () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', start);
    },
  };
}

/**
 * Generates to the end; `onText` gets the deltas (with their token counts) and may hold the engine back by not resolving.
 * Throws the engine's error, or the signal's reason once the engine has ended after an abort.
 */
export function generateText(
  context: EngineCallContext,
  request: GenerateRequest,
  onText: OnText,
): Promise<GeneratedText> {
  return context.patience.call(context.signal, () => generateOnce(context, request, onText));
}

type OnText = (text: string, numTokens: number) => Promise<void> | void;

async function generateOnce(
  context: EngineCallContext,
  request: GenerateRequest,
  onText: OnText,
): Promise<GeneratedText> {
  const { engine, signal, account } = context;
  throwIfAborted(signal);
  let usage = nothing;
  let timings = noTimings;
  let text = '';
  const sampled: { ids: number[]; logprobs: number[] } = { ids: [], logprobs: [] };
  const keep = ({ token, logprob }: { readonly token: number; readonly logprob: number }): void => {
    sampled.ids.push(token);
    sampled.logprobs.push(logprob);
  };
  const timeout = abortTimeout(signal);
  const events = engine.generate(request, { signal })[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await Promise.race([events.next(), timeout.expired]);
      if (next.done === true) {
        throwIfAborted(signal);
        throw new StvError('internal', 'The engine ended a generation without saying how.');
      }
      const event: GenerationEvent = next.value;
      if (event.type === 'start') {
        usage = { ...usage, promptTokens: event.promptTokens };
      } else if (event.type === 'delta') {
        usage = { ...usage, completionTokens: usage.completionTokens + event.tokens.length };
        text += event.text;
        event.logprobs?.forEach(keep);
        if (event.text !== '' || event.tokens.length > 0) await onText(event.text, event.tokens.length);
      } else {
        ({ usage, timings } = event);
        if (event.finishReason === 'stop' || event.finishReason === 'length') {
          if (event.endToken !== undefined) keep(event.endToken);
          const tokens = request.logprobs === undefined ? undefined : sampled;
          return { text, finishReason: event.finishReason, usage, model: event.model, tokens };
        }
        throwIfAborted(signal);
        throw event.finishReason === 'cancelled'
          ? new StvError('cancelled', 'The engine cancelled the generation.')
          : new StvError('runtime_failed', 'The engine could not finish the generation.');
      }
    }
  } catch (error) {
    // an engine may answer an abort with any error of its own
    throwIfAborted(signal);
    throw error;
  } finally {
    timeout.release();
    account(usage, timings);
    // not awaited: an engine that does not end would keep us here; errors after the end are nobody's
    void Promise.resolve(events.return?.()).catch(() => undefined);
  }
}

/** As the engine counts them, all at once. Throws the signal's reason as soon as it fires: what is counted costs nothing. */
export async function countTokens(
  { engine, signal }: Pick<EngineCallContext, 'engine' | 'signal'>,
  model: string,
  prompts: readonly Prompt[],
): Promise<readonly number[]> {
  throwIfAborted(signal);
  let stop = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(abortError(signal));
    signal.addEventListener('abort', stop, { once: true });
  });
  try {
    const counts = Promise.all(prompts.map((prompt) => engine.countTokens(model, prompt, { signal })));
    return await Promise.race([counts, aborted]);
  } catch (error) {
    throwIfAborted(signal);
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** One prefill. Throws like `generateText`. */
export function scoreCandidates(context: EngineCallContext, request: ScoreRequest): Promise<ScoreResult> {
  return context.patience.call(context.signal, () => scoreOnce(context, request));
}

async function scoreOnce(context: EngineCallContext, request: ScoreRequest): Promise<ScoreResult> {
  const { engine, signal, account } = context;
  throwIfAborted(signal);
  let result: ScoreResult | undefined;
  const timeout = abortTimeout(signal);
  try {
    result = await Promise.race([engine.score(request, { signal }), timeout.expired]);
    if (result.logprobs.length !== request.candidates.length) {
      throw new StvError('internal', 'The engine scored another number of candidates than it was given.');
    }
    return result;
  } catch (error) {
    throwIfAborted(signal);
    throw error;
  } finally {
    timeout.release();
    account(result?.usage ?? nothing, result?.timings ?? noTimings);
  }
}
