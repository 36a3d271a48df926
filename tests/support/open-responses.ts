/**
 * The Open Responses contract of 2026-04-24 as far as a text server meets it, written down from its published description
 * and independent of the server's own schemas: what a response must hold, which events a stream may hold and in which order.
 */
import { Ajv2020 } from 'ajv/dist/2020.js';
import { expect } from 'vitest';

type Schema = Readonly<Record<string, unknown>>;

const text: Schema = { type: 'string' };
const integer: Schema = { type: 'integer' };
const number: Schema = { type: 'number' };
const orNull = (schema: Schema): Schema => ({ anyOf: [schema, { type: 'null' }] });
const oneOf = (...values: readonly string[]): Schema => ({ enum: values });
const list = (items: Schema): Schema => ({ type: 'array', items });
/** Every property is required; further ones may be there. */
const object = (properties: Readonly<Record<string, Schema>>): Schema => ({
  type: 'object',
  required: Object.keys(properties),
  properties,
});

const logprob = { token: text, logprob: number, bytes: list(integer) };
const logprobs = list(object({ ...logprob, top_logprobs: list(object(logprob)) }));
const outputText: Schema = {
  ...object({ type: oneOf('output_text'), text, annotations: list({ type: 'object' }) }),
  // optional
  properties: { type: oneOf('output_text'), text, annotations: list({ type: 'object' }), logprobs },
};
const summaryText = object({ type: oneOf('summary_text'), text });
const part: Schema = { anyOf: [outputText, summaryText] };
const message = object({
  type: oneOf('message'),
  id: text,
  status: oneOf('in_progress', 'completed', 'incomplete'),
  role: oneOf('user', 'assistant', 'system', 'developer'),
  content: list(outputText),
});
const reasoning = object({ type: oneOf('reasoning'), id: text, summary: list(part) });
const item: Schema = { anyOf: [message, reasoning] };

const response = object({
  id: text,
  object: oneOf('response'),
  created_at: integer,
  completed_at: orNull(integer),
  status: text,
  incomplete_details: orNull(object({ reason: text })),
  model: text,
  previous_response_id: orNull(text),
  instructions: orNull(text),
  output: list(item),
  error: orNull(object({ code: text, message: text })),
  tools: list({ type: 'object' }),
  tool_choice: { anyOf: [oneOf('none', 'auto', 'required'), { type: 'object' }] },
  truncation: oneOf('auto', 'disabled'),
  parallel_tool_calls: { type: 'boolean' },
  text: object({ format: object({ type: text }) }),
  top_p: number,
  presence_penalty: number,
  frequency_penalty: number,
  top_logprobs: integer,
  temperature: number,
  reasoning: orNull({ type: 'object' }),
  usage: orNull(
    object({
      input_tokens: integer,
      output_tokens: integer,
      total_tokens: integer,
      input_tokens_details: object({ cached_tokens: integer }),
      output_tokens_details: object({ reasoning_tokens: integer }),
    }),
  ),
  max_output_tokens: orNull(integer),
  max_tool_calls: orNull(integer),
  store: { type: 'boolean' },
  background: { type: 'boolean' },
  service_tier: text,
  metadata: {},
  safety_identifier: orNull(text),
  prompt_cache_key: orNull(text),
});

const inItem = { item_id: text, output_index: integer };
const inContent = { ...inItem, content_index: integer };
const inSummary = { ...inItem, summary_index: integer };

const events: Readonly<Record<string, Readonly<Record<string, Schema>>>> = {
  'response.created': { response },
  'response.in_progress': { response },
  'response.completed': { response },
  'response.incomplete': { response },
  'response.failed': { response },
  'response.output_item.added': { output_index: integer, item },
  'response.output_item.done': { output_index: integer, item },
  'response.content_part.added': { ...inContent, part },
  'response.content_part.done': { ...inContent, part },
  'response.output_text.delta': { ...inContent, delta: text },
  'response.output_text.done': { ...inContent, text },
  'response.reasoning_summary_part.added': { ...inSummary, part },
  'response.reasoning_summary_part.done': { ...inSummary, part },
  'response.reasoning_summary_text.delta': { ...inSummary, delta: text },
  'response.reasoning_summary_text.done': { ...inSummary, text },
  error: { error: object({ type: text, code: orNull(text), message: text, param: orNull(text) }) },
};

