/**
 * Who is admitted next. Sequences wait in flows, one for each share key (an API key) and priority. Flows are served by start-time
 * fair queueing (Goyal, Vin and Cheng 1996): each counts the tokens computed for it, and the one with the least goes first. A flow
 * that comes begins where the last one served stood, so nothing is saved up by not asking. One that has got more than that and
 * leaves is remembered until the others have caught up: a key that sends one request at a time gets no more than one with a backlog.
 * Within a flow the smaller `key` goes first. So a key that sends more gets no more, one that asks seldom goes first, and with one
 * flow everything is in the order of keys.
 *
 * Batch flows come after all interactive sequences with a smaller key; from then on they get their weight and no more, so neither
 * starves the other.
 */
import type { Sequence } from './sequence.ts';

/** How many times as much as a batch flow an interactive flow gets. */
export const INTERACTIVE_WEIGHT = 4;
/** Flows with nothing open that are remembered for what they got. */
const MAX_DEBTORS = 32;

interface Flow {
  readonly name: string;
  readonly isBatch: boolean;
  /** Ordered by key, first come first among equals. */
  readonly waiting: Sequence[];
  numRunning: number;
  /** Tokens computed for it, an interactive flow's divided by its weight, as if it had had its share from the beginning. */
  served: number;
}

export class WaitingQueue {
  readonly #flows = new Map<string, Flow>();
  #size = 0;
  /** What the flow served last had got before: where those begin who come. Never falls. */
  #level = 0;
  /** Not to be offered again in this step. */
  readonly #skipped = new Set<Sequence>();

  get size(): number {
    return this.#size;
  }

  add(sequence: Sequence): void {
    const flow = this.#flowOf(sequence);
    if (flow.waiting.length === 0) this.#lift(flow);
    let low = 0;
    let high = flow.waiting.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((flow.waiting[middle] as Sequence).key <= sequence.key)
        low = middle + 1; // middle < high <= length
      else high = middle;
    }
    flow.waiting.splice(low, 0, sequence);
    this.#size++;
  }

  /** Takes out one that waits. False if it does not. */
  remove(sequence: Sequence): boolean {
    const flow = this.#flows.get(nameOf(sequence));
    const place = flow?.waiting.indexOf(sequence) ?? -1;
    if (flow === undefined || place < 0) return false;
    flow.waiting.splice(place, 1);
    this.#size--;
    this.#forgetIdle();
    return true;
  }

  /** A step begins: everyone may be offered again. */
  beginStep(): void {
    this.#skipped.clear();
  }

  /** Whose turn it is. Changes nothing that counts: asked again, it gives the same answer. */
  next(): Sequence | undefined {
    const heads: Head[] = [];
    let leastKey = Number.POSITIVE_INFINITY;
    for (const flow of this.#flows.values()) {
      const sequence = flow.waiting.find((each) => !this.#skipped.has(each));
      if (sequence === undefined) continue;
      heads.push({ flow, sequence });
      if (!flow.isBatch) leastKey = Math.min(leastKey, sequence.key);
    }
    let first: Head | undefined;
    for (const head of heads) {
      // what has to wait for its time has nothing to make up for then
      if (head.flow.isBatch && head.sequence.key > leastKey) this.#lift(head.flow);
      else if (first === undefined || goesBefore(head, first)) first = head;
    }
    return first?.sequence;
  }

  /** Whether a batch sequence that runs would come after the interactive `first` if it waited again. */
  wouldFollow(sequence: Sequence, first: Sequence): boolean {
    return Math.max(this.#flowOf(sequence).served, this.#level) >= this.#flowOf(first).served;
  }

  /** It cannot be admitted in this step. */
  skip(sequence: Sequence): void {
    this.#skipped.add(sequence);
  }

  /** It is admitted and leaves the queue. */
  take(sequence: Sequence): void {
    const flow = this.#flowOf(sequence);
    flow.numRunning++;
    this.#level = Math.max(this.#level, flow.served);
    this.remove(sequence);
  }

  /** So many tokens were, or are about to be, computed for it. */
  charge(sequence: Sequence, numTokens: number): void {
    const flow = this.#flowOf(sequence);
    flow.served += flow.isBatch ? numTokens : numTokens / INTERACTIVE_WEIGHT;
  }

  /** One that was taken runs no longer. */
  leave(sequence: Sequence): void {
    this.#flowOf(sequence).numRunning--;
    this.#forgetIdle();
  }

  /** Throws unless flows, orders and counts are right. @param numRunning sequences that were taken and have not left */
  checkIntegrity(numRunning: number): void {
    let size = 0;
    let running = 0;
    let numDebtors = 0;
    for (const { waiting, numRunning: own, name, served } of this.#flows.values()) {
      if (waiting.length + own === 0) {
        if (served <= this.#level) throw new Error(`The queue kept the flow ${name}, which owes nothing.`);
        numDebtors++;
      }
      size += waiting.length;
      running += own;
      for (const [place, sequence] of waiting.entries()) {
        if (sequence.slot !== undefined || sequence.numComputedTokens !== 0)
          throw new Error(`Waiting sequence ${sequence.id} holds a slot.`);
        const before = waiting[place - 1];
        if (before !== undefined && before.key > sequence.key) throw new Error('The waiting queue is out of order.');
      }
    }
    if (size !== this.#size) throw new Error(`${size} sequences wait, ${this.#size} are counted.`);
    if (running !== numRunning) throw new Error(`${numRunning} sequences run, ${running} are counted by their flows.`);
    if (numDebtors > (size + running === 0 ? 0 : MAX_DEBTORS))
      throw new Error(`The queue kept ${numDebtors} flows in which nothing is open.`);
  }

  #flowOf(sequence: Sequence): Flow {
    const name = nameOf(sequence);
    let flow = this.#flows.get(name);
    if (flow === undefined) {
      const isBatch = sequence.spec.priority === 'batch';
      flow = { name, isBatch, waiting: [], numRunning: 0, served: this.#level };
      this.#flows.set(name, flow);
    }
    return flow;
  }

  #lift(flow: Flow): void {
    flow.served = Math.max(flow.served, this.#level);
  }

  /** What was got too much counts as long as anything is open at all; of too many who owe something those go who owe least. */
  #forgetIdle(): void {
    const idle = [...this.#flows.values()].filter(isIdle);
    if (idle.length === this.#flows.size) {
      this.#flows.clear();
      return;
    }
    const last = idle.length <= MAX_DEBTORS ? undefined : idle.sort((a, b) => b.served - a.served)[MAX_DEBTORS];
    // all begin where the forgotten ones stood: who waits is not passed for ever by those who always come anew
    if (last !== undefined) this.#level = Math.max(this.#level, last.served);
    for (const { name, served } of idle) if (served <= this.#level) this.#flows.delete(name);
  }
}

/** A flow that may be served next, and what waits first in it. */
interface Head {
  readonly flow: Flow;
  readonly sequence: Sequence;
}

function nameOf({ spec: { priority, shareKey } }: Sequence): string {
  return `${priority}:${shareKey ?? ''}`;
}

function isIdle({ waiting, numRunning }: Flow): boolean {
  return waiting.length + numRunning === 0;
}

/** Has got less; of those with as much an interactive flow goes first, then the smaller key. */
function goesBefore(one: Head, other: Head): boolean {
  if (one.flow.served !== other.flow.served) return one.flow.served < other.flow.served;
  if (one.flow.isBatch !== other.flow.isBatch) return other.flow.isBatch;
  return one.sequence.key < other.sequence.key;
}
