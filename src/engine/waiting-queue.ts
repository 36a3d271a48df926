/**
 * Who is admitted next. Sequences wait in flows, one for each share key (an API key) and priority. Flows are served by deficit round
 * robin: each round gives a flow a number of tokens, and a flow is served while it has any left, the one with most left first; what
 * its sequences compute is taken off, what they computed too much is owed. Within a flow the smaller `key` goes first. So a key that
 * sends more gets no more, one that asks seldom goes first, and with one flow everything is in the order of keys.
 *
 * Batch flows come after all interactive sequences with a smaller key; from then on they get their weight and no more, so neither
 * starves the other.
 */
import type { Sequence } from './sequence.ts';

/** Tokens of a round for a batch flow, and what it begins with. About a chunk: more would let turns last long. */
const QUANTUM = 128;
/** How many times as much an interactive flow gets. */
export const INTERACTIVE_WEIGHT = 4;

interface Flow {
  readonly name: string;
  readonly isBatch: boolean;
  /** Ordered by key, first come first among equals. */
  readonly waiting: Sequence[];
  numRunning: number;
  /** Tokens it may still have computed in this round; negative = owed. */
  balance: number;
}

export class WaitingQueue {
  readonly #flows = new Map<string, Flow>();
  #size = 0;
  /** Not to be offered again in this step. */
  readonly #skipped = new Set<Sequence>();

  get size(): number {
    return this.#size;
  }

  add(sequence: Sequence): void {
    const flow = this.#flowOf(sequence);
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
    this.#forgetIdle(flow);
    return true;
  }

  /** A step begins: everyone may be offered again. */
  beginStep(): void {
    this.#skipped.clear();
  }

  /** Whose turn it is. Changes nothing that counts: asked again, it gives the same answer. */
  next(): Sequence | undefined {
    const heads = new Map<Flow, Sequence>();
    let leastKey = Number.POSITIVE_INFINITY;
    for (const flow of this.#flows.values()) {
      const head = flow.waiting.find((sequence) => !this.#skipped.has(sequence));
      if (head === undefined) continue;
      heads.set(flow, head);
      if (!flow.isBatch) leastKey = Math.min(leastKey, head.key);
    }
    const candidates = [...heads].filter(([flow, head]) => !flow.isBatch || head.key <= leastKey);
    if (candidates.length === 0) return undefined;
    if (!candidates.some(([flow]) => flow.balance > 0)) beginRounds(candidates.map(([flow]) => flow));
    return candidates.reduce((best, each) => (isRicher(each[0], best[0]) ? each : best))[1];
  }

  /** It cannot be admitted in this step. */
  skip(sequence: Sequence): void {
    this.#skipped.add(sequence);
  }

  /** It is admitted and leaves the queue. */
  take(sequence: Sequence): void {
    const flow = this.#flowOf(sequence);
    flow.numRunning++;
    this.remove(sequence);
  }

  /** So many tokens were, or are about to be, computed for it. */
  charge(sequence: Sequence, numTokens: number): void {
    this.#flowOf(sequence).balance -= numTokens;
  }

  /** One that was taken runs no longer. */
  leave(sequence: Sequence): void {
    const flow = this.#flowOf(sequence);
    flow.numRunning--;
    this.#forgetIdle(flow);
  }

  /** Throws unless flows, orders and counts are right. @param numRunning sequences that were taken and have not left */
  checkIntegrity(numRunning: number): void {
    let size = 0;
    let running = 0;
    for (const { waiting, numRunning: own, name } of this.#flows.values()) {
      if (waiting.length + own === 0) throw new Error(`The queue kept the idle flow ${name}.`);
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
  }

  #flowOf(sequence: Sequence): Flow {
    const name = nameOf(sequence);
    let flow = this.#flows.get(name);
    if (flow === undefined) {
      const isBatch = sequence.spec.priority === 'batch';
      flow = { name, isBatch, waiting: [], numRunning: 0, balance: isBatch ? QUANTUM : INTERACTIVE_WEIGHT * QUANTUM };
      this.#flows.set(name, flow);
    }
    return flow;
  }

  /** Nothing is saved up while nobody waits; debts last as long as something runs. */
  #forgetIdle(flow: Flow): void {
    if (flow.waiting.length > 0) return;
    flow.balance = Math.min(flow.balance, 0);
    if (flow.numRunning === 0) this.#flows.delete(flow.name);
  }
}

function nameOf({ spec: { priority, shareKey } }: Sequence): string {
  return `${priority}:${shareKey ?? ''}`;
}

function quantumOf(flow: Flow): number {
  return flow.isBatch ? QUANTUM : INTERACTIVE_WEIGHT * QUANTUM;
}

/** As many rounds at once as it takes until one of the flows may be served. */
function beginRounds(flows: readonly Flow[]): void {
  let rounds = Number.POSITIVE_INFINITY;
  for (const flow of flows) rounds = Math.min(rounds, Math.floor(-flow.balance / quantumOf(flow)) + 1);
  for (const flow of flows) flow.balance += rounds * quantumOf(flow);
}

/** Has more of a round left; with as much, an interactive flow goes before a batch flow. */
function isRicher(one: Flow, other: Flow): boolean {
  const [a, b] = [one.balance / quantumOf(one), other.balance / quantumOf(other)];
  return a > b || (a === b && other.isBatch && !one.isBatch);
}
