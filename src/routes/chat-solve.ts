/**
 * The loop as a chat model: the last user message is the problem, the rounds are the reasoning, the solution is the content.
 * The run is the same as one of `POST /solve`, with its id in `x_solve`.
 */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { StvError } from '../errors.ts';
import type { SolveAnswer, SolveEvent } from '../stv/solve-events.ts';
import type { TokenUsage } from '../stv/usage.ts';
import { chatMessages, seedOf, stopStrings, unsupportedParameter } from './openai-params.ts';
import { streamOpenAi } from './openai-stream.ts';
import { drawSeed, makeId } from './request-id.ts';
import type { RouteDeps } from './route-deps.ts';
import type { WireUsage } from './schemas.ts';
import type { ChatBody } from './schemas-openai.ts';
import type { SolveBody } from './schemas-solve.ts';
import { ownerOf, toSolveRequest } from './solve-request.ts';
import { holdFor, isEmptyFailure, solveAnswerOf } from './solve-wire.ts';
import { clientSignal } from './sse.ts';

export async function answerChatSolve(
  request: FastifyRequest,
  reply: FastifyReply,
  body: ChatBody,
  deps: RouteDeps,
): Promise<unknown> {
  const solveBody = toSolveBody(body, deps.config.maxTextLength);
  const signal = clientSignal(reply);
  const found = await deps.runs.start({
    request: toSolveRequest(solveBody, makeId('slv'), deps.config),
    owner: ownerOf(request),
    isStored: solveBody.store === true,
    label: solveBody.label,
  });
  if (found.kind === 'live' && solveBody.store !== true) holdFor(found.live, signal);
  const events = deps.runs.events(found, 0, signal);
  const head = { id: makeId('chatcmpl'), created: Math.floor(Date.now() / 1000), model: 'solve' };
  const field = deps.config.reasoningField;
  if (body.stream === true) {
    const withUsage = body.stream_options?.include_usage === true;
    return streamOpenAi(request, reply, solveChunks(events, head, field, withUsage), deps, signal);
  }
  let reasoning = '';
  for await (const event of events) {
    reasoning += reasoningText(event, isSideBySide(solveBody));
    if (event.type !== 'solve-end') continue;
    const answer = solveAnswerOf(event);
    throwEmptyFailure(answer);
    return {
      ...head,
      object: 'chat.completion',
      choices: [
        {
          index: 0,
          message: {
            role: 'assistant',
            content: answer.solution ?? '',
            refusal: null,
            ...reasoningFields(field, reasoning),
          },
          logprobs: null,
          finish_reason: finishReasonOf(answer),
        },
      ],
      usage: usageOf(answer),
      x_solve: summaryOf(answer),
    };
  }
  throw new StvError('cancelled', 'The client closed the connection.');
}

function toSolveBody(body: ChatBody, maxTextLength: number): SolveBody {
  for (const name of ['logprobs', 'top_logprobs', 'logit_bias', 'prediction'] as const) {
    if (body[name] !== undefined && body[name] !== false) {
      throw unsupportedParameter(name, `The parameter \`${name}\` is not supported with the model \`solve\`.`);
    }
  }
  if ((body.n ?? 1) > 1) {
    throw unsupportedParameter(
      'n',
      'The model `solve` gives one choice; `x_solve.chains` sets how many chains look for it.',
    );
  }
  if (stopStrings(body.stop).length > 0) {
    throw unsupportedParameter('stop', 'The parameter `stop` is not supported with the model `solve`.');
  }
  const problem = chatMessages(body).findLast((message) => message.role === 'user')?.content ?? '';
  if (problem.length < 1 || problem.length > maxTextLength) {
    throw new StvError(
      'invalid_value',
      `The last user message must hold 1 to ${maxTextLength} UTF-16 units, got ${problem.length}.`,
      { param: 'messages' },
    );
  }
  const { temperature, top_p, top_k, min_p } = body;
  const max_tokens = body.max_completion_tokens ?? body.max_tokens;
  const given = Object.entries({ temperature, top_p, top_k, min_p, max_tokens }).filter(
    ([, value]) => value !== undefined,
  );
  return {
    ...body.x_solve,
    problem,
    generator: { ...Object.fromEntries(given), ...body.x_solve?.generator },
    seed: body.x_solve?.seed ?? seedOf(body.seed, 0, drawSeed),
  };
}

/** Texts that grow at the same time cannot share one stream of reasoning; they come whole, when they are finished. */
function isSideBySide(body: SolveBody): boolean {
  return (body.chains ?? 1) > 1 || (body.accept?.rule === 'votes' && body.accept.n > 1);
}

