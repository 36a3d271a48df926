/**
 * The OpenAI-compatible routes: bodies, answers, chunks. Unknown fields pass (clients send vendor fields here); fields that
 * would change the output and are not supported are refused by `openai-params.ts`.
 */
import { type Static, type TProperties, type TSchema, Type } from 'typebox';
import { GENERATION_BOUNDS, LOGIT_BIAS_BOUNDS, SAMPLING_BOUNDS } from '../engine/sampling-params.ts';
import { FinishReason, type Limits, nullable, oneOf, strictObject, Usage } from './schemas.ts';
import { solveOptions } from './schemas-solve.ts';

export function bounded(
  name: 'temperature' | 'topP' | 'topK' | 'minP' | 'presencePenalty' | 'frequencyPenalty' | 'repetitionPenalty',
) {
  const { minimum, maximum, integer } = SAMPLING_BOUNDS[name];
  return Type.Optional(integer ? Type.Integer({ minimum, maximum }) : Type.Number({ minimum, maximum }));
}

/** Token ids, as text, to what is added to their logits. */
export const logitBias = Type.Record(
  Type.String(),
  Type.Number({ minimum: LOGIT_BIAS_BOUNDS.minimum, maximum: LOGIT_BIAS_BOUNDS.maximum }),
  { maxProperties: LOGIT_BIAS_BOUNDS.maxEntries, propertyNames: { type: 'string', pattern: '^[0-9]{1,9}$' } },
);

export const stopString = Type.String({ minLength: 1, maxLength: GENERATION_BOUNDS.maxStopLength });
/** Lists longer than this cannot fit the context of any model here. */
export const maxMessages = 4096;
const maxPromptTokens = 1_048_576;

function generationFields(limits: Limits, minTokens: 0 | 1) {
  return {
    model: Type.String({ minLength: 1, maxLength: 256 }),
    stream: Type.Optional(Type.Boolean()),
    stream_options: Type.Optional(Type.Object({ include_usage: Type.Optional(Type.Boolean()) })),
    n: Type.Optional(Type.Integer({ minimum: 1, maximum: 16 })),
    stop: Type.Optional(
      Type.Union([stopString, Type.Array(stopString, { maxItems: GENERATION_BOUNDS.maxStopStrings })], {
        description: 'a text or a list of texts',
      }),
    ),
    seed: Type.Optional(
      Type.Integer({
        minimum: Number.MIN_SAFE_INTEGER,
        maximum: Number.MAX_SAFE_INTEGER,
        description: 'Taken modulo 2^32',
      }),
    ),
    max_tokens: Type.Optional(Type.Integer({ minimum: minTokens, maximum: limits.maxOutputTokens })),
    ignore_eos: Type.Optional(
      Type.Boolean({ description: 'For benchmarks: go on past the end-of-sequence token up to max_tokens' }),
    ),
    temperature: bounded('temperature'),
    top_p: bounded('topP'),
    top_k: bounded('topK'),
    min_p: bounded('minP'),
    presence_penalty: bounded('presencePenalty'),
    frequency_penalty: bounded('frequencyPenalty'),
    repetition_penalty: bounded('repetitionPenalty'),
    logit_bias: Type.Optional(logitBias),
  };
}

export const contentPart = Type.Object({ type: Type.String({ maxLength: 64 }), text: Type.Optional(Type.String()) });

export function chatBody(limits: Limits) {
  return Type.Object(
    {
      ...generationFields(limits, 1),
      messages: Type.Array(
        Type.Object({
          role: oneOf(['system', 'developer', 'user', 'assistant', 'tool', 'function']),
          content: Type.Optional(
            Type.Union([Type.String(), Type.Array(contentPart, { maxItems: 256 }), Type.Null()], {
              description: 'a text or a list of text parts',
            }),
          ),
        }),
        { minItems: 1, maxItems: maxMessages },
      ),
      max_completion_tokens: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.maxOutputTokens })),
      logprobs: Type.Optional(Type.Boolean()),
      top_logprobs: Type.Optional(Type.Integer({ minimum: 0, maximum: GENERATION_BOUNDS.maxTopLogprobs })),
      prediction: Type.Optional(
        Type.Object({
          type: oneOf(['content']),
          content: Type.Union([Type.String(), Type.Array(contentPart, { maxItems: 256 })]),
        }),
      ),
      x_solve: Type.Optional(
        strictObject(solveOptions(limits), { description: 'With model `solve`: the options of `POST /solve`' }),
      ),
    },
    { title: 'ChatCompletionRequest' },
  );
}
export type ChatBody = Static<ReturnType<typeof chatBody>>;

export function completionBody(limits: Limits) {
  const tokens = Type.Array(Type.Integer({ minimum: 0 }), { minItems: 1, maxItems: maxPromptTokens });
  return Type.Object(
    {
      ...generationFields(limits, 0),
      prompt: Type.Union(
        [
          Type.String({ minLength: 1 }),
          Type.Array(Type.String({ minLength: 1 }), { minItems: 1, maxItems: limits.maxSequences }),
          tokens,
          Type.Array(tokens, { minItems: 1, maxItems: limits.maxSequences }),
        ],
        { description: 'a text, a list of texts, tokens or a list of tokens, none of them empty' },
      ),
      echo: Type.Optional(Type.Boolean()),
      logprobs: Type.Optional(Type.Integer({ minimum: 0, maximum: GENERATION_BOUNDS.maxTopLogprobs })),
    },
    { title: 'CompletionRequest' },
  );
}
export type CompletionBody = Static<ReturnType<typeof completionBody>>;

