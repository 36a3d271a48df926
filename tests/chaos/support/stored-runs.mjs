// Stored runs and readers that follow them through every crash: what they saw must be what the store replays.
import { createParser } from 'eventsource-parser';
import { words } from './client.mjs';
import { sleep } from './report.mjs';

const body = (n) => ({
  problem: `What is ${n} + 12? ${words(n, 8)}`,
  max_rounds: 2,
  background: true,
  generator: { max_tokens: 16 },
  verifier: { max_tokens: 12 },
});

/** Events of a run after an id until its stream ends, for whatever reason; true after `solve-end`. */
async function readEvents(url, id, after, onEvent) {
  let isOver = false;
  try {
    const headers = after === 0 ? {} : { 'last-event-id': String(after) };
    const answer = await fetch(`${url}/solve/${id}/events`, { headers });
    if (!answer.ok) return false;
    const parser = createParser({
      onEvent: ({ event, id: eventId, data }) => {
        if (event === 'error') return;
        onEvent({ id: Number(eventId), event, data });
        isOver ||= event === 'solve-end';
      },
    });
    const decoder = new TextDecoder();
    for await (const bytes of answer.body) parser.feed(decoder.decode(bytes, { stream: true }));
  } catch {
    // the server went away in between
  }
  return isOver;
}

export class StoredRuns {
  /** By id: the events that its reader saw, in the order in which they came. */
  seen = new Map();
  #url;
  #next;
  #isOver = false;
  #readers = [];

  constructor(url, seed = 1) {
    this.#url = url;
    this.#next = seed * 1_000_000;
  }

  get numOpen() {
    return [...this.seen.values()].filter((events) => events.at(-1)?.event !== 'solve-end').length;
  }

  /** Begins a run; asks again with the same Idempotency-Key until the server has said that it has it. */
  async begin() {
    const n = this.#next++;
    while (!this.#isOver) {
      try {
        const answer = await fetch(`${this.#url}/solve`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', 'idempotency-key': `run-${n}` },
          body: JSON.stringify(body(n)),
          signal: AbortSignal.timeout(10_000),
        });
        const json = await answer.json();
        if (answer.status === 202) {
          this.#readers.push(this.#follow(json.id));
          return json.id;
        }
      } catch {
        // no answer, or half of one: the key makes the next try safe
      }
      await sleep(100);
    }
    return undefined;
  }

  /** Keeps so many runs going until `stop`. */
  async keepGoing(count) {
    while (!this.#isOver) {
      if (this.numOpen < count) await this.begin();
      else await sleep(50);
    }
  }

  async #follow(id) {
    const events = [];
    this.seen.set(id, events);
    while (!(await readEvents(this.#url, id, events.at(-1)?.id ?? 0, (event) => events.push(event)))) {
      if (this.#isOver && this.#gaveUp) return;
      await sleep(100);
    }
  }

  #gaveUp = false;

  /** Begins no more and waits for those there are; true when all have ended in time. */
  async finish(limitMs) {
    this.#isOver = true;
    const all = Promise.all(this.#readers).then(() => true);
    const inTime = await Promise.race([all, sleep(limitMs).then(() => false)]);
    this.#gaveUp = true;
    return inTime;
  }

  /** What is wrong with what the readers saw, against a replay of the store. */
  async faults() {
    const faults = [];
    const statuses = {};
    for (const [id, seen] of this.seen) {
      const stored = [];
      await readEvents(this.#url, id, 0, (event) => stored.push(event));
      if (!seen.every((event, index) => event.id === index + 1)) faults.push(`${id}: an event was lost or came twice`);
      if (JSON.stringify(seen) !== JSON.stringify(stored)) faults.push(`${id}: replayed otherwise than seen`);
      for (const name of ['solve-start', 'solve-end']) {
        const count = stored.filter(({ event }) => event === name).length;
        if (count !== 1) faults.push(`${id}: ${count} times ${name}`);
      }
      const end = JSON.parse(stored.at(-1)?.data ?? '{}');
      const status = end.status === 'failed' ? `failed: ${end.error?.code}` : end.status;
      statuses[status] = (statuses[status] ?? 0) + 1;
    }
    return { faults, statuses };
  }

  /** Reports how the runs ended; checks that their events are whole, under the campaign's own words for it, and that none failed. */
  async check(report, whole) {
    const { faults, statuses } = await this.faults();
    report.figure('stored runs', JSON.stringify(statuses));
    report.check(whole, faults.length === 0, faults.slice(0, 3).join('; '));
    report.check(
      'none of them failed',
      Object.keys(statuses).every((status) => !status.startsWith('failed')),
      JSON.stringify(statuses),
    );
  }
}
