/**
 * Parts a generated text into reasoning and content while it streams. Only content crosses from one role to the other: a
 * verifier that reads an attempt's thoughts comes to believe them.
 */
import type { ReasoningFormat } from './loop-pack.ts';

export interface ReasoningParts {
  readonly content: string;
  /** Undefined when the text holds none. */
  readonly reasoning: string | undefined;
}

export class ReasoningSplitter {
  readonly #format: ReasoningFormat | undefined;
  #place: 'start' | 'reasoning' | 'gap' | 'content';
  #held = '';
  #reasoning: string | undefined;
  #content = '';

  /** `prefix`: what the server wrote at the head of the answer; it may have opened the reasoning already, as a chat template may. */
  constructor(format: ReasoningFormat | undefined, prefix = '') {
    this.#format = format;
    const isOpened = format !== undefined && (format.isOpened === true || prefix.trimEnd().endsWith(format.open));
    this.#place = format === undefined ? 'content' : isOpened ? 'reasoning' : 'start';
    if (isOpened) this.#reasoning = '';
  }

  get isReasoning(): boolean {
    return this.#place === 'reasoning';
  }

  /** Takes generated text, gives the content that is certain by now. */
  push(text: string): string {
    this.#held += text;
    const format = this.#format;
    if (format === undefined || this.#place === 'content') return this.#take(this.#held);
    if (this.#place === 'start') {
      const begun = this.#held.trimStart();
      if (!begun.startsWith(format.open)) {
        if (format.open.startsWith(begun)) return '';
        this.#place = 'content';
        return this.#take(this.#held);
      }
      this.#place = 'reasoning';
      this.#reasoning = '';
      this.#held = begun.slice(format.open.length);
    }
    if (this.#place === 'reasoning') {
      const close = this.#held.indexOf(format.close);
      if (close === -1) {
        // the end of what came may be the beginning of the mark
        const safe = Math.max(0, this.#held.length - format.close.length + 1);
        this.#reasoning += this.#held.slice(0, safe);
        this.#held = this.#held.slice(safe);
        return '';
      }
      this.#reasoning += this.#held.slice(0, close);
      this.#held = this.#held.slice(close + format.close.length);
      this.#place = 'gap';
    }
    // blank space between the reasoning and the content belongs to neither
    this.#held = this.#held.trimStart();
    if (this.#held === '') return '';
    this.#place = 'content';
    return this.#take(this.#held);
  }

  /** The rest of the content once the text has ended. A reasoning that was never closed is no content. */
  flush(): string {
    if (this.#place === 'start') return this.#take(this.#held);
    if (this.#place === 'reasoning') this.#reasoning += this.#held;
    this.#held = '';
    return '';
  }

  /** Valid after `flush`. */
  get parts(): ReasoningParts {
    return { content: this.#content, reasoning: this.#reasoning?.trim() };
  }

  #take(text: string): string {
    this.#held = '';
    this.#content += text;
    return text;
  }
}
