/**
 * The events of one run in order of their ids, for readers that begin anywhere. Without a store everything that a replay
 * needs stays in memory; with one only the newest events do, and older ones are read back in pages.
 */
import type { SolveEvent } from '../stv/solve-events.ts';

/** Events with ids above `after`, oldest first, at most one page. */
export type ReadPage = (after: number) => Promise<readonly SolveEvent[]>;

/** Enough for a reader that is a few seconds behind. */
const maxRecentEvents = 2048;

export class EventLog {
  readonly #readPage: ReadPage | undefined;
  readonly #maxChars: number;
  #events: SolveEvent[] = [];
  #chars = 0;
  #lastId: number;

  /** `lastId`: events up to it are in the store already (a run that goes on after a restart). */
  constructor(maxChars: number, readPage?: ReadPage, lastId = 0) {
    this.#maxChars = maxChars;
    this.#readPage = readPage;
    this.#lastId = lastId;
  }

  get lastId(): number {
    return this.#lastId;
  }

  push(event: SolveEvent): void {
    this.#events.push(event);
    this.#lastId = event.id;
    if (this.#readPage !== undefined) {
      if (this.#events.length > 2 * maxRecentEvents) this.#events = this.#events.slice(-maxRecentEvents);
      return;
    }
    this.#chars += sizeOf(event);
    if (this.#chars > this.#maxChars) this.compact(this.#maxChars);
  }

  /** Drops deltas above `maxChars`: the end of an attempt or verification repeats its whole text. */
  compact(maxChars: number): void {
    if (this.#chars <= maxChars) return;
    this.#events = this.#events.filter((event) => !event.type.endsWith('-delta'));
    this.#chars = this.#events.reduce((sum, event) => sum + sizeOf(event), 0);
  }

  /** What there is after `id`: from memory at once, or a promise of a page where memory does not reach back far enough. */
  after(id: number): readonly SolveEvent[] | Promise<readonly SolveEvent[]> {
    if (id >= this.#lastId) return [];
    const oldest = this.#events[0]?.id ?? this.#lastId + 1;
    if (this.#readPage !== undefined && id + 1 < oldest) return this.#readPage(id);
    return this.#events.slice(this.#indexAfter(id));
  }

  /** Ids ascend, so a reader's place is found by halving. */
  #indexAfter(id: number): number {
    let low = 0;
    let high = this.#events.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#events[middle]?.id ?? 0) > id) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

/** Characters of an event's texts and a flat rate for the rest. */
function sizeOf(event: SolveEvent): number {
  if ('text' in event) return event.text.length + 120;
  if ('attempt' in event) return event.attempt.length + 400;
  if ('feedback' in event) return event.feedback.length + 400;
  return 400;
}
