import { createParser } from 'eventsource-parser';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readEvents, SseParser } from '../../../src/client/sse-reader.ts';

/** What another reader of the same standard makes of the text. */
function referenceEvents(text: string): { event: string; data: string }[] {
  const events: { event: string; data: string }[] = [];
  const parser = createParser({ onEvent: ({ event, data }) => events.push({ event: event ?? 'message', data }) });
  parser.feed(text);
  return events;
}

function cut(text: string, places: readonly number[]): string[] {
  const at = [...new Set(places.map((place) => place % (text.length + 1)))].sort((a, b) => a - b);
  return [0, ...at].map((from, index) => text.slice(from, at[index]));
}

const field = fc.constantFrom('data', 'event', 'id', 'retry', 'other', '', 'data ');
const value = fc.constantFrom('', ' ', 'a', ' a', '  a b', ':', '{"x": 1}', 'é😀', 'data: x');
const lineEnd = fc.constantFrom('\n', '\r\n', '\r');
const line = fc.oneof(
  { weight: 5, arbitrary: fc.tuple(field, value, lineEnd).map(([name, text, end]) => `${name}:${text}${end}`) },
  { weight: 3, arbitrary: lineEnd },
  { weight: 1, arbitrary: fc.tuple(field, lineEnd).map(([name, end]) => `${name}${end}`) },
);

describe('SseParser', () => {
  it('gives the same events however the text is torn, and those of another reader', () => {
    fc.assert(
      fc.property(fc.array(line, { maxLength: 20 }), fc.array(fc.nat(200)), (lines, places) => {
        const text = `${lines.join('')}\n\n`;
        const whole = new SseParser().feed(text);
        const torn = new SseParser();
        expect(cut(text, places).flatMap((piece) => torn.feed(piece))).toEqual(whole);
        // an empty text is no event for us and for the standard either way of counting its fields
        const named = whole.map(({ event, data }) => ({ event, data }));
        expect(named).toEqual(referenceEvents(text));
      }),
      { numRuns: 300 },
    );
  });

  it('keeps the last id until another comes, and drops one that holds NUL', () => {
    const events = new SseParser().feed('id: 7\ndata: a\n\ndata: b\n\nid: 9\0\ndata: c\n\nid\ndata: d\n\n');
    expect(events.map(({ data, id }) => [data, id])).toEqual([
      ['a', '7'],
      ['b', '7'],
      ['c', '7'],
      ['d', ''],
    ]);
  });

  it('drops the event that the end of the stream cuts off', () => {
    expect(new SseParser().feed('data: a\n\ndata: b\n')).toEqual([{ event: 'message', data: 'a', id: '' }]);
  });
});

describe('readEvents', () => {
  it('puts characters together that were torn between chunks', async () => {
    const bytes = new TextEncoder().encode('data: 😀é\n\n');
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
        controller.close();
      },
    });
    const events = [];
    for await (const event of readEvents(new Response(body), 1000)) events.push(event.data);
    expect(events).toEqual(['😀é']);
  });

  it('closes the connection when its reader leaves', async () => {
    let isCancelled = false;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(new TextEncoder().encode('data: a\n\n')),
      cancel: () => {
        isCancelled = true;
      },
    });
    for await (const _ of readEvents(new Response(body), 1000)) break;
    expect(isCancelled).toBe(true);
  });

  it('counts silence as a lost connection, and a comment as a sign of life', async () => {
    const body = new ReadableStream<Uint8Array>({
      async start(controller) {
        for (let count = 0; count < 4; count++) {
          await new Promise((resolve) => setTimeout(resolve, 60));
          controller.enqueue(new TextEncoder().encode(': keep-alive\n\n'));
        }
        controller.enqueue(new TextEncoder().encode('data: a\n\n'));
      },
    });
    const events: string[] = [];
    const reading = (async () => {
      for await (const event of readEvents(new Response(body), 150)) events.push(event.data);
    })();
    await expect(reading).rejects.toThrow('silent for 0.15 s');
    expect(events).toEqual(['a']);
  });
});
