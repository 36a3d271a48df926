/**
 * `POST /v1/responses`: the body, the response object and the events of its stream, in the words of the Open Responses
 * contract of 2026-04-24. Only what this server sends is described; unknown fields of a body pass.
 */
import { type Static, type TProperties, type TSchema, Type } from 'typebox';
import { GENERATION_BOUNDS } from '../engine/sampling-params.ts';
import { created, ErrorObject, type Limits, nullable, oneOf, seedField, strictObject } from './schemas.ts';
import { bounded, contentPart, logitBias, maxMessages, SolveSummary, stopString } from './schemas-openai.ts';
import { solveOptions } from './schemas-solve.ts';

const metadata = Type.Record(Type.String(), Type.String({ maxLength: 512 }), {
  maxProperties: 16,
  propertyNames: { type: 'string', minLength: 1, maxLength: 64 },
});

const inputItem = Type.Object({
  type: Type.Optional(Type.String({ maxLength: 64 })),
  role: Type.Optional(oneOf(['system', 'developer', 'user', 'assistant'])),
  content: Type.Optional(
    Type.Union([Type.String(), Type.Array(contentPart, { maxItems: 256 }), Type.Null()], {
      description: 'a text or a list of text parts',
    }),
  ),
});

export function responseBody(limits: Limits) {
  return Type.Object(
    {
      model: Type.String({ minLength: 1, maxLength: 256 }),
      input: Type.Union(
        [Type.String({ minLength: 1 }), Type.Array(inputItem, { minItems: 1, maxItems: maxMessages })],
        {
          description: 'a text or a list of items, neither of them empty',
        },
      ),
      instructions: Type.Optional(Type.String({ description: 'A system message before the input' })),
      stream: Type.Optional(Type.Boolean()),
      max_output_tokens: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.maxOutputTokens })),
      temperature: bounded('temperature'),
      top_p: bounded('topP'),
      top_k: bounded('topK'),
      min_p: bounded('minP'),
      presence_penalty: bounded('presencePenalty'),
      frequency_penalty: bounded('frequencyPenalty'),
      repetition_penalty: bounded('repetitionPenalty'),
      logit_bias: Type.Optional(logitBias),
      seed: Type.Optional(seedField),
      stop: Type.Optional(
        Type.Union([stopString, Type.Array(stopString, { maxItems: GENERATION_BOUNDS.maxStopStrings })], {
          description: 'a text or a list of texts',
        }),
      ),
      include: Type.Optional(Type.Array(Type.String({ maxLength: 64 }), { maxItems: 32 })),
      top_logprobs: Type.Optional(Type.Integer({ minimum: 0, maximum: GENERATION_BOUNDS.maxTopLogprobs })),
      metadata: Type.Optional(metadata),
      safety_identifier: Type.Optional(Type.String({ maxLength: 64 })),
      prompt_cache_key: Type.Optional(Type.String({ maxLength: 64 })),
      x_solve: Type.Optional(
        strictObject(solveOptions(limits), { description: 'With model `solve`: the options of `POST /solve`' }),
      ),
    },
    { title: 'ResponseRequest' },
  );
}
export type ResponseBody = Static<ReturnType<typeof responseBody>>;

const count = Type.Integer({ minimum: 0 });

const logprob = { token: Type.String(), logprob: Type.Number(), bytes: Type.Array(count) };
const ResponseLogprob = strictObject(
  { ...logprob, top_logprobs: Type.Array(strictObject(logprob)) },
  { title: 'ResponseLogprob' },
);
export type ResponseLogprob = Static<typeof ResponseLogprob>;

const OutputText = strictObject(
  {
    type: oneOf(['output_text']),
    text: Type.String(),
    annotations: Type.Array(Type.Never(), { maxItems: 0 }),
    logprobs: Type.Array(ResponseLogprob),
  },
  { title: 'ResponseOutputText' },
);

const SummaryText = strictObject(
  { type: oneOf(['summary_text']), text: Type.String() },
  { title: 'ResponseSummaryText' },
);

const itemStatus = oneOf(['in_progress', 'completed', 'incomplete']);

const MessageItem = strictObject(
  {
    type: oneOf(['message']),
    id: Type.String(),
    status: itemStatus,
    role: oneOf(['assistant']),
    content: Type.Array(OutputText),
  },
  { title: 'ResponseMessageItem' },
);

