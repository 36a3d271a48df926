/**
 * The step loop of one model: schedule -> forward -> sample -> update. Token ids and numbers in, token ids and numbers out;
 * no text, no messages, no promises. Whoever owns the thread calls `step()` while `hasWork`.
 */
import { toStvError } from '../errors.ts';
import type { CausalLM, Logits } from '../models/causal-lm.ts';
import { DraftPlanner, type PlannedDraft } from './draft-planner.ts';
import { isBetweenTokens, type LaneRows, toLane, wantedRows } from './lane-rows.ts';
import { rowLogprobs } from './logprobs.ts';
import type {
  PromptRowResult,
  SequenceFinish,
  SequenceOutput,
  SequenceSpec,
  StepStats,
  TokenLogprobs,
} from './messages.ts';
import { Sampler } from './sampler.ts';
import { type Admission, type Schedule, type ScheduledLane, Scheduler } from './scheduler.ts';
import type { Sequence } from './sequence.ts';

export interface EngineCoreOptions {
  /** Most prompt tokens of a step in which something decodes. */
  readonly chunkTokens: number;
  readonly reusePrefixes: boolean;
  /** Guess what a sequence says next and verify several tokens in one step. Never changes a token. Default true. */
  readonly isDrafting?: boolean;
  readonly minCopyTokens?: number;
  readonly batchDelayMs?: number;
  readonly minAwaitedTokens?: number;
  /** Milliseconds, monotonic. */
  readonly now?: (() => number) | undefined;
  /** Called before a step that holds nothing but this suspect. */
  readonly onSuspectStep?: (id: number) => void;
}

export interface StepResult {
  readonly outputs: readonly SequenceOutput[];
  readonly stats: StepStats;
}

interface SampledLane {
  readonly rows: LaneRows;
  readonly logits: Logits;
  /** Of the lane, among all rows of the step. */
  readonly firstRow: number;
  /** Filled with what was sampled. */
  readonly tokens: number[];
  readonly logprobs: TokenLogprobs[];
}

/** How long the cache of a sequence is kept for the one that goes on from it: it comes within a few milliseconds, or not at all. */
const HOLD_MS = 200;

/** Weight of the newest step in the running mean of what a prompt token costs. */
const COST_SMOOTHING = 0.1;

export class EngineCore {
  readonly #model: CausalLM;
  readonly #scheduler: Scheduler;
  readonly #sampler: Sampler;
  readonly #planner = new DraftPlanner();
  readonly #sequences = new Map<number, Sequence>();
  readonly #now: () => number;
  readonly #onSuspectStep: ((id: number) => void) | undefined;
  #msPerToken = 1;

  constructor(model: CausalLM, options: EngineCoreOptions) {
    this.#model = model;
    this.#scheduler = new Scheduler({ isDrafting: true, ...options, ...model.limits });
    this.#sampler = new Sampler(model.limits.vocabSize);
    this.#now = options.now ?? (() => performance.now());
    this.#onSuspectStep = options.onSuspectStep;
  }

  get hasWork(): boolean {
    return this.#sequences.size > 0;
  }

  get numRunning(): number {
    return this.#scheduler.numRunning;
  }

  get numWaiting(): number {
    return this.#scheduler.numWaiting;
  }

  get numSlotsUsed(): number {
    return this.#scheduler.slots.numUsed;
  }

  /** Unused slots that hold something. */
  get numSlotsCached(): number {
    return this.#scheduler.slots.numCached;
  }

