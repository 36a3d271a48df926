/**
 * One event of `chat/completions` or `completions`, or a whole answer of either, read strictly: what is there must have the right
 * type, what servers add is ignored. Knows both shapes of log-probabilities and no transport.
 */
import type { TokenLogprob, Usage } from '../engine.ts';
import { RemoteFailure } from './remote-failure.ts';

/** Usage as a server counts it; what it does not tell is undefined. */
export interface ReportedUsage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly cachedTokens: number;
  readonly acceptedPredictionTokens: number;
  readonly rejectedPredictionTokens: number;
}

export interface CompletionChunk {
  readonly text: string;
  /** Characters of a separate reasoning field: not part of the text, but a sign of work. */
  readonly numReasoningChars: number;
  readonly finish: 'stop' | 'length' | undefined;
  /** The stop string, where the server names it. */
  readonly stop: string | undefined;
  /** Ids of the tokens, where the server tells them. */
  readonly tokens: readonly number[] | undefined;
  readonly logprobs: readonly TokenLogprob[] | undefined;
  readonly usage: ReportedUsage | undefined;
}

/** In place of the id of a token where the server tells only its text. */
export const UNKNOWN_TOKEN = -1;

const FINISH: Readonly<Record<string, 'stop' | 'length'>> = {
  stop: 'stop',
  eos: 'stop',
  eos_token: 'stop',
  end_turn: 'stop',
  stop_sequence: 'stop',
  length: 'length',
  max_tokens: 'length',
};

/**
 * Throws RemoteFailure: `malformed` for a wrong type, `failed` for an error that the server reports inside the answer or for an
 * end that is none (a content filter, an abort). @param remote how messages name the server
 */
export function readChunk(remote: string, data: unknown): CompletionChunk {
  const event = asObject(remote, data, 'an event');
  const error = event['error'];
  if (error !== undefined && error !== null) {
    throw new RemoteFailure('failed', `The remote ${remote} reported an error inside its answer.`);
  }
  const usage = readUsage(remote, event['usage']);
  const choices = event['choices'];
  if (!Array.isArray(choices)) throw malformed(remote, 'choices');
  if (choices.length === 0) return { ...EMPTY, usage };
  const choice = asObject(remote, choices[0], 'choices');
  if (choices.length > 1 || (choice['index'] ?? 0) !== 0) throw malformed(remote, 'choices');
  const holder = choice['delta'] ?? choice['message'];
  const message = holder === undefined || holder === null ? undefined : asObject(remote, holder, 'delta');
  const text = message === undefined ? choice['text'] : message['content'];
  if (text !== undefined && text !== null && typeof text !== 'string') throw malformed(remote, 'the text');
  const reasoning = message?.['reasoning_content'] ?? message?.['reasoning'];
  const logprobs = readLogprobs(remote, choice['logprobs']);
  const ids = choice['token_ids'];
  if (ids !== undefined && ids !== null && !isTokenList(ids)) throw malformed(remote, 'token_ids');
  const stop = choice['stop_reason'];
  return {
    text: text ?? '',
    numReasoningChars: typeof reasoning === 'string' ? reasoning.length : 0,
    finish: readFinish(remote, choice['finish_reason']),
    stop: typeof stop === 'string' ? stop : undefined,
    tokens: isTokenList(ids) ? ids : knownIds(logprobs),
    logprobs,
    usage,
  };
}

const EMPTY: CompletionChunk = {
  text: '',
  numReasoningChars: 0,
  finish: undefined,
  stop: undefined,
  tokens: undefined,
  logprobs: undefined,
  usage: undefined,
};

function readFinish(remote: string, value: unknown): 'stop' | 'length' | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  if (typeof value !== 'string') throw malformed(remote, 'finish_reason');
  const reason = FINISH[value.toLowerCase()];
  if (reason !== undefined) return reason;
  const shown = /^[\w-]{1,32}$/u.test(value) ? value : 'an unknown reason';
  throw new RemoteFailure('incomplete', `The remote ${remote} ended its answer for ${shown}, so it is not complete.`);
}

function readUsage(remote: string, value: unknown): ReportedUsage | undefined {
  if (value === undefined || value === null) return undefined;
  const usage = asObject(remote, value, 'usage');
  const count = (from: unknown, field: string): number => {
    const found: unknown = typeof from === 'object' && from !== null ? Reflect.get(from, field) : undefined;
    if (found === undefined || found === null) return 0;
    if (typeof found === 'number' && Number.isInteger(found) && found >= 0) return found;
    throw malformed(remote, `usage.${field}`);
  };
  // a usage object without the counts is as good as none
  if (typeof usage['prompt_tokens'] !== 'number' || typeof usage['completion_tokens'] !== 'number') return undefined;
  const promptTokens = count(usage, 'prompt_tokens');
  return {
    promptTokens,
    completionTokens: count(usage, 'completion_tokens'),
    cachedTokens: Math.min(promptTokens, count(usage['prompt_tokens_details'], 'cached_tokens')),
    acceptedPredictionTokens: count(usage['completion_tokens_details'], 'accepted_prediction_tokens'),
    rejectedPredictionTokens: count(usage['completion_tokens_details'], 'rejected_prediction_tokens'),
  };
}