/** What one event adds to the reasoning. */
export function reasoningText(event: SolveEvent, sideBySide: boolean): string {
  switch (event.type) {
    case 'attempt-start':
      return sideBySide ? '' : `Round ${event.round}, attempt:\n`;
    case 'attempt-delta':
    case 'verification-delta':
      return sideBySide ? '' : event.text;
    case 'attempt-end':
      return sideBySide ? `Chain ${event.chain}, round ${event.round}, attempt:\n${event.attempt}\n\n` : '\n\n';
    case 'verification-start':
      return sideBySide ? '' : `Round ${event.round}, verification:\n`;
    case 'verification-end': {
      const verdict = `Verdict: ${event.verdict} (score ${event.score.toFixed(2)})\n\n`;
      if (!sideBySide) return `\n${verdict}`;
      return `Chain ${event.chain}, round ${event.round}, verification:\n${event.feedback}\n${verdict}`;
    }
    default:
      return '';
  }
}

type ReasoningField = RouteDeps['config']['reasoningField'];

function reasoningFields(field: ReasoningField, text: string): Record<string, string> {
  switch (field) {
    case 'none':
      return {};
    case 'both':
      return { reasoning_content: text, reasoning: text };
    default:
      return { [field]: text };
  }
}

async function* solveChunks(
  events: AsyncIterable<SolveEvent>,
  head: object,
  field: ReasoningField,
  withUsage: boolean,
): AsyncGenerator<object> {
  let sideBySide = false;
  const base = { ...head, object: 'chat.completion.chunk' };
  const chunk = (delta: object, finishReason: string | null = null, extra: object = {}): object => ({
    ...base,
    choices: [{ index: 0, delta, logprobs: null, finish_reason: finishReason }],
    ...(withUsage ? { usage: null } : {}),
    ...extra,
  });
  for await (const event of events) {
    if (event.type === 'solve-start') {
      const { chains, accept } = event.limits;
      sideBySide = chains > 1 || (accept.rule === 'votes' && accept.n > 1);
      yield chunk({ role: 'assistant', content: '' });
    }
    const text = field === 'none' ? '' : reasoningText(event, sideBySide);
    if (text !== '') yield chunk(reasoningFields(field, text));
    if (event.type !== 'solve-end') continue;
    const answer = solveAnswerOf(event);
    throwEmptyFailure(answer);
    const x_solve = summaryOf(answer);
    if (answer.solution !== null) yield chunk({ content: answer.solution });
    yield chunk({}, finishReasonOf(answer), { x_solve });
    if (withUsage) yield { ...base, choices: [], usage: usageOf(answer), x_solve };
  }
}

function throwEmptyFailure(answer: SolveAnswer): void {
  if (answer.error === null || !isEmptyFailure(answer)) return;
  const { code, message, param } = answer.error;
  throw new StvError(code, message, param === null ? {} : { param });
}

function finishReasonOf(answer: SolveAnswer): string {
  if (answer.status === 'failed') return 'error';
  return answer.status === 'cancelled' ? 'cancelled' : 'stop';
}

function summaryOf(answer: SolveAnswer): object {
  const { id, status, stopReason, score, chain, round } = answer;
  return { id, status, stop_reason: stopReason, score, chain, round };
}

/** Both roles together. What was generated beside the solution itself counts as reasoning. */
function usageOf(answer: SolveAnswer): WireUsage {
  const { generator, verifier } = answer.usage;
  const sum = (read: (usage: TokenUsage) => number): number => read(generator) + read(verifier);
  const completion = sum((usage) => usage.completionTokens);
  const chosen = answer.chains
    .find((chain) => chain.chain === answer.chain)
    ?.rounds.find((round) => round.round === answer.round);
  const shown = answer.solution === null ? 0 : (chosen?.usage.generator.completionTokens ?? 0);
  return {
    prompt_tokens: sum((usage) => usage.promptTokens),
    completion_tokens: completion,
    total_tokens: sum((usage) => usage.totalTokens),
    prompt_tokens_details: { cached_tokens: sum((usage) => usage.promptTokensDetails.cachedTokens) },
    completion_tokens_details: {
      accepted_prediction_tokens: sum((usage) => usage.completionTokensDetails.acceptedPredictionTokens),
      rejected_prediction_tokens: sum((usage) => usage.completionTokensDetails.rejectedPredictionTokens),
      reasoning_tokens: Math.max(0, completion - shown),
    },
  };
}