  /** Queues a sequence. Ids must be unique among the open ones. */
  add(spec: SequenceSpec): void {
    if (this.#sequences.has(spec.id)) throw new Error(`Sequence ${spec.id} is open already.`);
    if (spec.prompt.length === 0) throw new Error(`Sequence ${spec.id} has no prompt token.`);
    if (spec.prompt.length + (spec.maxTokens > 0 ? 1 : 0) > this.#model.limits.maxLength) {
      throw new Error(`Sequence ${spec.id} is longer than a slot.`);
    }
    const sequence = this.#scheduler.add(spec, { nowMs: this.#now(), msPerToken: this.#msPerToken });
    this.#sequences.set(spec.id, sequence);
  }

  /** Takes the sequence out at once, whatever its phase; its slot is free for the next step. Unknown ids are fine. */
  abort(id: number): void {
    const sequence = this.#sequences.get(id);
    if (sequence === undefined) return;
    this.#forget(sequence, { keepContent: true });
  }

  /** One step. `undefined` when there is no work. A failing model fails the sequences of the step, never the core. */
  step(): StepResult | undefined {
    if (!this.hasWork) return undefined;
    const startMs = this.#now();
    const schedule = this.#scheduler.schedule(startMs);
    if (schedule.suspect !== undefined) this.#onSuspectStep?.(schedule.suspect.id);
    const decoding = schedule.lanes.map(({ sequence }) => sequence).filter(isBetweenTokens);
    const drafts = this.#planner.plan(decoding, schedule.budgetLeft);
    const outputs: SequenceOutput[] = [];
    const forwardStartMs = this.#now();
    this.#copyPrefixes(schedule.admitted, outputs);
    const lanes = schedule.lanes.filter(({ sequence }) => this.#sequences.has(sequence.id));
    const rows = lanes.map((lane) => wantedRows(lane, drafts.get(lane.sequence)));
    const logits = lanes.length === 0 ? undefined : this.#forward(lanes, rows, outputs);
    const forwardMs = this.#now() - forwardStartMs;
    if (logits !== undefined) this.#updateAll(lanes, rows, logits, outputs);
    const stats = this.#stats({ ...schedule, lanes }, rows, outputs, forwardMs);
    // what failed tells nothing of what a step costs
    if (logits !== undefined && decoding.length === lanes.length) this.#planner.observe(stats.numTokens, forwardMs);
    return { outputs, stats: { ...stats, outsideMs: this.#now() - startMs - forwardMs } };
  }

  /**
   * Brings what the admitted ones found cached into their slots. A copy that fails fails the sequence it was for, and those that
   * copy from its slot in turn; the others of the step have nothing to do with it.
   */
  #copyPrefixes(admitted: readonly Admission[], outputs: SequenceOutput[]): void {
    const failed = new Map<number, SequenceFinish>();
    for (const { sequence, slot, copyFrom, numCached } of admitted) {
      if (copyFrom === undefined) continue;
      const finish = failed.get(copyFrom) ?? this.#copyPrefix(copyFrom, slot, numCached);
      if (finish === undefined) continue;
      failed.set(slot, finish);
      outputs.push(this.#fail(sequence, finish));
    }
  }

  #copyPrefix(from: number, to: number, length: number): SequenceFinish | undefined {
    try {
      this.#model.copyPrefix(from, to, length);
      return undefined;
    } catch (thrown) {
      return failureOf(thrown);
    }
  }

  /** Fails the lanes if the model does: `undefined`. */
  #forward(lanes: readonly ScheduledLane[], rows: readonly LaneRows[], outputs: SequenceOutput[]): Logits | undefined {
    try {
      return this.#model.forward(lanes.map((lane, i) => toLane(lane, rows[i] as LaneRows))); // same length
    } catch (thrown) {
      const finish = failureOf(thrown);
      for (const { sequence } of lanes) outputs.push(this.#fail(sequence, finish));
      return undefined;
    }
  }

  /** Throws unless slots, index and queues agree. For tests and idle moments. */
  checkIntegrity(): void {
    this.#scheduler.checkIntegrity();
    const known = this.#scheduler.numRunning + this.#scheduler.numWaiting;
    if (known !== this.#sequences.size)
      throw new Error(`${this.#sequences.size} sequences are open, ${known} are scheduled.`);
  }

  #updateAll(
    lanes: readonly ScheduledLane[],
    rows: readonly LaneRows[],
    logits: Logits,
    outputs: SequenceOutput[],
  ): void {
    let row = 0;
    for (const [i, lane] of lanes.entries()) {
      const wanted = rows[i] as LaneRows; // same length
      const output = this.#update(lane, wanted, logits, row);
      if (output !== undefined) outputs.push(output);
      row += wanted.logitRows.length;
    }
  }

  /** Sample and update for one lane. `undefined` if there is nothing to tell yet (a chunk inside a prompt). */
  #update(lane: ScheduledLane, rows: LaneRows, logits: Logits, firstRow: number): SequenceOutput | undefined {
    const { sequence } = lane;
    const isFirst = !sequence.hasBegun;
    sequence.hasBegun = true;
    this.#scheduler.advance(sequence, lane.numTokens);

    const promptRows: PromptRowResult[] = [];
    for (let i = 0; i < rows.numPromptRows; i++) {
      const result = this.#promptRow(sequence, logits.row(firstRow + i));
      if (result === undefined) return this.#fail(sequence, notANumber(sequence));
      promptRows.push(result);
    }

    const tokens: number[] = [];
    const logprobs: TokenLogprobs[] = [];
    if (rows.isSampled && !this.#sampleLane(sequence, { rows, logits, firstRow, tokens, logprobs })) {
      return this.#fail(sequence, notANumber(sequence));
    }
    const drafted = judge(sequence, rows.planned, tokens);

    const finish = finishOf(sequence);
    if (finish !== undefined) this.#forget(sequence, { keepContent: true });
    if (!isFirst && tokens.length === 0 && promptRows.length === 0 && finish === undefined) return undefined;
    return {
      id: sequence.id,
      tokens,
      ...(drafted === undefined ? {} : { drafted }),
      ...(isFirst ? { started: this.#started(sequence) } : {}),
      ...(sequence.spec.logprobs === undefined ? {} : { logprobs }),
      ...(promptRows.length === 0 ? {} : { promptRows }),
      ...(finish === undefined ? {} : { finish }),
    };
  }

  /**
   * Samples every position as if nothing had been guessed, from the first on, as long as what was guessed is what was sampled: so
   * neither tokens nor random numbers depend on guesses. False if a row holds no numbers.
   */
  #sampleLane(sequence: Sequence, { rows, logits, firstRow, tokens, logprobs }: SampledLane): boolean {
    const { sampling, logprobs: numTop } = sequence.spec;
    const numDrafted = rows.planned?.numTokens ?? 0;
    for (let i = 0; i <= numDrafted; i++) {
      const row = logits.row(firstRow + rows.numPromptRows + i);
      const token = this.#sampler.sample(row, sampling, sequence.history, sequence.rng);
      if (token === undefined) return false;
      if (numTop !== undefined) {
        const found = rowLogprobs(row, [token], numTop);
        if (found === undefined) return false;
        const { topTokens, topLogprobs } = found;
        logprobs.push({ logprob: found.logprobs[0] as number, topTokens, topLogprobs }); // one target, one answer
      }
      sequence.append(token);
      tokens.push(token);
      if (i > 0) this.#scheduler.advance(sequence, 1); // the guess before it came true: its cache counts
      if (token !== rows.planned?.draft.tokens[i] || sequence.spec.stopTokens.includes(token)) break;
    }
    return true;
  }

  #promptRow(sequence: Sequence, row: Float32Array): PromptRowResult | undefined {
    const wanted = sequence.spec.promptRows[sequence.numReportedRows];
    if (wanted === undefined) throw new Error(`Sequence ${sequence.id} has more rows than were asked for.`);
    sequence.numReportedRows++;
    const found = rowLogprobs(row, wanted.targets, wanted.top);
    return found === undefined ? undefined : { position: wanted.position, ...found };
  }

  #started(sequence: Sequence): { cachedTokens: number; waitedMs: number } {
    return {
      cachedTokens: sequence.numCachedTokens,
      waitedMs: (sequence.startedAtMs ?? sequence.arrivedAtMs) - sequence.arrivedAtMs,
    };
  }

  /** Its cache may be poisoned, so the content is given up with it. */
  #fail(sequence: Sequence, finish: SequenceFinish): SequenceOutput {
    this.#forget(sequence, { keepContent: false });
    return { id: sequence.id, tokens: [], finish };
  }

