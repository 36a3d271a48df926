/** `POST /v1/chat/completions`: chat with a loaded model, or with `solve`, which runs the loop. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { GenerateRequest, ModelInfo, Usage } from '../engine/engine.ts';
import type { Service } from '../serving.ts';
import { answerChatSolve } from './chat-solve.ts';
import { type ChoiceEvent, collectChoices, generateChoices, requestUsage } from './choices.ts';
import { serviceFor } from './limits.ts';
import {
  chatMaxTokens,
  chatMessages,
  chatSampling,
  dropNulls,
  findModel,
  partsText,
  refuseUnsupported,
  seedOf,
  stopStrings,
} from './openai-params.ts';
import { streamOpenAi } from './openai-stream.ts';
import { chatLogprobs, fingerprint, wireUsage } from './openai-wire.ts';
import { drawSeed, makeId } from './request-id.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { answerOrStream, inferenceErrors } from './schemas.ts';
import { type ChatBody, ChatChunk, ChatCompletion, chatBody } from './schemas-openai.ts';
import { clientSignal } from './sse.ts';

export function registerChatCompletions(app: App, deps: RouteDeps): void {
  app.post(
    '/v1/chat/completions',
    {
      config: { scope: 'infer' },
      preValidation: async (request) => dropNulls(request.body),
      schema: {
        operationId: 'createChatCompletion',
        tags: ['openai'],
        summary: 'Chat with a model, or run the loop with model `solve`',
        body: chatBody(deps.config),
        response: {
          200: answerOrStream(ChatCompletion, ChatChunk, 'The completion, or its chunks'),
          ...inferenceErrors,
        },
      },
    },
    async (request, reply) => {
      const service = serviceFor(deps, request);
      const body: ChatBody = request.body;
      refuseUnsupported(body);
      if (body.model === 'solve') return answerChatSolve(request, reply, body, deps);
      return answerChat(request, reply, body, service, deps);
    },
  );
}

interface ChatHead {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

async function answerChat(
  request: FastifyRequest,
  reply: FastifyReply,
  body: ChatBody,
  { engine, pack }: Service,
  deps: RouteDeps,
): Promise<unknown> {
  const model = findModel(engine, body.model);
  const signal = clientSignal(reply);
  const head: ChatHead = {
    id: makeId('chatcmpl'),
    created: Math.floor(Date.now() / 1000),
    model: body.model,
    system_fingerprint: fingerprint(model.digest),
  };
  const requests = chatRequests(body, head.id, model, { engine, pack });
  const events = generateChoices(engine, requests, signal);
  if (body.stream === true) {
    const withUsage = body.stream_options?.include_usage === true;
    return streamOpenAi(request, reply, chatChunks(events, head, body, withUsage), deps, signal);
  }
  const choices = await collectChoices(events, requests.length);
  const usages = requestUsage(
    choices.map((choice) => choice.usage),
    requests.length,
  );
  return {
    ...head,
    object: 'chat.completion',
    choices: choices.map((choice, index) => ({
      index,
      message: { role: 'assistant', content: choice.text, refusal: null },
      logprobs: body.logprobs === true ? chatLogprobs(choice.logprobs) : null,
      finish_reason: choice.finishReason,
    })),
    usage: wireUsage(usages),
  };
}

function chatRequests(body: ChatBody, id: string, model: ModelInfo, { pack }: Service): GenerateRequest[] {
  const messages = chatMessages(body);
  const first = seedOf(body.seed, 0, drawSeed);
  const prediction =
    body.prediction === undefined ? undefined : partsText(body.prediction.content, 'prediction.content');
  return Array.from({ length: body.n ?? 1 }, (_, choice) => ({
    id: `${id}.${choice}`,
    model: model.name,
    prompt: { kind: 'chat', messages },
    sampling: chatSampling(body, seedOf(first, choice, drawSeed), model, pack),
    maxTokens: chatMaxTokens(body, model, pack),
    stop: stopStrings(body.stop),
    ...(body.ignore_eos === true ? { ignoreEos: true } : {}),
    ...(body.logprobs === true ? { logprobs: body.top_logprobs ?? 0 } : {}),
    ...(prediction === undefined || prediction === '' ? {} : { prediction }),
    priority: 'interactive',
  }));
}

async function* chatChunks(
  events: AsyncIterable<ChoiceEvent>,
  head: ChatHead,
  body: ChatBody,
  withUsage: boolean,
): AsyncGenerator<object> {
  const usages: Usage[] = [];
  const chunk = (index: number, delta: object, finishReason: string | null, logprobs?: object): object => ({
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ index, delta, logprobs: logprobs ?? null, finish_reason: finishReason }],
    ...(withUsage ? { usage: null } : {}),
  });
  for await (const { choice, event } of events) {
    switch (event.type) {
      case 'start':
        yield chunk(choice, { role: 'assistant', content: '' }, null);
        break;
      case 'delta': {
        const logprobs =
          body.logprobs === true && event.logprobs !== undefined ? chatLogprobs(event.logprobs) : undefined;
        if (event.text !== '' || logprobs !== undefined) yield chunk(choice, { content: event.text }, null, logprobs);
        break;
      }
      case 'end':
        usages[choice] = event.usage;
        yield chunk(choice, {}, event.finishReason);
        break;
    }
  }
  if (!withUsage) return;
  const usage = wireUsage(requestUsage(usages, usages.length));
  yield { ...head, object: 'chat.completion.chunk', choices: [], usage };
}
