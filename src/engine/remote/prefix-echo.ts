/** Some servers write the beginning that they were given once more at the head of the answer; this takes it off again. */

export class PrefixEcho {
  readonly #prefix: string;
  #held: string | undefined = '';

  /** @param prefix '' = nothing is ever held back */
  constructor(prefix: string) {
    // the white space at its end is trimmed by many chat templates
    this.#prefix = prefix;
    if (prefix.trim() === '') this.#held = undefined;
  }

  /** The part of `text` that is certainly not the echo. */
  push(text: string): string {
    if (this.#held === undefined) return text;
    this.#held += text;
    const core = this.#prefix.trimEnd();
    const isOpen = this.#held.length < this.#prefix.length && this.#prefix.startsWith(this.#held);
    if (isOpen) return '';
    const held = this.#held;
    this.#held = undefined;
    if (held.startsWith(this.#prefix)) return held.slice(this.#prefix.length);
    return held.startsWith(core) ? held.slice(core.length) : held;
  }

  /** What is still held back at the end: a whole echo without its white space is dropped, anything else is text. */
  flush(): string {
    const held = this.#held ?? '';
    this.#held = undefined;
    return held.startsWith(this.#prefix.trimEnd()) ? '' : held;
  }
}
