/**
 * Prompts as the remote model's own token ids, where its server tells them: exact counts, inert text and scores need them.
 * llama-server: the chat template is rendered around marks, the parts are encoded apart, special tokens only in the template's.
 * vLLM: its `/tokenize` takes messages; text that could be read as a special token is broken up before.
 */
import type { ChatMessage, Prompt } from '../engine.ts';
import { isTokenList } from './completion-chunk.ts';
import { breakMarks, splitMarks } from './inert-text.ts';
import { Recent } from './recent.ts';
import { RemoteFailure } from './remote-failure.ts';
import type { RemoteRoute } from './remote-http.ts';

/** One JSON call of the server, with its retries and its circuit; joined by all who ask the same, so no caller's signal ends it. */
export type AskRemote = (route: RemoteRoute, body: unknown) => Promise<unknown>;

export interface RemoteTokenizer {
  /** The prompt continued by each of the texts, which are inert. Token prompts are not checked against the vocabulary. */
  encode(prompt: Prompt, continuations: readonly string[]): Promise<Int32Array[]>;
  /** Special tokens in `text` are inert. */
  tokenize(text: string): Promise<readonly number[]>;
  detokenize(tokens: readonly number[]): Promise<string>;
}

export interface TokenizerModel {
  /** How messages name the server. */
  readonly remote: string;
  readonly model: string;
  readonly templateFields: Readonly<Record<string, unknown>>;
}

const KEEP = { maxEntries: 512, maxSize: 8_000_000, keepMs: 600_000 } as const;

export class LlamaCppTokenizer implements RemoteTokenizer {
  readonly #remote: string;
  readonly #templateFields: TokenizerModel['templateFields'];
  readonly #ask: AskRemote;
  readonly #skeletons: Recent<Skeleton>;
  readonly #texts: Recent<readonly number[]>;

  constructor({ remote, templateFields }: TokenizerModel, ask: AskRemote, now: () => number) {
    this.#remote = remote;
    this.#templateFields = templateFields;
    this.#ask = ask;
    this.#skeletons = new Recent({ ...KEEP, now });
    this.#texts = new Recent({ ...KEEP, now });
  }

  async encode(prompt: Prompt, continuations: readonly string[]): Promise<Int32Array[]> {
    const { head, tail } = await this.#headOf(prompt);
    return Promise.all(
      continuations.map(async (continuation) => {
        const text = tail + continuation;
        const end = text === '' ? [] : await this.#plain(text, head.length === 0);
        return Int32Array.from([...head, ...end]);
      }),
    );
  }

  tokenize(text: string): Promise<readonly number[]> {
    return this.#plain(text, false);
  }

  async detokenize(tokens: readonly number[]): Promise<string> {
    const answer = await this.#ask({ own: '/detokenize' }, { tokens });
    return textField(this.#remote, answer, 'content');
  }

  /** Tokens of all that no continuation can change, and the text behind them. */
  async #headOf(prompt: Prompt): Promise<{ readonly head: readonly number[]; readonly tail: string }> {
    switch (prompt.kind) {
      case 'tokens':
        return { head: prompt.tokens, tail: '' };
      case 'text':
        return { head: [], tail: prompt.text };
      case 'chat': {
        const roles = prompt.messages.map(({ role }) => role);
        const { parts, contents } = await this.#skeletons.get(roles.join(' '), () => this.#learn(roles));
        const encoded = await Promise.all(
          contents.map(({ message, trimsStart, trimsEnd }) => {
            const written = prompt.messages[message]?.content ?? '';
            const begun = trimsStart ? written.trimStart() : written;
            const text = trimsEnd ? begun.trimEnd() : begun;
            return text === '' ? [] : this.#plain(text, false);
          }),
        );
        const head = parts.flatMap((part, index) => [...part, ...(encoded[index] ?? [])]);
        return { head, tail: prompt.assistantPrefix ?? '' };
      }
    }
  }

  /** Renders the template around marks in place of the contents: what the template itself writes, and where contents go. */
  async #learn(roles: readonly ChatMessage['role'][]): Promise<Skeleton> {
    const marks = roles.map((_, index) => `qx${index}zq7vj${index}xk`);
    // a tab around each mark shows whether the template trims its contents
    const messages = roles.map((role, index) => ({ role, content: `\t${marks[index]}\t` }));
    const answer = await this.#ask({ own: '/apply-template' }, { messages, ...this.#templateFields });
    const rendered = textField(this.#remote, answer, 'prompt');
    const texts: string[] = [];
    const contents: ContentPlace[] = [];
    let end = 0;
    for (const [message, mark] of marks.entries()) {
      const at = rendered.indexOf(mark, end);
      // a template may leave a message out, but not write one twice or in another order
      if (rendered.indexOf(mark) !== at || rendered.lastIndexOf(mark) !== at) {
        throw new RemoteFailure(
          'malformed',
          `The chat template of the remote ${this.#remote} does not write every message once and in order.`,
        );
      }
      if (at < 0) continue;
      const trimsStart = rendered[at - 1] !== '\t';
      const trimsEnd = rendered[at + mark.length] !== '\t';
      texts.push(rendered.slice(end, trimsStart ? at : at - 1));
      contents.push({ message, trimsStart, trimsEnd });
      end = at + mark.length + (trimsEnd ? 0 : 1);
    }
    texts.push(rendered.slice(end));
    const parts = await Promise.all(
      texts.map((content, index) =>
        // the first part gets the model's beginning-of-sequence token, as the server would add it
        content === '' && index > 0 ? [] : this.#encodeText({ content, add_special: index === 0, parse_special: true }),
      ),
    );
    return { parts, contents };
  }

