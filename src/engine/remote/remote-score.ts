/**
 * How likely candidates are behind a prompt, asked of a remote server. With a tokenizer: exactly, one short request for each place
 * where the candidates' tokens part. Without: from the texts of the most likely first tokens. Without log-probabilities: one vote.
 */
import type { Prompt, ScoreResult, Usage } from '../engine.ts';
import type { PromptRowResult } from '../messages.ts';
import { collectScore, planScore } from '../score-plan.ts';
import type { CallSignal } from './call-signal.ts';
import { type CompletionChunk, usageOf } from './completion-chunk.ts';
import type { RemoteProfile } from './probe.ts';
import type { RemoteClient } from './remote-client.ts';
import { RemoteFailure } from './remote-failure.ts';
import { readingBody, voteCall } from './request-body.ts';
import { scoreFirstToken, scoreVote, tokenBehindEcho } from './score-by-text.ts';

export interface ScoreDeps {
  readonly client: RemoteClient;
  readonly profile: RemoteProfile;
  readonly call: CallSignal;
}

export type RemoteScore = Pick<ScoreResult, 'logprobs' | 'usage' | 'method'>;

/**
 * Alternatives to ask for, the next number when a candidate is not among the first: vLLM allows 20 unless it is told otherwise,
 * llama-server any number.
 */
const NUM_ALTERNATIVES: Readonly<Record<RemoteProfile['dialect'], readonly number[]>> = {
  'llama.cpp': [200, 5_000],
  vllm: [20],
  openai: [20],
};
const VOTE_ALTERNATIVES = 20;
/** Enough for a word, and for a short beginning that a server repeats. */
const VOTE_TOKENS = 16;

/**
 * Exact but for candidates outside the alternatives, which get -Infinity. undefined when the server gives no log-probabilities.
 * @param encodings the prompt, and the prompt with each candidate
 */
export async function scoreByTokens(
  [prompt = new Int32Array(0), ...encodings]: readonly Int32Array[],
  deps: ScoreDeps,
): Promise<RemoteScore | undefined> {
  const plan = planScore(prompt, encodings);
  const results: PromptRowResult[][] = [];
  let numReadings = 0;
  // of the candidates, as far as they had to be read
  let numRead = 0;
  let cachedTokens: number | undefined;
  for (const sequence of plan.sequences) {
    const rows: PromptRowResult[] = [];
    for (const { position, targets } of sequence.promptRows) {
      const ofToken = new Map<number, number>();
      for (const top of NUM_ALTERNATIVES[deps.profile.dialect]) {
        const reading = await read(sequence.prompt.subarray(0, position + 1), { ...deps, top });
        const place = reading.logprobs?.[0];
        if (place === undefined) return undefined;
        for (const { token, logprob } of [place, ...place.top]) ofToken.set(token, logprob);
        numReadings += 1;
        cachedTokens ??= reading.usage?.cachedTokens;
        if (targets.every((target) => ofToken.has(target))) break;
      }
      rows.push({
        position,
        logprobs: targets.map((target) => ofToken.get(target) ?? Number.NEGATIVE_INFINITY),
        topTokens: [],
        topLogprobs: [],
      });
      numRead += position + 1 - plan.numShared;
    }
    results.push(rows);
  }
  return {
    logprobs: collectScore(plan, encodings, results),
    // the prompt once: behind the first reading the server has it in its cache
    usage: {
      ...noUsage,
      promptTokens: prompt.length + numRead,
      cachedTokens: Math.min(cachedTokens ?? 0, prompt.length),
      completionTokens: numReadings,
    },
  };
}

async function read(
  tokens: Int32Array,
  { client, profile, call, top }: ScoreDeps & { readonly top: number },
): Promise<CompletionChunk> {
  const body = readingBody(profile, tokens, top);
  return client.complete({ api: '/completions' }, body, call);
}

export interface TextScore {
  readonly score: RemoteScore;
  /** Asked for log-probabilities the server wrote something and none with it: it gives none. An empty answer does not tell. */
  readonly lacksLogprobs: boolean;
  /** It refused to give log-probabilities and answered without. */
  readonly hasRefused: boolean;
}

/** One short greedy answer, read by its first token where log-probabilities come with it, else as a vote. */
export async function scoreByText(
  prompt: Prompt,
  candidates: readonly string[],
  deps: ScoreDeps & {
    readonly withLogprobs: boolean;
    readonly estimate: { readonly promptTokens: number };
  },
): Promise<TextScore> {
  const { client, profile, call, estimate } = deps;
  const ask = async (top: number | undefined): Promise<CompletionChunk> => {
    const { route, body } = voteCall(prompt, profile, { maxTokens: VOTE_TOKENS, top });
    return client.complete(route, body, call);
  };
  const asked = deps.withLogprobs ? await askWithLogprobs(ask) : undefined;
  const answer = asked ?? (await ask(undefined));
  const lacksLogprobs = asked !== undefined && asked.logprobs === undefined && asked.text !== '';
  const hasRefused = deps.withLogprobs && asked === undefined;
  const prefix = prompt.kind === 'chat' ? (prompt.assistantPrefix ?? '') : '';
  const usage = usageOf(answer.usage, {
    promptTokens: estimate.promptTokens,
    completionTokens: answer.logprobs?.length ?? 1,
  });
  const place = tokenBehindEcho(answer.logprobs ?? [], prefix);
  if (place !== undefined && place.top.length > 0) {
    const logprobs = scoreFirstToken(place.top, candidates);
    return { score: { logprobs, usage, method: 'first-token' }, lacksLogprobs, hasRefused };
  }
  const core = prefix.trimEnd();
  const text = core !== '' && answer.text.startsWith(core) ? answer.text.slice(core.length) : answer.text;
  return { score: { logprobs: scoreVote(text, candidates), usage, method: 'vote' }, lacksLogprobs, hasRefused };
}

/** About the key or the route: the same without log-probabilities would be refused too. */
const NOT_ABOUT_LOGPROBS: readonly (number | undefined)[] = [401, 403, 404, 405];

/** undefined where the server refuses what may be the log-probabilities. */
async function askWithLogprobs(ask: (top: number) => Promise<CompletionChunk>): Promise<CompletionChunk | undefined> {
  try {
    return await ask(VOTE_ALTERNATIVES);
  } catch (thrown) {
    if (!(thrown instanceof RemoteFailure) || NOT_ABOUT_LOGPROBS.includes(thrown.status)) throw thrown;
    if (thrown.kind !== 'refused' && thrown.kind !== 'unsupported') throw thrown;
    return undefined;
  }
}

const noUsage: Usage = {
  promptTokens: 0,
  cachedTokens: 0,
  completionTokens: 0,
  acceptedPredictionTokens: 0,
  rejectedPredictionTokens: 0,
};