const ReasoningItem = strictObject(
  { type: oneOf(['reasoning']), id: Type.String(), summary: Type.Array(SummaryText) },
  {
    title: 'ResponseReasoningItem',
    description: 'One round of the loop: its attempt and its verification, a part each',
  },
);

const OutputItem = Type.Union([MessageItem, ReasoningItem], { title: 'ResponseOutputItem' });
export type OutputItem = Static<typeof OutputItem>;

const ResponseUsage = strictObject(
  {
    input_tokens: count,
    output_tokens: count,
    total_tokens: count,
    input_tokens_details: strictObject({ cached_tokens: count }),
    output_tokens_details: strictObject({ reasoning_tokens: count }),
  },
  { title: 'ResponseUsage' },
);
export type ResponseUsage = Static<typeof ResponseUsage>;

export const ResponseResource = strictObject(
  {
    id: Type.String(),
    object: oneOf(['response']),
    created_at: created,
    completed_at: nullable(created),
    status: oneOf(['in_progress', 'completed', 'incomplete', 'failed']),
    incomplete_details: nullable(strictObject({ reason: oneOf(['max_output_tokens', 'cancelled']) })),
    error: nullable(strictObject({ code: Type.String(), message: Type.String() })),
    model: Type.String(),
    instructions: nullable(Type.String()),
    output: Type.Array(OutputItem),
    usage: nullable(ResponseUsage),
    temperature: Type.Number(),
    top_p: Type.Number(),
    presence_penalty: Type.Number(),
    frequency_penalty: Type.Number(),
    top_logprobs: count,
    max_output_tokens: nullable(count),
    text: strictObject({ format: strictObject({ type: oneOf(['text']) }) }),
    metadata,
    safety_identifier: nullable(Type.String()),
    prompt_cache_key: nullable(Type.String()),
    // what this server does not do, as the contract wants it said
    previous_response_id: Type.Null(),
    reasoning: Type.Null(),
    max_tool_calls: Type.Null(),
    tools: Type.Array(Type.Never(), { maxItems: 0 }),
    tool_choice: oneOf(['none', 'auto']),
    parallel_tool_calls: Type.Boolean(),
    truncation: oneOf(['disabled']),
    store: Type.Literal(false),
    background: Type.Literal(false),
    service_tier: oneOf(['default']),
    x_solve: Type.Optional(SolveSummary),
  },
  { title: 'Response' },
);
export type ResponseResource = Static<typeof ResponseResource>;

const sequence = { sequence_number: count };
const inItem = { item_id: Type.String(), output_index: count };
const inContent = { ...inItem, content_index: count };
const inSummary = { ...inItem, summary_index: count };

function event<const T extends string, P extends TProperties>(type: T, properties: P) {
  const title = type.replaceAll(/(?:^|[._])([a-z])/g, (_, letter: string) => letter.toUpperCase());
  return strictObject({ type: oneOf([type]), ...sequence, ...properties }, { title: `${title}Event` });
}

const snapshot = { response: ResponseResource };

export const ResponseEvent = Type.Union(
  [
    event('response.created', snapshot),
    event('response.in_progress', snapshot),
    event('response.output_item.added', { output_index: count, item: OutputItem }),
    event('response.content_part.added', { ...inContent, part: OutputText }),
    event('response.output_text.delta', {
      ...inContent,
      delta: Type.String(),
      logprobs: Type.Array(ResponseLogprob),
    }),
    event('response.output_text.done', { ...inContent, text: Type.String(), logprobs: Type.Array(ResponseLogprob) }),
    event('response.content_part.done', { ...inContent, part: OutputText }),
    event('response.reasoning_summary_part.added', { ...inSummary, part: SummaryText }),
    event('response.reasoning_summary_text.delta', { ...inSummary, delta: Type.String() }),
    event('response.reasoning_summary_text.done', { ...inSummary, text: Type.String() }),
    event('response.reasoning_summary_part.done', { ...inSummary, part: SummaryText }),
    event('response.output_item.done', { output_index: count, item: OutputItem }),
    event('response.completed', snapshot),
    event('response.incomplete', snapshot),
    event('response.failed', snapshot),
    event('error', { error: ErrorObject as TSchema }),
  ],
  {
    title: 'ResponseEvent',
    description: 'Events named by their `type`, then `[DONE]`. A failure is an `error` followed by `response.failed`.',
  },
);
