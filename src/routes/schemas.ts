/**
 * Schema pieces that several routes share. The schemas of this folder are the one source of validation, of types and of
 * openapi.json; a `title` makes a piece a named component there.
 */
import { type Static, type TProperties, type TSchema, Type } from 'typebox';

/** The part of the configuration that bounds requests. */
export interface Limits {
  readonly maxTextLength: number;
  readonly maxOutputTokens: number;
  readonly maxSequences: number;
}

/** An object that refuses unknown fields by name. */
export function strictObject<P extends TProperties>(properties: P, options: Record<string, unknown> = {}) {
  return Type.Object(properties, { additionalProperties: false, ...options });
}

export function oneOf<const V extends readonly string[]>(values: V, description?: string) {
  return Type.Unsafe<V[number]>({
    type: 'string',
    enum: [...values],
    ...(description === undefined ? {} : { description }),
  });
}

export function nullable<S extends TSchema>(schema: S) {
  return Type.Union([schema, Type.Null()]);
}

/** A text of the caller: 1 up to the configured number of UTF-16 units. */
export function text(limits: Limits, description: string) {
  return Type.String({ minLength: 1, maxLength: limits.maxTextLength, description });
}

const modelName = Type.String({ minLength: 1, maxLength: 256, description: 'A name or alias of `GET /v1/models`' });

/** Bounds follow what the samplers accept; a seed fits 32 bits because the sequence's generator takes no more. */
export function samplingFields(limits: Limits) {
  return {
    temperature: Type.Optional(Type.Number({ minimum: 0, maximum: 2, description: '0 is greedy' })),
    top_p: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 1 })),
    top_k: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000, description: '0 = off' })),
    min_p: Type.Optional(Type.Number({ minimum: 0, maximum: 1 })),
    max_tokens: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.maxOutputTokens })),
  };
}

export const seedField = Type.Integer({
  minimum: 0,
  maximum: 4_294_967_295,
  description: 'Drawn and reported when absent',
});

export function modelField(fallback: string) {
  return Type.Optional(
    Type.String({ ...modelName, description: `A name of \`GET /v1/models\`; default \`${fallback}\`` }),
  );
}

export const streamField = Type.Optional(
  Type.Boolean({ description: 'Answer as server-sent events; so does `Accept: text/event-stream`' }),
);

export const FinishReason = oneOf(['stop', 'length', 'cancelled', 'error']);
export const Verdict = oneOf(['accept', 'reject', 'undetermined']);

const count = (description?: string) =>
  Type.Integer({ minimum: 0, ...(description === undefined ? {} : { description }) });

export const Usage = strictObject(
  {
    prompt_tokens: count(),
    completion_tokens: count(),
    total_tokens: count(),
    prompt_tokens_details: strictObject({ cached_tokens: count('Prompt tokens whose cache was reused') }),
    completion_tokens_details: strictObject({
      accepted_prediction_tokens: count(),
      rejected_prediction_tokens: count(),
      reasoning_tokens: count(),
    }),
  },
  { title: 'Usage' },
);
export type WireUsage = Static<typeof Usage>;

const milliseconds = Type.Number({ minimum: 0, description: 'Milliseconds' });

export const Timings = strictObject(
  { queue_ms: milliseconds, prefill_ms: milliseconds, decode_ms: milliseconds, total_ms: milliseconds },
  { title: 'Timings' },
);

export const ErrorObject = strictObject(
  {
    message: Type.String(),
    type: oneOf([
      'invalid_request_error',
      'authentication_error',
      'permission_error',
      'not_found_error',
      'conflict_error',
      'rate_limit_error',
      'overloaded_error',
      'timeout_error',
      'server_error',
    ]),
    code: nullable(Type.String()),
    param: nullable(Type.String({ description: 'Path of the field' })),
    limit: Type.Optional(
      strictObject({ name: Type.String(), value: Type.Number() }, { description: 'The limit that a 429 is about' }),
    ),
  },
  { title: 'ErrorObject' },
);

export const ErrorAnswer = strictObject({ error: ErrorObject }, { title: 'Error' });

/** Unix seconds. */
export const created = Type.Integer({ minimum: 0, description: 'Unix seconds' });

const errorDescriptions: Readonly<Record<number, string>> = {
  400: 'A value or field of the request is wrong',
  401: 'No or wrong API key',
  403: 'The key lacks the scope',
  404: 'Unknown model, run or route',
  408: 'The request arrived too slowly',
  409: 'The run has already ended',
  413: 'The body is too large',
  415: 'The body is not JSON',
  422: 'The idempotency key was used with another body',
  429: 'The queue or a quota is full',
  500: 'A defect of the server',
  503: 'Not ready, draining, restarting, or the store is full',
  504: 'The deadline passed before the first result',
};

/** The error answers of a route, for its `response` schema. */
export function errorAnswers(...statuses: readonly number[]) {
  return Object.fromEntries(
    statuses.map((status) => [
      status,
      { description: errorDescriptions[status] ?? 'Error', content: { 'application/json': { schema: ErrorAnswer } } },
    ]),
  );
}

/** Everything that a route which generates can answer beside its result. */
export const inferenceErrors = errorAnswers(400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504);

/** A JSON answer with its description. */
export function jsonAnswer(answer: TSchema, description: string) {
  return { description, content: { 'application/json': { schema: answer } } };
}

/** A 200 that is JSON or a stream of events, by the caller's choice. */
export function answerOrStream(answer: TSchema, event: TSchema, description: string) {
  return {
    description,
    content: { 'application/json': { schema: answer }, 'text/event-stream': { schema: event } },
  };
}

/** The data of one event of a route as it stands on the wire; the component is named after both. */
export function eventOf<P extends TProperties>(route: string, name: string, properties: P) {
  const pascal = `${route}-${name}`.replaceAll(/(?:^|-)([a-z])/g, (_, letter: string) => letter.toUpperCase());
  return strictObject(properties, { title: `${pascal}Event`, description: `Data of the event \`${name}\`` });
}
