/** How many tokens a prompt may have, for servers that do not tell. Pure but for what it learns. */
import type { Prompt } from '../engine.ts';

/** What a chat template writes around one message and around all: more than any of the well-known ones. */
const TOKENS_PER_MESSAGE = 24;
const TOKENS_PER_PROMPT = 64;
/** Before any answer has told; English text has about four characters to a token. */
const INITIAL_CHARS_PER_TOKEN = 3.5;

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

/** A running estimate of the characters to a token. */
export class PromptEstimate {
  #charsPerToken = INITIAL_CHARS_PER_TOKEN;

  of(prompt: Prompt): number {
    if (prompt.kind === 'tokens') return prompt.tokens.length;
    return Math.max(1, Math.round(charsOf(prompt) / this.#charsPerToken));
  }

  learn(prompt: Prompt, numTokens: number): void {
    if (prompt.kind === 'tokens' || numTokens === 0) return;
    const seen = Math.min(8, Math.max(0.5, charsOf(prompt) / numTokens));
    this.#charsPerToken += 0.05 * (seen - this.#charsPerToken);
  }
}

function charsOf(prompt: Exclude<Prompt, { kind: 'tokens' }>): number {
  if (prompt.kind === 'text') return prompt.text.length;
  return prompt.messages.reduce((sum, { content }) => sum + content.length + 16, prompt.assistantPrefix?.length ?? 0);
}
