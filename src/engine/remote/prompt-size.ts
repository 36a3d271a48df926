/** How many tokens a prompt may have at most, for servers that do not tell. */
import type { Prompt } from '../engine.ts';
import { breakMarks } from './inert-text.ts';

/** What a chat template writes around one message and around all: more than any of the well-known ones. */
const TOKENS_PER_MESSAGE = 24;
const TOKENS_PER_PROMPT = 64;

/** No tokenizer makes more tokens of a text than it has bytes, and what is sent may have more than what was written. */
export function maxTokensOf(prompt: Prompt): number {
  switch (prompt.kind) {
    case 'tokens':
      return prompt.tokens.length;
    case 'text':
      return bytesSent(prompt.text) + 1;
    case 'chat':
      return prompt.messages.reduce(
        (sum, { content }) => sum + bytesSent(content) + TOKENS_PER_MESSAGE,
        TOKENS_PER_PROMPT + bytesSent(prompt.assistantPrefix ?? ''),
      );
  }
}

function bytesSent(text: string): number {
  return Buffer.byteLength(breakMarks(text));
}