function readLogprobs(remote: string, value: unknown): TokenLogprob[] | undefined {
  if (value === undefined || value === null) return undefined;
  const object = asObject(remote, value, 'logprobs');
  if (Array.isArray(object['content'])) return object['content'].map((entry) => readChatLogprob(remote, entry));
  if (Array.isArray(object['tokens'])) return readTextLogprobs(remote, object);
  // chat answers send the object with null where there is nothing
  if ((object['content'] ?? undefined) === undefined) return undefined;
  throw malformed(remote, 'logprobs');
}

function readChatLogprob(remote: string, value: unknown): TokenLogprob {
  const entry = asObject(remote, value, 'logprobs.content');
  const top = entry['top_logprobs'] ?? [];
  if (!Array.isArray(top)) throw malformed(remote, 'top_logprobs');
  const one = (from: Readonly<Record<string, unknown>>): Omit<TokenLogprob, 'top'> => {
    const { token, logprob, bytes, id } = from;
    // llama-server writes null for a probability that rounds to 0
    if (typeof token !== 'string' || (typeof logprob !== 'number' && logprob !== null))
      throw malformed(remote, 'logprobs');
    return {
      ...spelled(token, isByteList(bytes) ? bytes : undefined, typeof id === 'number' ? id : undefined),
      logprob: logprob ?? Number.NEGATIVE_INFINITY,
    };
  };
  return { ...one(entry), top: top.map((alternative) => one(asObject(remote, alternative, 'top_logprobs'))) };
}

/** The older shape: parallel arrays, alternatives as an object from token to log-probability. */
function readTextLogprobs(remote: string, object: Readonly<Record<string, unknown>>): TokenLogprob[] {
  const { tokens, token_logprobs: own, top_logprobs: alternatives } = object;
  if (!Array.isArray(tokens) || !Array.isArray(own) || tokens.length !== own.length) {
    throw malformed(remote, 'logprobs');
  }
  return tokens.map((token: unknown, index) => {
    const logprob: unknown = own[index];
    if (typeof token !== 'string' || (typeof logprob !== 'number' && logprob !== null))
      throw malformed(remote, 'logprobs');
    const top: unknown = Array.isArray(alternatives) ? alternatives[index] : undefined;
    const entries = typeof top === 'object' && top !== null ? Object.entries(top) : [];
    return {
      ...spelled(token, undefined, undefined),
      logprob: logprob ?? Number.NEGATIVE_INFINITY,
      top: entries
        .map(([text, value]) => {
          if (typeof value !== 'number') throw malformed(remote, 'top_logprobs');
          return { ...spelled(text, undefined, undefined), logprob: value };
        })
        .sort((a, b) => b.logprob - a.logprob),
    };
  });
}

/** vLLM can write ids in place of texts: `token_id:123`. */
function spelled(
  token: string,
  bytes: readonly number[] | undefined,
  id: number | undefined,
): Pick<TokenLogprob, 'token' | 'text' | 'bytes'> {
  const written = /^token_id:(\d{1,9})$/u.exec(token)?.[1];
  return {
    token: id ?? (written === undefined ? UNKNOWN_TOKEN : Number(written)),
    text: written === undefined ? token : '',
    bytes: bytes ?? (written === undefined ? [...new TextEncoder().encode(token)] : []),
  };
}

function knownIds(logprobs: readonly TokenLogprob[] | undefined): readonly number[] | undefined {
  const ids = logprobs?.map(({ token }) => token);
  return ids === undefined || ids.includes(UNKNOWN_TOKEN) ? undefined : ids;
}

export function isTokenList(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((id) => typeof id === 'number' && Number.isInteger(id) && id >= 0);
}

function isByteList(value: unknown): value is number[] {
  return isTokenList(value) && value.every((byte) => byte < 256);
}

function asObject(remote: string, value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw malformed(remote, what);
}

function malformed(remote: string, what: string): RemoteFailure {
  return new RemoteFailure(
    'malformed',
    `The remote ${remote} answered with JSON in which ${what} is not as it should be.`,
  );
}

/** What the engine reports. `estimated` fills what the server left out. */
export function usageOf(
  reported: ReportedUsage | undefined,
  estimated: { readonly promptTokens: number; readonly completionTokens: number },
): Usage {
  if (reported !== undefined) return { ...reported };
  return {
    ...estimated,
    cachedTokens: 0,
    acceptedPredictionTokens: 0,
    rejectedPredictionTokens: 0,
    isEstimated: true,
  };
}
