/**
 * Who runs next and how many tokens each gets: every sequence has `numComputedTokens` and a target, and a step hands out a token
 * budget so that the first catches up with the second. Chunked prefill, prefix hits and resumption are cases of that sentence.
 *
 * A sequence's `key` is its arrival time, plus the time its prompt needs alone, plus a fixed delay for `batch` work, less a fixed
 * lead for what goes on from a sequence that has just ended; smaller goes first. So short prompts pass long ones, interactive work
 * passes batch work and verdicts pass what waits while their feedback was written, but only what arrives within that time: nothing
 * starves. Where several API keys or both priorities wait, `waiting-queue.ts` shares out the turns among them.
 *
 * No tensors, no clock of its own, no promises.
 */

import type { SequenceSpec } from './messages.ts';
import { Sequence } from './sequence.ts';
import { type Acquired, type PrefixLookup, SlotManager } from './slot-manager.ts';
import { INTERACTIVE_WEIGHT, WaitingQueue } from './waiting-queue.ts';

export interface SchedulerOptions {
  readonly numSlots: number;
  readonly maxLength: number;
  readonly maxLanes: number;
  readonly maxBatchedTokens: number;
  /** Most prompt tokens of a step in which something decodes: bounds how long running streams pause. */
  readonly chunkTokens: number;
  readonly reusePrefixes: boolean;
  readonly minCopyTokens?: number;
  /** How much later than an interactive sequence a `batch` one that arrived at the same time is served. Default 10 s. */
  readonly batchDelayMs?: number;
  /** Keep guesses of what each sequence says next. Default false. */
  readonly isDrafting?: boolean;
  /** Wait for another sequence's prefix only if that spares at least so many tokens. Default 32. */
  readonly minAwaitedTokens?: number;
}

/** One sequence's share of a step. */
export interface ScheduledLane {
  readonly sequence: Sequence;
  readonly numTokens: number;
}

export interface Admission extends Acquired {
  readonly sequence: Sequence;
}

/** In this order: preempted sequences have left their slots, admitted ones need their copies, then the lanes run. */
export interface Schedule {
  readonly lanes: readonly ScheduledLane[];
  readonly admitted: readonly Admission[];
  readonly preempted: readonly Sequence[];
  /** The step holds nothing but this sequence, because the host crashed once while it was open. */
  readonly suspect: Sequence | undefined;
  /** Tokens that the step could still take: what guesses may use. */
  readonly budgetLeft: number;
}

type Shares = Pick<Schedule, 'lanes' | 'admitted' | 'budgetLeft'>;

const NOTHING: Shares = { lanes: [], admitted: [], budgetLeft: 0 };

/** How much earlier than others that arrived with it a continuation is served: its request has waited its turn once. */
const CONTINUATION_LEAD_MS = 30_000;

/** How many waiting sequences a step looks at beyond those it admits: those may all be waiting for one prefix. */
const MAX_SKIPPED = 64;

