import { createParser, type EventSourceMessage } from 'eventsource-parser';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeFrame } from '../../../src/routes/sse.ts';
import { toWire } from '../../../src/routes/wire.ts';

describe('toWire', () => {
  it('spells keys in snake_case at every depth and leaves values and metadata alone', () => {
    const given = {
      firstError: null,
      votes: [{ rawScore: 0.5, finishReason: 'stop' }],
      giveUp: { rejectsInARow: 3 },
      metadata: { studentId: 'x', nested_key: 'y' },
      absent: undefined,
    };
    expect(toWire(given)).toEqual({
      first_error: null,
      votes: [{ raw_score: 0.5, finish_reason: 'stop' }],
      give_up: { rejects_in_a_row: 3 },
      metadata: { studentId: 'x', nested_key: 'y' },
    });
  });
});

describe('encodeFrame', () => {
  function parse(text: string): EventSourceMessage[] {
    const events: EventSourceMessage[] = [];
    createParser({ onEvent: (event) => events.push(event) }).feed(text);
    return events;
  }

  it('gives back any data through a standard parser, as one event', () => {
    const data = fc.string({
      unit: fc.constantFrom('a', '\n', '\r', ':', ' ', '{', '\u2028', '🙂', 'data', 'id: 9\n\n'),
    });
    fc.assert(
      fc.property(data, fc.nat(), (text, id) => {
        const events = parse(encodeFrame({ event: 'attempt-delta', id, data: text }));
        expect(events).toHaveLength(1);
        // every kind of line break is one line break to a reader of the stream
        expect(events[0]).toMatchObject({
          event: 'attempt-delta',
          id: String(id),
          data: text.replaceAll(/\r\n|\r/g, '\n'),
        });
      }),
    );
  });

  it('refuses an event name that would forge a field', () => {
    expect(() => encodeFrame({ event: 'a\nid: 7', data: '' })).toThrow('line break');
  });
});