const terminal = ['response.completed', 'response.incomplete', 'response.failed'];

const ajv = new Ajv2020({ strict: false, allErrors: true });
const checkResponse = ajv.compile(response);
const checkEvent = new Map(
  Object.entries(events).map(([type, fields]) => [
    type,
    ajv.compile(object({ type: oneOf(type), sequence_number: integer, ...fields })),
  ]),
);

export interface ResponseObject {
  readonly id: string;
  readonly status: string;
  readonly incomplete_details: { readonly reason: string } | null;
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly output: readonly OutputItem[];
  readonly usage: { readonly output_tokens: number; readonly total_tokens: number } | null;
}

type OutputItem =
  | { readonly type: 'message'; readonly id: string; readonly content: readonly { readonly text: string }[] }
  | { readonly type: 'reasoning'; readonly id: string; readonly summary: readonly { readonly text: string }[] };

export function expectResponse(value: unknown): ResponseObject {
  checkResponse(value);
  expect(checkResponse.errors ?? [], JSON.stringify(value)?.slice(0, 500)).toEqual([]);
  return value as ResponseObject;
}

export interface StreamedEvent {
  readonly event: string | undefined;
  readonly id: string | undefined;
  readonly data: unknown;
}

interface AnyEvent {
  readonly type: string;
  readonly sequence_number: number;
  readonly output_index: number;
  readonly content_index?: number;
  readonly summary_index?: number;
  readonly delta: string;
  readonly text: string;
  readonly item: OutputItem;
  readonly response: ResponseObject;
}

/** Checks a whole stream and gives the response of its terminal event. */
export function expectResponseStream(streamed: readonly StreamedEvent[]): ResponseObject {
  expect(streamed.at(-1)?.data, 'the last event').toBe('[DONE]');
  const named = streamed.slice(0, -1);
  const texts = new Map<string, string>();
  const items: OutputItem[] = [];
  for (const [index, { event, id, data }] of named.entries()) {
    const body = data as AnyEvent;
    expect(event, 'the name of an event is its type').toBe(body.type);
    expect(id, 'events have no ids').toBeUndefined();
    expect(body.sequence_number).toBe(index);
    const check = checkEvent.get(body.type);
    expect(check, `${body.type} is no event of the contract`).toBeDefined();
    check?.(data);
    expect(check?.errors ?? [], `${body.type}: ${JSON.stringify(data).slice(0, 500)}`).toEqual([]);
    const place = `${body.output_index}.${body.summary_index ?? body.content_index}`;
    if (body.type.endsWith('.delta')) texts.set(place, (texts.get(place) ?? '') + body.delta);
    if (body.type.endsWith('_text.done')) expect(body.text).toBe(texts.get(place) ?? '');
    if (body.type === 'response.output_item.done') items[body.output_index] = body.item;
  }
  const types = named.map(({ event }) => event);
  expect(types.slice(0, 2)).toEqual(['response.created', 'response.in_progress']);
  expect(types.filter((type) => terminal.includes(type ?? ''))).toEqual([types.at(-1)]);
  const ending = named.at(-1)?.data as AnyEvent | undefined;
  const last = expectResponse(ending?.response);
  if (last.status !== 'failed') expect(last.output, 'the items as they were done').toEqual(items);
  return last;
}

const user = (content: string) => ({ type: 'message', role: 'user', content });

/** The cases of the conformance suite that a text server has to meet: one response each that completes with output. */
export const textCases: readonly { readonly name: string; readonly body: object; readonly stream: boolean }[] = [
  { name: 'basic-response', body: { input: [user('Answer with a greeting of three words.')] }, stream: false },
  { name: 'streaming-response', body: { input: [user('Name the numbers from one to five.')] }, stream: true },
  {
    name: 'system-prompt',
    body: { input: [{ type: 'message', role: 'system', content: 'Speak like a sailor.' }, user('Greet me.')] },
    stream: false,
  },
  {
    name: 'multi-turn',
    body: {
      input: [
        user('I am called Ada.'),
        { type: 'message', role: 'assistant', content: 'Welcome, Ada. What can I do for you?' },
        user('What am I called?'),
      ],
    },
    stream: false,
  },
];
