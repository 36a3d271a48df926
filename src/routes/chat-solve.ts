/**
 * The loop as a chat model: the last user message is the problem, the rounds are the reasoning, the solution is the content.
 * The run is the same as one of `POST /solve`, with its id in `x_solve`.
 */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { StvError } from '../errors.ts';
import type { SolveAnswer, SolveEvent } from '../stv/solve-events.ts';
import { chatMessages, unsupportedParameter } from './openai-params.ts';
import {
  isCutOff,
  isSideBySide,
  reasoningText,
  refuseForSolve,
  solveBodyOf,
  startSolve,
  summaryOf,
  throwEmptyFailure,
  usageOf,
} from './openai-solve.ts';
import { streamOpenAi } from './openai-stream.ts';
import { makeId } from './request-id.ts';
import type { RouteDeps } from './route-deps.ts';
import type { ChatBody } from './schemas-openai.ts';
import type { SolveBody } from './schemas-solve.ts';
import { solveAnswerOf } from './solve-wire.ts';
import { clientSignal } from './sse.ts';

export async function answerChatSolve(
  request: FastifyRequest,
  reply: FastifyReply,
  body: ChatBody,
  deps: RouteDeps,
): Promise<unknown> {
  const signal = clientSignal(reply);
  const solveBody = chatSolveBody(body, deps.config.maxTextLength);
  const events = await startSolve(request, solveBody, deps, signal);
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

function chatSolveBody(body: ChatBody, maxTextLength: number): SolveBody {
  if ((body.n ?? 1) > 1) {
    throw unsupportedParameter(
      'n',
      'The model `solve` gives one choice; `x_solve.chains` sets how many chains look for it.',
    );
  }
  refuseForSolve(body, {
    logprobs: body.logprobs === true,
    top_logprobs: (body.top_logprobs ?? 0) > 0,
    prediction: body.prediction !== undefined,
  });
  return solveBodyOf(
    chatMessages(body),
    { ...body, max_tokens: body.max_completion_tokens ?? body.max_tokens },
    { field: 'messages', maxTextLength },
  );
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

function finishReasonOf(answer: SolveAnswer): string {
  if (answer.status === 'failed') return 'error';
  if (answer.status === 'cancelled') return 'cancelled';
  return isCutOff(answer) ? 'length' : 'stop';
}