  #plain(content: string, isFirst: boolean): Promise<readonly number[]> {
    return this.#texts.get(`${isFirst ? 'first' : 'next'} ${content}`, () =>
      this.#encodeText({ content, add_special: isFirst, parse_special: false }),
    );
  }

  async #encodeText(body: Readonly<Record<string, unknown>>): Promise<readonly number[]> {
    return tokensField(this.#remote, await this.#ask({ own: '/tokenize' }, body));
  }
}

interface ContentPlace {
  readonly message: number;
  readonly trimsStart: boolean;
  readonly trimsEnd: boolean;
}

/** `parts[0] contents[0] parts[1] … parts[n]`: one part more than contents. */
interface Skeleton {
  readonly parts: readonly (readonly number[])[];
  readonly contents: readonly ContentPlace[];
}

export class VllmTokenizer implements RemoteTokenizer {
  readonly #remote: string;
  readonly #model: string;
  readonly #templateFields: TokenizerModel['templateFields'];
  readonly #ask: AskRemote;
  readonly #prompts: Recent<readonly number[]>;

  constructor({ remote, model, templateFields }: TokenizerModel, ask: AskRemote, now: () => number) {
    this.#remote = remote;
    this.#model = model;
    this.#templateFields = templateFields;
    this.#ask = ask;
    this.#prompts = new Recent({ ...KEEP, now });
  }

  async encode(prompt: Prompt, continuations: readonly string[]): Promise<Int32Array[]> {
    return Promise.all(
      continuations.map(async (continuation) => Int32Array.from(await this.#encodeOne(prompt, continuation))),
    );
  }

  async tokenize(text: string): Promise<readonly number[]> {
    return this.#pieces(text, false);
  }

  async detokenize(tokens: readonly number[]): Promise<string> {
    const answer = await this.#ask({ own: '/detokenize' }, { model: this.#model, tokens });
    return textField(this.#remote, answer, 'prompt');
  }

  async #encodeOne(prompt: Prompt, continuation: string): Promise<readonly number[]> {
    switch (prompt.kind) {
      case 'tokens': {
        const end = continuation === '' ? [] : await this.#pieces(continuation, false);
        return [...prompt.tokens, ...end];
      }
      case 'text':
        return this.#pieces(prompt.text + continuation, true);
      case 'chat': {
        const body = { model: this.#model, ...vllmMessages(prompt, continuation), ...this.#templateFields };
        return this.#prompts.get(JSON.stringify(body), async () =>
          tokensField(this.#remote, await this.#ask({ own: '/tokenize' }, body)),
        );
      }
    }
  }

  async #pieces(text: string, addSpecial: boolean): Promise<number[]> {
    const pieces = splitMarks(text);
    const encoded = await Promise.all(
      (pieces.length === 0 ? [''] : pieces).map(async (piece, index) => {
        const body = { model: this.#model, prompt: piece, add_special_tokens: addSpecial && index === 0 };
        return tokensField(this.#remote, await this.#ask({ own: '/tokenize' }, body));
      }),
    );
    return encoded.flat();
  }
}

/** Messages with inert contents; a last assistant message is continued rather than answered. */
export function vllmMessages(
  prompt: Extract<Prompt, { kind: 'chat' }>,
  continuation = '',
): Readonly<Record<string, unknown>> {
  const messages = prompt.messages.map(({ role, content }) => ({ role, content: breakMarks(content) }));
  const prefix = (prompt.assistantPrefix ?? '') + continuation;
  if (prefix === '') return { messages, add_generation_prompt: true };
  messages.push({ role: 'assistant', content: breakMarks(prefix) });
  return { messages, add_generation_prompt: false, continue_final_message: true };
}

function tokensField(remote: string, answer: unknown): readonly number[] {
  const tokens: unknown = typeof answer === 'object' && answer !== null ? Reflect.get(answer, 'tokens') : undefined;
  if (isTokenList(tokens)) return tokens;
  throw new RemoteFailure('malformed', `The remote ${remote} answered /tokenize without a list of token ids.`);
}

function textField(remote: string, answer: unknown, field: string): string {
  const text: unknown = typeof answer === 'object' && answer !== null ? Reflect.get(answer, field) : undefined;
  if (typeof text === 'string') return text;
  throw new RemoteFailure('malformed', `The remote ${remote} answered without the text in \`${field}\`.`);
}
