/** `POST /v1/responses`: the text part of the Open Responses contract, without state. The JSON answer is the fold of the stream. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { GenerateRequest, SamplingParams } from '../engine/engine.ts';
import { StvError } from '../errors.ts';
import type { Service } from '../serving.ts';
import { aboutField } from './error-field.ts';
import { serviceFor } from './limits.ts';
import {
  chatMaxTokens,
  chatSampling,
  dropNulls,
  findModel,
  refuseUnsupported,
  samplingParams,
  seedOf,
  stopStrings,
} from './openai-params.ts';
import { refuseForSolve, solveBodyOf, startSolve } from './openai-solve.ts';
import { chatLogprobs, wireUsage } from './openai-wire.ts';
import { drawSeed, makeId } from './request-id.ts';
import { type ResponseEvent, type ResponseHead, ResponseRecord } from './response-record.ts';
import { logprobsOf, responseMessages, unsupportedInResponses } from './responses-input.ts';
import { solvedResponse } from './responses-solve.ts';
import { responseUsage } from './responses-wire.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { answerOrStream, inferenceErrors } from './schemas.ts';
import {
  type ResponseBody,
  ResponseEvent as ResponseEventSchema,
  ResponseResource,
  responseBody,
} from './schemas-responses.ts';
import { clientSignal, type Frame, sendEvents } from './sse.ts';

export function registerResponses(app: App, deps: RouteDeps): void {
  app.post(
    '/v1/responses',
    {
      config: { scope: 'infer' },
      preValidation: async (request) => dropNulls(request.body),
      schema: {
        operationId: 'createResponse',
        tags: ['openai'],
        summary: 'Answer in the form of Open Responses; none is stored, a run of `solve` only with `x_solve.store`',
        body: responseBody(deps.config),
        response: {
          200: answerOrStream(ResponseResource, ResponseEventSchema, 'The response, or its events'),
          ...inferenceErrors,
        },
      },
    },
    async (request, reply) => {
      const service = serviceFor(deps, request);
      const body: ResponseBody = request.body;
      refuseUnsupported(body, unsupportedInResponses);
      const signal = clientSignal(reply);
      const { record, events: begun } =
        body.model === 'solve'
          ? await solveResponse(request, body, service, deps, signal)
          : generateResponse(body, service, signal);
      const events = aboutInput(begun);
      if (body.stream === true) return streamResponse(request, reply, events, record, deps, signal);
      for await (const _ of events) if (signal.aborted) break;
      if (record.isOpen) throw new StvError('cancelled', 'The client closed the connection.');
      return record.resource();
    },
  );
}

/** The engine calls what it is given `messages`; here they come as `input`. */
async function* aboutInput(events: AsyncIterable<ResponseEvent>): AsyncGenerator<ResponseEvent> {
  try {
    yield* events;
  } catch (thrown) {
    const isInput = thrown instanceof StvError && thrown.param === 'messages';
    throw isInput ? aboutField(thrown, 'input') : thrown;
  }
}

interface Responding {
  readonly record: ResponseRecord;
  readonly events: AsyncIterable<ResponseEvent>;
}

function headOf(
  body: ResponseBody,
  sampling: Omit<SamplingParams, 'seed'>,
  maxTokens: number | undefined,
): ResponseHead {
  return {
    id: makeId('resp'),
    created_at: Math.floor(Date.now() / 1000),
    model: body.model,
    instructions: body.instructions ?? null,
    temperature: sampling.temperature,
    top_p: sampling.topP,
    presence_penalty: sampling.presencePenalty,
    frequency_penalty: sampling.frequencyPenalty,
    top_logprobs: body.top_logprobs ?? 0,
    max_output_tokens: maxTokens ?? null,
    text: { format: { type: 'text' } },
    metadata: body.metadata ?? {},
    safety_identifier: body.safety_identifier ?? null,
    prompt_cache_key: body.prompt_cache_key ?? null,
    previous_response_id: null,
    reasoning: null,
    max_tool_calls: null,
    tools: [],
    tool_choice: 'auto',
    parallel_tool_calls: false,
    truncation: 'disabled',
    store: false,
    background: false,
    service_tier: 'default',
  };
}