const logprob = { token: Type.String(), logprob: Type.Number(), bytes: Type.Array(Type.Integer()) };
const ChatLogprobs = strictObject(
  {
    content: Type.Array(strictObject({ ...logprob, top_logprobs: Type.Array(strictObject(logprob)) })),
    refusal: Type.Null(),
  },
  { title: 'ChatLogprobs' },
);

export const SolveSummary = strictObject(
  {
    id: Type.String(),
    status: Type.String(),
    stop_reason: nullable(Type.String()),
    score: nullable(Type.Number()),
    chain: nullable(Type.Integer()),
    round: nullable(Type.Integer()),
  },
  { title: 'SolveSummary' },
);

const index = Type.Integer({ minimum: 0 });
const head = {
  id: Type.String(),
  created: index,
  model: Type.String(),
  system_fingerprint: Type.Optional(Type.String()),
};

export const ChatCompletion = strictObject(
  {
    ...head,
    object: oneOf(['chat.completion']),
    choices: Type.Array(
      strictObject({
        index,
        message: strictObject({
          role: oneOf(['assistant']),
          content: nullable(Type.String()),
          refusal: Type.Null(),
          reasoning_content: Type.Optional(Type.String()),
          reasoning: Type.Optional(Type.String()),
        }),
        logprobs: nullable(ChatLogprobs),
        finish_reason: FinishReason,
      }),
    ),
    usage: Usage,
    x_solve: Type.Optional(SolveSummary),
  },
  { title: 'ChatCompletion' },
);

export const ChatChunk = strictObject(
  {
    ...head,
    object: oneOf(['chat.completion.chunk']),
    choices: Type.Array(
      strictObject({
        index,
        delta: strictObject({
          role: Type.Optional(oneOf(['assistant'])),
          content: Type.Optional(Type.String()),
          reasoning_content: Type.Optional(Type.String()),
          reasoning: Type.Optional(Type.String()),
        }),
        logprobs: Type.Optional(nullable(ChatLogprobs)),
        finish_reason: nullable(FinishReason),
      }),
    ),
    usage: Type.Optional(nullable(Usage)),
    x_solve: Type.Optional(SolveSummary),
  },
  { title: 'ChatCompletionChunk', description: 'Chunks, then `[DONE]`' },
);

const CompletionLogprobs = strictObject(
  {
    tokens: Type.Array(Type.String()),
    token_logprobs: Type.Array(nullable(Type.Number())),
    top_logprobs: Type.Array(nullable(Type.Record(Type.String(), Type.Number()))),
    text_offset: Type.Array(index),
  },
  { title: 'CompletionLogprobs' },
);

function completion<S extends TSchema>(finishReason: S, extra: TProperties, title: string) {
  return strictObject(
    {
      ...head,
      object: oneOf(['text_completion']),
      choices: Type.Array(
        strictObject({
          index,
          text: Type.String(),
          logprobs: nullable(CompletionLogprobs),
          finish_reason: finishReason,
        }),
      ),
      ...extra,
    },
    { title },
  );
}

export const Completion = completion(FinishReason, { usage: Usage }, 'Completion');
export const CompletionChunk = completion(
  nullable(FinishReason),
  { usage: Type.Optional(nullable(Usage)) },
  'CompletionChunk',
);

export const Model = strictObject(
  {
    id: Type.String(),
    object: oneOf(['model']),
    created: index,
    owned_by: Type.String(),
    root: Type.String({ description: 'Full name with digest of the weights' }),
    aliases: Type.Array(Type.String()),
    context_length: nullable(index),
    remote: Type.Boolean(),
    loop_digest: Type.Optional(
      Type.String({
        description: 'Of `solve`: of the prompts, formats, calibration and sampling defaults that it goes by',
      }),
    ),
  },
  { title: 'Model' },
);
export const ModelList = strictObject({ object: oneOf(['list']), data: Type.Array(Model) }, { title: 'ModelList' });

export function tokenizeBody(limits: Limits) {
  return strictObject(
    {
      model: Type.String({ minLength: 1, maxLength: 256 }),
      text: Type.String({ maxLength: limits.maxTextLength, description: 'Special tokens in it are inert' }),
    },
    { title: 'TokenizeRequest' },
  );
}
export const Tokenized = strictObject({ tokens: Type.Array(index), count: index }, { title: 'Tokenized' });

export const detokenizeBody = strictObject(
  {
    model: Type.String({ minLength: 1, maxLength: 256 }),
    tokens: Type.Array(Type.Integer({ minimum: 0, maximum: 2_147_483_647 }), { maxItems: 131_072 }),
  },
  { title: 'DetokenizeRequest' },
);
export const Detokenized = strictObject({ text: Type.String() }, { title: 'Detokenized' });
