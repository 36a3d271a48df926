/** How many tokens a prompt may have at most, for servers that do not tell. */
import type { Prompt } from '../engine.ts';

/** What a chat template writes around one message and around all: more than any of the well-known ones. */
const TOKENS_PER_MESSAGE = 24;
const TOKENS_PER_PROMPT = 64;

/** No tokenizer makes more tokens of a text than it has bytes. */
export function maxTokensOf(prompt: Prompt): number {
  switch (prompt.kind) {
    case 'tokens':
      return prompt.tokens.length;
    case 'text':
      return Buffer.byteLength(prompt.text) + 1;
    case 'chat':
      return prompt.messages.reduce(
        (sum, { content }) => sum + Buffer.byteLength(content) + TOKENS_PER_MESSAGE,
        TOKENS_PER_PROMPT + Buffer.byteLength(prompt.assistantPrefix ?? ''),
      );
  }
}