function generateResponse(body: ResponseBody, service: Service, signal: AbortSignal): Responding {
  const { engine, pack } = service;
  const model = findModel(engine, body.model);
  const sampling = chatSampling(body, seedOf(body.seed, 0, drawSeed), model, pack);
  const head = headOf(body, sampling, body.max_output_tokens);
  const record = new ResponseRecord(head);
  const logprobs = logprobsOf(body);
  const request: GenerateRequest = {
    id: head.id,
    model: model.name,
    prompt: { kind: 'chat', messages: responseMessages(body) },
    sampling,
    maxTokens: chatMaxTokens({ model: body.model, max_tokens: body.max_output_tokens }, model, pack),
    stop: stopStrings(body.stop),
    ...(logprobs === undefined ? {} : { logprobs }),
    priority: 'interactive',
  };
  return { record, events: generatedEvents(request, service, record, signal) };
}

async function* generatedEvents(
  request: GenerateRequest,
  { engine }: Service,
  record: ResponseRecord,
  signal: AbortSignal,
): AsyncGenerator<ResponseEvent> {
  let isBegun = false;
  for await (const event of engine.generate(request, { signal })) {
    switch (event.type) {
      case 'start':
        isBegun = true;
        yield* record.begin();
        yield* record.openMessage();
        break;
      case 'delta': {
        const logprobs = event.logprobs === undefined ? [] : chatLogprobs(event.logprobs).content;
        if (event.text !== '' || logprobs.length > 0) yield* record.addText(event.text, logprobs);
        break;
      }
      case 'end': {
        if (!isBegun) throw new StvError('cancelled', 'The client closed the connection.');
        const isWhole = event.finishReason === 'stop';
        yield* record.closeMessage(isWhole ? 'completed' : 'incomplete');
        yield* record.finish({
          status: isWhole ? 'completed' : 'incomplete',
          ...(isWhole ? {} : { reason: event.finishReason === 'length' ? 'max_output_tokens' : 'cancelled' }),
          usage: responseUsage(wireUsage([event.usage])),
        });
        break;
      }
    }
  }
}

async function solveResponse(
  request: FastifyRequest,
  body: ResponseBody,
  { pack }: Service,
  deps: RouteDeps,
  signal: AbortSignal,
): Promise<Responding> {
  refuseForSolve(body, {
    top_logprobs: (body.top_logprobs ?? 0) > 0,
    include: logprobsOf(body) !== undefined,
  });
  const params = { ...body, max_tokens: body.max_output_tokens };
  const { maxTextLength } = deps.config;
  const solveBody = solveBodyOf(responseMessages(body), params, { field: 'input', maxTextLength });
  const events = await startSolve(request, solveBody, deps, signal);
  // what `x_solve` says of the generator holds over the fields of the route
  const { generator = {} } = solveBody;
  const sampling = samplingParams(generator, 0, pack.defaults.generator.sampling);
  const record = new ResponseRecord(headOf(body, sampling, generator.max_tokens));
  return { record, events: solvedResponse(events, solveBody, record) };
}

async function* responseFrames(events: AsyncIterable<ResponseEvent>): AsyncGenerator<Frame> {
  for await (const event of events) yield frameOf(event);
  yield { data: '[DONE]' };
}

/** Without ids: the contract counts with `sequence_number`. */
function frameOf(event: ResponseEvent): Frame {
  return { event: event.type, data: JSON.stringify(event) };
}

async function streamResponse(
  request: FastifyRequest,
  reply: FastifyReply,
  events: AsyncIterable<ResponseEvent>,
  record: ResponseRecord,
  deps: RouteDeps,
  signal: AbortSignal,
): Promise<void> {
  await sendEvents(request, reply, responseFrames(events), {
    deps,
    signal,
    onError: (wire) => [...record.fail(wire.body.error).map(frameOf), { data: '[DONE]' }],
  });
}
