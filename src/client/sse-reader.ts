/**
 * Server-sent events as the HTML standard defines them, from the bytes of a fetch. Knows no event by name.
 */
import { StvConnectionError } from './client-errors.ts';

export interface ServerSentEvent {
  /** `message` where the stream gives no name. */
  readonly event: string;
  readonly data: string;
  /** The last id that the stream has given so far; empty before the first. */
  readonly id: string;
}

/** Cuts text into events; lines and events may be torn anywhere. What is unfinished at the end of the stream is dropped. */
export class SseParser {
  #rest = '';
  /** A line that ended with CR may be followed by its LF in the next piece. */
  #skipsLineFeed = false;
  #event = '';
  #id = '';
  #data: string[] = [];

  feed(text: string): ServerSentEvent[] {
    const events: ServerSentEvent[] = [];
    let start = 0;
    if (this.#skipsLineFeed && text !== '') {
      this.#skipsLineFeed = false;
      if (text.startsWith('\n')) start = 1;
    }
    const lineEnd = /\r\n?|\n/g;
    lineEnd.lastIndex = start;
    for (let match = lineEnd.exec(text); match !== null; match = lineEnd.exec(text)) {
      const line = this.#rest + text.slice(start, match.index);
      this.#rest = '';
      start = lineEnd.lastIndex;
      this.#skipsLineFeed = match[0] === '\r' && start === text.length;
      const event = this.#take(line);
      if (event !== undefined) events.push(event);
    }
    this.#rest += text.slice(start);
    return events;
  }

  #take(line: string): ServerSentEvent | undefined {
    if (line === '') return this.#dispatch();
    const colon = line.indexOf(':');
    if (colon === 0) return undefined;
    const field = colon === -1 ? line : line.slice(0, colon);
    const raw = colon === -1 ? '' : line.slice(colon + 1);
    const value = raw.startsWith(' ') ? raw.slice(1) : raw;
    if (field === 'event') this.#event = value;
    else if (field === 'data') this.#data.push(value);
    else if (field === 'id' && !value.includes('\0')) this.#id = value;
    return undefined;
  }

  #dispatch(): ServerSentEvent | undefined {
    const event = this.#event === '' ? 'message' : this.#event;
    const data = this.#data;
    this.#event = '';
    this.#data = [];
    return data.length === 0 ? undefined : { event, data: data.join('\n'), id: this.#id };
  }
}

/**
 * The events of an answer, until its body ends. Leaving the loop early closes the connection. Throws StvConnectionError when
 * the connection breaks, is aborted, or brings nothing (not even a comment) for `idleTimeoutMs`.
 */
export async function* readEvents(response: Response, idleTimeoutMs: number): AsyncGenerator<ServerSentEvent> {
  if (response.body === null) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const parser = new SseParser();
  try {
    for (;;) {
      const { done, value } = await within(reader.read(), idleTimeoutMs);
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    // the other side may be gone already
    reader.cancel().catch(() => {});
  }
}

async function within<T>(read: Promise<T>, limitMs: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<never>((_, reject) => {
    const fail = (): void => reject(new StvConnectionError(`The stream was silent for ${limitMs / 1000} s.`));
    timer = setTimeout(fail, limitMs);
  });
  try {
    return await Promise.race([read, silence]);
  } catch (thrown) {
    if (thrown instanceof StvConnectionError) throw thrown;
    throw new StvConnectionError('The connection was lost.', { cause: thrown });
  } finally {
    clearTimeout(timer);
  }
}