export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #slots: SlotManager;
  readonly #waiting = new WaitingQueue();
  readonly #running: Sequence[] = [];
  readonly #ownerOf = new Map<number, Sequence>();
  /** Steps of suspects and of everybody else take turns. */
  #isSuspectsTurn = false;

  constructor(options: SchedulerOptions) {
    // every decoding sequence gets its token in every step, so there are never more of them than tokens, lanes or slots
    const maxLanes = Math.min(options.maxLanes, options.maxBatchedTokens, options.numSlots);
    this.#options = { ...options, maxLanes };
    this.#slots = new SlotManager(options);
  }

  get numWaiting(): number {
    return this.#waiting.size;
  }

  get numRunning(): number {
    return this.#running.length;
  }

  get slots(): SlotManager {
    return this.#slots;
  }

  /** @param msPerToken what a prompt token costs at present, for the order of service */
  add(spec: SequenceSpec, { nowMs, msPerToken }: { nowMs: number; msPerToken: number }): Sequence {
    const delay = spec.priority === 'batch' ? (this.#options.batchDelayMs ?? 10_000) : 0;
    const lead = spec.isContinuation === true ? CONTINUATION_LEAD_MS : 0;
    const key = nowMs + delay - lead + msPerToken * spec.prompt.length;
    const { maxLength, isDrafting = false } = this.#options;
    const sequence = new Sequence(spec, { key, nowMs, maxLength, isDrafting });
    this.#waiting.add(sequence);
    return sequence;
  }

  /** Hands out one step. The caller runs it and then calls `advance` for every lane. */
  schedule(nowMs: number): Schedule {
    this.#waiting.beginStep();
    this.#slots.beginStep(nowMs);
    const preempted = this.#makeRoom();
    const first = this.#isSuspectsTurn ? this.#scheduleSuspect() : undefined;
    this.#isSuspectsTurn = !this.#isSuspectsTurn;
    const all = first === undefined ? this.#scheduleAll(nowMs) : NOTHING;
    // a suspect may have been all that there was to admit, and a step must have a lane
    const suspect = first ?? (all.lanes.length === 0 ? this.#scheduleSuspect() : undefined);
    if (suspect === undefined) return { ...all, preempted, suspect: undefined };
    return { lanes: [suspect], admitted: all.admitted, preempted, suspect: suspect.sequence, budgetLeft: 0 };
  }

  /** One step of a suspect alone; the next time it is another one's turn. */
  #scheduleSuspect(): ScheduledLane | undefined {
    const place = this.#running.findIndex((sequence) => sequence.spec.isSuspect === true);
    const sequence = this.#running[place];
    if (sequence === undefined) return undefined;
    this.#running.splice(place, 1);
    this.#running.push(sequence);
    return { sequence, numTokens: shareOf(this.#options.maxBatchedTokens, sequence.numMissingTokens) };
  }

  #scheduleAll(nowMs: number): Shares {
    const lanes: ScheduledLane[] = [];
    let budget = this.#options.maxBatchedTokens;
    const prefilling: Sequence[] = [];
    for (const sequence of this.#running) {
      if (sequence.spec.isSuspect === true) continue;
      if (sequence.isDecoding) {
        lanes.push({ sequence, numTokens: 1 });
        budget--;
      } else prefilling.push(sequence);
    }
    if (lanes.length > 0) budget = Math.min(budget, Math.max(1, this.#options.chunkTokens));
    prefilling.sort((a, b) => a.prefillKey - b.prefillKey);

    const admitted: Admission[] = [];
    let next = 0; // of the prefilling ones
    let skipped = 0;
    while (budget > 0) {
      const running = prefilling[next];
      const waiting = this.#canAdmit && skipped <= MAX_SKIPPED ? this.#waiting.next() : undefined;
      let sequence: Sequence;
      if (running !== undefined && (waiting === undefined || running.prefillKey <= waiting.key)) {
        sequence = running;
        next++;
      } else if (waiting !== undefined) {
        const admission = this.#tryAdmit(waiting, nowMs);
        if (admission === undefined) {
          this.#waiting.skip(waiting);
          skipped++;
          continue;
        }
        admitted.push(admission);
        if (waiting.spec.isSuspect === true) continue;
        sequence = waiting;
      } else break;
      const numTokens = shareOf(budget, sequence.numMissingTokens);
      lanes.push({ sequence, numTokens });
      budget -= numTokens;
    }
    return { lanes, admitted, budgetLeft: budget };
  }

  /** The lane has been computed. */
  advance(sequence: Sequence, numTokens: number): void {
    sequence.numComputedTokens += numTokens;
    this.#charge(sequence, sequence.numComputedTokens);
    if (sequence.slot !== undefined) this.#slots.advance(sequence.slot, sequence.numComputedTokens);
  }

  /**
   * Takes a sequence out, whatever its phase.
   * @param keepContent false if its cache cannot be trusted
   * @param heldUntilMs until when its slot is kept for a continuation, as long as others run
   */
  remove(sequence: Sequence, { keepContent, heldUntilMs = 0 }: { keepContent: boolean; heldUntilMs?: number }): void {
    if (!this.#waiting.remove(sequence)) this.#leaveSlot(sequence, keepContent, heldUntilMs);
  }

  /** Throws unless the slots, the index and the queues tell one story. */
  checkIntegrity(): void {
    const usedBy = new Map<number, number>();
    for (const sequence of this.#running) {
      if (sequence.slot === undefined) throw new Error(`Running sequence ${sequence.id} has no slot.`);
      if (this.#ownerOf.get(sequence.slot) !== sequence)
        throw new Error(`Slot ${sequence.slot} forgot its sequence ${sequence.id}.`);
      if (sequence.numComputedTokens > sequence.numTokens)
        throw new Error(`Sequence ${sequence.id} computed more than it has.`);
      usedBy.set(sequence.slot, sequence.numComputedTokens);
    }
    this.#waiting.checkIntegrity(this.#running.length);
    if (this.#running.length > this.#options.maxLanes)
      throw new Error(`${this.#running.length} sequences run on ${this.#options.maxLanes} lanes.`);
    if (this.#ownerOf.size !== this.#running.length) throw new Error('Slots and running sequences differ in number.');
    this.#slots.checkIntegrity(usedBy);
  }

  get #canAdmit(): boolean {
    return this.#running.length < this.#options.maxLanes && this.#slots.canAcquire(true);
  }

  /**
   * `undefined`: better wait, because a sequence that goes first is about to compute much of the same prefix, or because what is
   * free is kept for continuations.
   */
  #tryAdmit(sequence: Sequence, nowMs: number): Admission | undefined {
    const { isContinuation = false } = sequence.spec;
    // with nothing else to do, a step would be empty
    if (!this.#slots.canAcquire(isContinuation || this.#running.length === 0)) return undefined;
    const target = sequence.computeTarget;
    const tokens = sequence.tokens(0, target);
    const found = this.#slots.lookup(tokens, sequence.maxCachedTokens);
    if (this.#awaits(sequence, found)) return undefined;
    const acquired = this.#slots.acquire(tokens, found, isContinuation);
    sequence.slot = acquired.slot;
    sequence.numComputedTokens = acquired.numCached;
    if (sequence.startedAtMs === undefined) {
      sequence.startedAtMs = nowMs;
      sequence.numCachedTokens = Math.min(acquired.numCached, sequence.numPromptTokens);
    }
    this.#waiting.take(sequence);
    this.#running.push(sequence);
    this.#ownerOf.set(acquired.slot, sequence);
    sequence.numChargedTokens = Math.max(sequence.numChargedTokens, acquired.numCached);
    this.#charge(sequence, target);
    return { ...acquired, sequence };
  }

  /** Every token of a sequence counts once, what was found cached not at all. */
  #charge(sequence: Sequence, numTokens: number): void {
    if (numTokens <= sequence.numChargedTokens) return;
    this.#waiting.charge(sequence, numTokens - sequence.numChargedTokens);
    sequence.numChargedTokens = numTokens;
  }

  /**
   * Whether the sequence had better wait for the prefix that another one computes. That one goes on as early as the one that waits
   * would have: keys of requests that arrive together differ by more than their arrival, because the price of a token changes.
   */
  #awaits(sequence: Sequence, { length, plannedLength, plannedSlot }: PrefixLookup): boolean {
    if (plannedSlot === undefined || plannedLength - length < (this.#options.minAwaitedTokens ?? 32)) return false;
    const leader = this.#ownerOf.get(plannedSlot);
    if (leader === undefined || leader.spec.isSuspect === true) return false;
    leader.prefillKey = Math.min(leader.prefillKey, sequence.key);
    return true;
  }

  /**
   * Sends the last `batch` sequence back to waiting when an interactive one whose turn it is has no lane or slot. Batch work whose
   * own turn came first keeps its weight of the lanes, and its lane where it would be admitted again at once.
   */
  #makeRoom(): Sequence[] {
    if (this.#canAdmit) return [];
    const batch = this.#running.filter(({ spec }) => spec.priority === 'batch').sort(byKey);
    const first = batch.length === 0 ? undefined : this.#waiting.next();
    if (first === undefined || first.spec.priority !== 'interactive') return [];
    const numKept = Math.max(1, Math.floor(this.#options.maxLanes / (1 + INTERACTIVE_WEIGHT)));
    const victim = batch.findLast(
      (each) => each.key > first.key || (batch.length > numKept && this.#waiting.wouldFollow(each, first)),
    );
    if (victim === undefined) return [];
    const found = this.#slots.lookup(first.tokens(0, first.computeTarget), first.maxCachedTokens);
    if (this.#awaits(first, found)) return [];
    this.#leaveSlot(victim, true);
    this.#waiting.add(victim);
    return [victim];
  }

  #leaveSlot(sequence: Sequence, keepContent: boolean, heldUntilMs = 0): void {
    const place = this.#running.indexOf(sequence);
    if (place < 0 || sequence.slot === undefined) return;
    this.#running.splice(place, 1);
    this.#ownerOf.delete(sequence.slot);
    this.#slots.release(sequence.slot, sequence.tokens(0, keepContent ? sequence.numComputedTokens : 0), heldUntilMs);
    sequence.slot = undefined;
    sequence.numComputedTokens = 0;
    sequence.prefillKey = sequence.key;
    this.#waiting.leave(sequence);
  }
}

/** A prompt's last chunk is never one token if that can be helped: one row alone runs another kernel, see `maxCachedTokens`. */
function shareOf(budget: number, numMissing: number): number {
  const numTokens = Math.min(budget, numMissing);
  return numMissing - numTokens === 1 && numTokens > 1 ? numTokens - 1 : numTokens;
}

function byKey(a: Sequence, b: Sequence): number {
  return a.key - b.key;
}
