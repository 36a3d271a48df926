/** Reads server-sent events with the parser that client libraries use. */
import { createParser, type EventSourceMessage } from 'eventsource-parser';

export async function* readSse(body: AsyncIterable<Uint8Array>): AsyncGenerator<EventSourceMessage> {
  const ready: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (event) => ready.push(event) });
  const decoder = new TextDecoder();
  for await (const bytes of body) {
    parser.feed(decoder.decode(bytes, { stream: true }));
    yield* ready.splice(0);
  }
}

/** All events of a response, data parsed. `[DONE]` stays a string. */
export async function collectSse(
  body: AsyncIterable<Uint8Array>,
): Promise<{ event: string | undefined; id: string | undefined; data: unknown }[]> {
  const events = [];
  for await (const { event, id, data } of readSse(body)) {
    events.push({ event, id, data: data === '[DONE]' ? data : (JSON.parse(data) as unknown) });
  }
  return events;
}