  #forget(sequence: Sequence, { keepContent }: { keepContent: boolean }): void {
    this.#sequences.delete(sequence.id);
    const isHeld = keepContent && sequence.spec.isContinued === true && sequence.numOutputTokens > 0;
    this.#scheduler.remove(sequence, { keepContent, heldUntilMs: isHeld ? this.#now() + HOLD_MS : 0 });
  }

  #stats(
    schedule: Schedule,
    rows: readonly LaneRows[],
    outputs: readonly SequenceOutput[],
    forwardMs: number,
  ): Omit<StepStats, 'outsideMs'> {
    let numTokens = 0;
    let numPromptTokens = 0;
    let numDraftTokens = 0;
    let numRepeatDraftTokens = 0;
    for (const { planned } of rows) {
      numDraftTokens += planned?.numTokens ?? 0;
      if (planned?.draft.isPredicted === false) numRepeatDraftTokens += planned.numTokens;
    }
    numTokens += numDraftTokens;
    for (const lane of schedule.lanes) {
      numTokens += lane.numTokens;
      if (lane.numTokens > 1 || lane.sequence.numOutputTokens <= 1) numPromptTokens += lane.numTokens;
    }
    // a decoded token costs many times as much as one of a prompt
    if (2 * numPromptTokens > numTokens)
      this.#msPerToken += COST_SMOOTHING * (forwardMs / numTokens - this.#msPerToken);
    let numOutputTokens = 0;
    let numAcceptedTokens = 0;
    let numRepeatAcceptedTokens = 0;
    for (const output of outputs) {
      numOutputTokens += output.tokens.length;
      numAcceptedTokens += output.drafted?.accepted ?? 0;
      if (output.drafted?.isPredicted === false) numRepeatAcceptedTokens += output.drafted.accepted;
    }
    let prefixHitTokens = 0;
    let prefixQueryTokens = 0;
    let copiedTokens = 0;
    let numEvictions = 0;
    for (const admission of schedule.admitted) {
      prefixHitTokens += admission.numCached;
      prefixQueryTokens += admission.sequence.numPromptTokens;
      if (admission.copyFrom !== undefined) copiedTokens += admission.numCached;
      if (admission.numEvictedTokens > 0) numEvictions++;
    }
    return {
      numLanes: schedule.lanes.length,
      numTokens,
      numPromptTokens,
      numOutputTokens,
      numDraftTokens,
      numAcceptedTokens,
      numRepeatDraftTokens,
      numRepeatAcceptedTokens,
      forwardMs,
      running: this.#scheduler.numRunning,
      waiting: this.#scheduler.numWaiting,
      slotsUsed: this.#scheduler.slots.numUsed,
      slotsCached: this.#scheduler.slots.numCached,
      prefixHitTokens,
      prefixQueryTokens,
      copiedTokens,
      numPreemptions: schedule.preempted.length,
      numEvictions,
    };
  }
}

