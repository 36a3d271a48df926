/** How many tokens a prompt probably has, from its characters alone: for a look before it is encoded, and where nobody tells. */
import type { Prompt } from './engine.ts';

/** Characters of a token before any prompt has told; English text has about four. */
const INITIAL_CHARS_PER_TOKEN = 3.5;

/** Guesses, and learns from prompts whose tokens were counted. */
export class TokenEstimate {
  #charsPerToken = INITIAL_CHARS_PER_TOKEN;

  /** Not rounded; exact for a prompt of token ids. */
  of(prompt: Prompt): number {
    return prompt.kind === 'tokens' ? prompt.tokens.length : charsOf(prompt) / this.#charsPerToken;
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
