/**
 * One response object as it grows. Every step changes the object and returns the events that tell a stream of it, so the
 * JSON answer is the object itself once all steps are done.
 */
import type { ErrorBody } from './error-handler.ts';
import { makeId } from './request-id.ts';
import type { OutputItem, ResponseLogprob, ResponseResource, ResponseUsage } from './schemas-responses.ts';

export interface ResponseEvent {
  readonly type: string;
  readonly sequence_number: number;
}

/** What is known of a response before anything is generated. */
export type ResponseHead = Omit<
  ResponseResource,
  'object' | 'completed_at' | 'status' | 'incomplete_details' | 'error' | 'output' | 'usage' | 'x_solve'
>;

export interface ResponseEnding {
  readonly status: 'completed' | 'incomplete' | 'failed';
  readonly reason?: 'max_output_tokens' | 'cancelled';
  readonly error?: { readonly code: string; readonly message: string };
  readonly usage: ResponseUsage | null;
  readonly x_solve?: ResponseResource['x_solve'];
}

type MessageItem = OutputItem & { type: 'message' };
type ReasoningItem = OutputItem & { type: 'reasoning' };

export class ResponseRecord {
  readonly #head: ResponseHead;
  readonly #output: OutputItem[] = [];
  #ending: ResponseEnding | undefined;
  #completedAt: number | null = null;
  #sequence = 0;
  #isOpenPart = false;

  constructor(head: ResponseHead) {
    this.#head = head;
  }

  /** Whether it has not ended yet. */
  get isOpen(): boolean {
    return this.#ending === undefined;
  }

  /** The object as it is now. */
  resource(): ResponseResource {
    const ending = this.#ending;
    return {
      ...this.#head,
      object: 'response',
      completed_at: this.#completedAt,
      status: ending?.status ?? 'in_progress',
      incomplete_details: ending?.reason === undefined ? null : { reason: ending.reason },
      error: ending?.error ?? null,
      output: structuredClone(this.#output),
      usage: ending?.usage ?? null,
      ...(ending?.x_solve === undefined ? {} : { x_solve: ending.x_solve }),
    };
  }

  begin(): ResponseEvent[] {
    return [this.#snapshot('response.created'), this.#snapshot('response.in_progress')];
  }

  openMessage(): ResponseEvent[] {
    const item: MessageItem = {
      type: 'message',
      id: makeId('msg'),
      status: 'in_progress',
      role: 'assistant',
      content: [],
    };
    const added = this.#add(item);
    const part = { type: 'output_text' as const, text: '', annotations: [], logprobs: [] };
    item.content.push(part);
    return [added, this.#event('response.content_part.added', { ...this.#place(), content_index: 0, part })];
  }

  addText(delta: string, logprobs: readonly ResponseLogprob[] = []): ResponseEvent[] {
    const part = this.#message().content[0];
    if (part === undefined) throw new Error('text without a part');
    part.text += delta;
    part.logprobs.push(...logprobs);
    return [this.#event('response.output_text.delta', { ...this.#place(), content_index: 0, delta, logprobs })];
  }

  closeMessage(status: 'completed' | 'incomplete'): ResponseEvent[] {
    const item = this.#message();
    const part = item.content[0];
    if (part === undefined) throw new Error('a message without a part');
    item.status = status;
    const place = { ...this.#place(), content_index: 0 };
    return [
      this.#event('response.output_text.done', { ...place, text: part.text, logprobs: part.logprobs }),
      this.#event('response.content_part.done', { ...place, part }),
      this.#done(),
    ];
  }

  openReasoning(): ResponseEvent[] {
    return [this.#add({ type: 'reasoning', id: makeId('rs'), summary: [] })];
  }

  openSummary(): ResponseEvent[] {
    const item = this.#reasoning();
    item.summary.push({ type: 'summary_text', text: '' });
    this.#isOpenPart = true;
    const place = { ...this.#place(), summary_index: item.summary.length - 1 };
    return [
      this.#event('response.reasoning_summary_part.added', { ...place, part: { type: 'summary_text', text: '' } }),
    ];
  }

  addSummary(delta: string): ResponseEvent[] {
    if (delta === '') return [];
    const { part, place } = this.#summaryPart();
    part.text += delta;
    return [this.#event('response.reasoning_summary_text.delta', { ...place, delta })];
  }

  closeSummary(): ResponseEvent[] {
    if (!this.#isOpenPart) return [];
    this.#isOpenPart = false;
    const { part, place } = this.#summaryPart();
    return [
      this.#event('response.reasoning_summary_text.done', { ...place, text: part.text }),
      this.#event('response.reasoning_summary_part.done', { ...place, part }),
    ];
  }

  closeReasoning(): ResponseEvent[] {
    return [...this.closeSummary(), this.#done()];
  }

  finish(ending: ResponseEnding): ResponseEvent[] {
    this.#ending = ending;
    if (ending.status === 'completed') this.#completedAt = Math.floor(Date.now() / 1000);
    return [this.#snapshot(`response.${ending.status}`)];
  }

  /** A failure after the stream has begun: clients that throw see the error, the others how the response ended. */
  fail(error: ErrorBody['error']): ResponseEvent[] {
    const last = this.#output.at(-1);
    if (last?.type === 'message' && last.status === 'in_progress') last.status = 'incomplete';
    const { code, message } = error;
    const told = this.#event('error', { error });
    const ended = this.finish({ status: 'failed', error: { code: code ?? error.type, message }, usage: null });
    return [told, ...ended];
  }

  #event(type: string, data: object): ResponseEvent {
    const event = { type, sequence_number: this.#sequence, ...structuredClone(data) };
    this.#sequence += 1;
    return event;
  }

  #snapshot(type: string): ResponseEvent {
    return this.#event(type, { response: this.resource() });
  }

  #add(item: OutputItem): ResponseEvent {
    this.#output.push(item);
    return this.#event('response.output_item.added', { output_index: this.#output.length - 1, item });
  }

  #done(): ResponseEvent {
    return this.#event('response.output_item.done', { output_index: this.#output.length - 1, item: this.#last() });
  }

  #last(): OutputItem {
    const item = this.#output.at(-1);
    if (item === undefined) throw new Error('no output item is open');
    return item;
  }

  #message(): MessageItem {
    const item = this.#last();
    if (item.type !== 'message') throw new Error('no message is open');
    return item;
  }

  #reasoning(): ReasoningItem {
    const item = this.#last();
    if (item.type !== 'reasoning') throw new Error('no reasoning is open');
    return item;
  }

  #summaryPart() {
    const { summary } = this.#reasoning();
    const part = summary.at(-1);
    if (part === undefined) throw new Error('a summary without a part');
    return { part, place: { ...this.#place(), summary_index: summary.length - 1 } };
  }

  #place(): { item_id: string; output_index: number } {
    return { item_id: this.#last().id, output_index: this.#output.length - 1 };
  }
}
