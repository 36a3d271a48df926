/** From the body of `POST /v1/responses` to messages: what is refused, what is left out. Nothing is kept between requests. */
import type { ChatMessage } from '../engine/engine.ts';
import { type Harmless, isEmptyList, partsText, unsupportedParameter } from './openai-params.ts';
import type { ResponseBody } from './schemas-responses.ts';

const isAbsent: Harmless = () => false;

/** Fields that would change the output, with the values at which they do not. */
export const unsupportedInResponses: Readonly<Record<string, Harmless>> = {
  // answers are not stored, so nothing can be continued from an id
  previous_response_id: isAbsent,
  conversation: isAbsent,
  prompt: isAbsent,
  background: (value) => value === false,
  tools: isEmptyList,
  tool_choice: (value) => value === 'none' || value === 'auto',
  text: (value) => {
    const format = (value as { readonly format?: { readonly type?: unknown } | null }).format;
    return format === undefined || format === null || format.type === 'text';
  },
};

/** The conversation, instructions first. Reasoning items of earlier answers are left out: only content crosses turns. */
export function responseMessages(body: ResponseBody): ChatMessage[] {
  const messages: ChatMessage[] = [];
  if (body.instructions !== undefined && body.instructions !== '') {
    messages.push({ role: 'system', content: body.instructions });
  }
  if (typeof body.input === 'string') return [...messages, { role: 'user', content: body.input }];
  for (const [index, item] of body.input.entries()) {
    const path = `input.${index}`;
    if (item.type === 'reasoning') continue;
    if ((item.type !== undefined && item.type !== 'message') || item.role === undefined) {
      throw unsupportedParameter(path, `\`${path}\` must be a message with a role; other items are not supported.`);
    }
    const role = item.role === 'developer' ? 'system' : item.role;
    messages.push({ role, content: partsText(item.content, `${path}.content`) });
  }
  return messages;
}

/** Log-probabilities are asked for by a number of alternatives or by name. */
export function logprobsOf(body: ResponseBody): number | undefined {
  const isNamed = body.include?.includes('message.output_text.logprobs') === true;
  if (body.top_logprobs === undefined || body.top_logprobs === 0) return isNamed ? 0 : undefined;
  return body.top_logprobs;
}