/** Tells the source how its guess did. `undefined` if nothing of it was verified. */
function judge(
  { drafts }: Sequence,
  planned: PlannedDraft | undefined,
  tokens: readonly number[],
): SequenceOutput['drafted'] {
  if (planned === undefined || drafts === undefined || tokens.length === 0) return undefined;
  const { draft, numTokens } = planned;
  let numRight = 0;
  while (numRight < tokens.length && tokens[numRight] === draft.tokens[numRight]) numRight++;
  drafts.learn(draft, numRight, numRight < tokens.length && numRight < draft.tokens.length);
  const accepted = Math.min(numRight, numTokens);
  return numTokens === 0 ? undefined : { accepted, rejected: numTokens - accepted, isPredicted: draft.isPredicted };
}

function finishOf(sequence: Sequence): SequenceFinish | undefined {
  if (!sequence.isGenerating) return sequence.numMissingTokens === 0 ? { reason: 'length' } : undefined;
  if (sequence.numOutputTokens === 0) return undefined;
  const last = sequence.tokens(sequence.numTokens - 1)[0] as number; // numTokens > 0
  if (sequence.numMissingTokens > 1) return undefined; // resuming after a preemption: the last token was judged before
  if (sequence.spec.stopTokens.includes(last)) return { reason: 'stop' };
  return sequence.numTokens >= sequence.maxTotalTokens ? { reason: 'length' } : undefined;
}

/** How a sequence ends by what the model threw. */
function failureOf(thrown: unknown): SequenceFinish {
  const { code, message } = toStvError(thrown, 'runtime_failed');
  // no later step can succeed either: the host gives up, and a fresh one takes the device or another
  if (code === 'device_lost') throw thrown;
  return { reason: 'error', code, message };
}

function notANumber(sequence: Sequence): SequenceFinish {
  return {
    reason: 'error',
    code: 'runtime_failed',
    message: `The model gave logits that are not numbers after ${sequence.numTokens} tokens; this request cannot go on.`,
  };
}
