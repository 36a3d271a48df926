/**
 * One verification: votes side by side, each with feedback, an elicited verdict and its probability; then the shown feedback
 * and the first wrong step. Used by `/verify` and by every round of a run; knows neither events nor rounds.
 *
 * The verdict is elicited: the server writes everything around the feedback and the verdict's opening itself and reads the
 * probabilities of the verdict words there, so nothing that a text contains can be parsed as a verdict.
 */
import type { FinishReason, SamplingParams, Timings, Usage } from '../engine/engine.ts';
import { calibrate } from './calibration.ts';
import { BudgetExhausted, clampToContext, type ResolvedRole, reserveCompletion, reserveTokens } from './call-plan.ts';
import {
  countTokens,
  type EngineCallContext,
  generateText,
  type SampledTokens,
  scoreCandidates,
} from './engine-call.ts';
import { linkAbort } from './event-stream.ts';
import { locateByPrefixes, locateFromFeedback } from './first-error.ts';
import type { LeakFlag, LeakGuard } from './leak-guard.ts';
import type { LoopDeps, Priority } from './loop-deps.ts';
import { type PromptRenderer, type RenderedPrompt, toEnginePrompt } from './prompts.ts';
import type { QueuePatience } from './queue-patience.ts';
import { retrySeed } from './seeds.ts';
import { noSpan, type Span, usageAttributes, withSpan } from './spans.ts';
import { type StepSpan, splitShownSteps } from './steps.ts';
import type { Reservation, TokenBudget } from './token-budget.ts';
import { addUsage, noUsage, type TokenUsage, tokenUsage } from './usage.ts';
import { readVerdict, type Verdict, type VerdictReading, verdictCandidates } from './verdict.ts';
import { castVotes, type VoteRule } from './votes.ts';

/** One vote that was counted. A request with this `seed` and one vote repeats it. */
export interface VoteRecord {
  readonly verdict: Verdict;
  readonly score: number;
  readonly rawScore: number;
  readonly feedback: string;
  readonly finishReason: FinishReason;
  readonly seed: number;
  /** Where they were asked for: of the feedback's tokens, and of each verdict word as the continuation of the feedback. */
  readonly logprobs?: VoteLogprobs;
}

export interface VoteLogprobs {
  /** Null in mode `score`. */
  readonly feedback: SampledTokens | null;
  /** Natural; null where a word is impossible or the engine cannot tell. */
  readonly verdict: {
    readonly accept: number | null;
    readonly reject: number | null;
    readonly undetermined: number | null;
  };
}

export interface VerificationJob {
  /** Head of the ids of its engine calls. */
  readonly id: string;
  readonly problem: string;
  readonly solution: string;
  readonly reference?: string | undefined;
  /** Of these texts. */
  readonly prompt: RenderedPrompt;
  readonly mode: 'full' | 'score';
  readonly numVotes: number;
  readonly earlyStop: boolean;
  readonly rule: VoteRule;
  readonly seedOf: (vote: number) => number;
  readonly model: string;
  readonly contextLength: number;
  readonly role: ResolvedRole;
  readonly priority: Priority;
  /** Look for the first error by scoring prefixes when the feedback does not name it. */
  readonly scorePrefixes: boolean;
  readonly withLogprobs?: boolean | undefined;
}

export interface VerificationContext {
  readonly deps: LoopDeps;
  readonly prompts: PromptRenderer;
  readonly signal: AbortSignal;
  readonly budget: TokenBudget;
  readonly patience: QueuePatience;
  /** With a reference only. */
  readonly guard?: LeakGuard | undefined;
  /** Called once for every engine call, also for those of votes that do not count. */
  readonly account: (usage: Usage, timings: Timings) => void;
  readonly onDelta: (vote: number, text: string) => Promise<void>;
  readonly onVote: (vote: number, record: VoteRecord) => Promise<void>;
  /** Its votes become parts of it; the caller ends it. */
  readonly span?: Span | undefined;
}

export interface VerificationOutcome {
  readonly verdict: Verdict;
  readonly score: number;
  readonly rawScore: number;
  readonly agreement: number;
  readonly feedback: string;
  readonly firstError: StepSpan | null;
  readonly votes: readonly VoteRecord[];
  readonly leak: LeakFlag | null;
  /** Full name of the weights that gave the verdict. */
  readonly model: string;
}

/** A vote that is being cast, and what it has cost so far. */
interface OpenVote {
  readonly signal: AbortSignal;
  readonly reservation: Reservation;
  usage: TokenUsage;
}

interface WrittenFeedback {
  readonly text: string;
  readonly finishReason: 'stop' | 'length';
  readonly leak: LeakFlag | null;
  readonly tokens: SampledTokens | undefined;
}

type CastVote = VoteRecord & { readonly leak: LeakFlag | null; readonly model: string; readonly usage: TokenUsage };

/** Most generations of one feedback with a reference before it is redacted. */
const MAX_FEEDBACK_TRIES = 3;
/** A text's tokens can be a few more once it is joined to what the server writes behind it. */
const JOIN_SLACK = 8;

/** Throws StvError (engine, context length, abort) and `BudgetExhausted`; all calls have ended by then. */
export async function verifySolution(job: VerificationJob, context: VerificationContext): Promise<VerificationOutcome> {
  const verification = new Verification(job, context);
  await verification.plan();
  const { verdict, votes } = await castVotes({
    numVotes: job.numVotes,
    earlyStop: job.earlyStop,
    rule: job.rule,
    signal: context.signal,
    cast: (vote, signal) =>
      withSpan(
        (context.span ?? noSpan).child('vote', { 'stv.vote': vote }),
        () => verification.castVote(vote, signal),
        ({ verdict: one, score, finishReason, usage }) => ({
          ...usageAttributes(usage),
          'stv.verdict': one,
          'stv.score': score,
          'stv.finish_reason': finishReason,
        }),
      ),
    onCounted: (vote, cast) => context.onVote(vote, toRecord(cast)),
  });
  const rawScore = votes.reduce((sum, vote) => sum + vote.rawScore, 0) / votes.length;
  const shown = shownVote(verdict, votes);
  return {
    verdict,
    score: calibrate(context.deps.pack.calibration, rawScore),
    rawScore,
    agreement: votes.filter((vote) => vote.verdict === verdict).length / votes.length,
    feedback: shown?.feedback ?? '',
    firstError: (await verification.locateError(verdict, shown?.feedback ?? '')) ?? null,
    votes: votes.map(toRecord),
    leak: worstLeak(votes),
    model: votes.at(-1)?.model ?? job.model,
  };
}

function toRecord({ leak: _, model: __, usage: ___, ...record }: CastVote): VoteRecord {
  return record;
}

/**
 * The vote of that verdict with the most extreme score: the highest for an accept, else the lowest. When no vote says what
 * the tie between them says, the lowest of all.
 */
function shownVote(verdict: Verdict, votes: readonly CastVote[]): CastVote | undefined {
  const same = votes.filter((vote) => vote.verdict === verdict);
  const sign = verdict === 'accept' ? -1 : 1;
  return (same.length > 0 ? same : votes).reduce<CastVote | undefined>(
    (best, vote) => (best === undefined || sign * vote.rawScore < sign * best.rawScore ? vote : best),
    undefined,
  );
}

function worstLeak(votes: readonly CastVote[]): LeakFlag | null {
  const flags = new Set(votes.map(({ leak }) => leak));
  return flags.has('redacted')
    ? 'redacted'
    : flags.has('regenerated')
      ? 'regenerated'
      : flags.has('none')
        ? 'none'
        : null;
}

/** The state of one verification: its prompt, rendered and counted once for all votes. */
class Verification {
  readonly #job: VerificationJob;
  readonly #context: VerificationContext;
  readonly #prompt: RenderedPrompt;
  readonly #words: readonly string[];
  /** Tokens of the prompt that ends where the feedback begins. */
  #numFeedbackPrompt = 0;
  /** Tokens of the prompt that ends at the verdict, without feedback, and of the verdict words. */
  #numVerdictPrompt = 0;
  #numWords = 0;

  constructor(job: VerificationJob, context: VerificationContext) {
    this.#job = job;
    this.#context = context;
    this.#prompt = job.prompt;
    this.#words = verdictCandidates(context.deps.pack.verdict);
  }

  /**
   * Counts the prompt's tokens. Throws StvError `queue_full` before, and `context_length_exceeded` when there is no room for a
   * feedback.
   */
  async plan(): Promise<void> {
    const { deps, signal, patience } = this.#context;
    const { engine, pack } = deps;
    const { model, mode, contextLength } = this.#job;
    patience.ask(() => engine.checkRoom(model));
    const isScore = mode === 'score';
    const [verdictPrompt = 0, ...counts] = await countTokens({ engine, signal }, model, [
      this.#verdictPrompt(isScore ? undefined : ''),
      // counted, not encoded: a remote server may not tell its tokens
      ...this.#words.map((text) => ({ kind: 'text', text }) as const),
      ...(isScore ? [] : [toEnginePrompt(this.#prompt, pack.feedback.open)]),
    ]);
    const words = counts.slice(0, this.#words.length);
    this.#numVerdictPrompt = verdictPrompt;
    this.#numFeedbackPrompt = counts[this.#words.length] ?? 0;
    this.#numWords = words.reduce((sum, count) => sum + count + 1, 0);
    clampToContext(Math.max(verdictPrompt + this.#numWords - 1, this.#numFeedbackPrompt), 1, contextLength);
  }

  async castVote(vote: number, signal: AbortSignal): Promise<CastVote> {
    const seed = this.#job.seedOf(vote);
    const { calibration } = this.#context.deps.pack;
    if (this.#job.mode === 'score') {
      const numTokens = this.#numVerdictPrompt + this.#numWords;
      const reservation = await reserveTokens(this.#context.budget, { atLeast: numTokens, atMost: numTokens }, signal);
      const open: OpenVote = { signal, reservation, usage: noUsage };
      try {
        const { reading, model, words } = await this.#readVerdict(`v${vote}`, undefined, open);
        const { verdict, rawScore } = reading;
        const logprobs = this.#logprobsOf(undefined, words);
        const leak = this.#context.guard === undefined ? null : 'none';
        const score = calibrate(calibration, rawScore);
        const { usage } = open;
        return { verdict, score, rawScore, feedback: '', finishReason: 'stop', seed, ...logprobs, leak, model, usage };
      } finally {
        reservation.release();
      }
    }
    const { maxTokens, reservation } = await reserveCompletion(
      this.#context.budget,
      {
        numFixed: this.#numFeedbackPrompt + this.#numVerdictPrompt + this.#numWords + JOIN_SLACK,
        charges: 2,
        maxTokens: this.#maxFeedback(),
      },
      signal,
    );
    const open: OpenVote = { signal, reservation, usage: noUsage };
    try {
      const written = await this.#writeFeedback(vote, seed, { open, maxTokens });
      const { reading, model, words } = await this.#readVerdict(`v${vote}`, written.text, open);
      return {
        verdict: written.finishReason === 'stop' ? reading.verdict : 'undetermined',
        score: calibrate(calibration, reading.rawScore),
        rawScore: reading.rawScore,
        feedback: written.text,
        finishReason: written.finishReason,
        seed,
        ...this.#logprobsOf(written.tokens, words),
        leak: written.leak,
        model,
        usage: open.usage,
      };
    } finally {
      reservation.release();
    }
  }

  /** Of a reject only: who cannot tell whether a solution is wrong cannot tell where. */
  async locateError(verdict: Verdict, feedback: string): Promise<StepSpan | undefined> {
    if (verdict !== 'reject' || this.#job.mode === 'score') return undefined;
    const steps = splitShownSteps(this.#job.solution, this.#shownSolution());
    const named = locateFromFeedback(feedback, steps);
    if (named !== undefined) return named;
    if (steps.length <= 1) return steps[0];
    if (!this.#job.scorePrefixes) return undefined;
    return locateByPrefixes(steps, (cuts) =>
      this.#scorePrefixes(cuts.map((numSteps) => ({ numSteps, end: steps[numSteps - 1]?.end }))),
    );
  }

  /**
   * The verifier's prompt without the other texts of the request, whose lines could pass for the solution's. A template may
   * refuse them blank: then nothing is known of how it shows a solution.
   */
  #shownSolution(): readonly string[] {
    const { solution, reference } = this.#job;
    try {
      const blank = { problem: '', solution, reference: reference === undefined ? undefined : '' };
      return this.#context.prompts.verify(blank).messages.map(({ content }) => content);
    } catch {
      return [];
    }
  }

  /** P(accept) of each prefix of the solution. One that fails stops the others: nothing runs on behind it. */
  async #scorePrefixes(prefixes: readonly { readonly numSteps: number; readonly end: number | undefined }[]) {
    const abort = linkAbort(this.#context.signal);
    const open = prefixes.map(async ({ numSteps, end }) => {
      const solution = this.#job.solution.slice(0, end);
      const prompt = this.#context.prompts.verify({ ...this.#job, solution });
      const result = await scoreCandidates(this.#callContext(abort.signal), {
        id: `${this.#job.id}-p${numSteps}`,
        model: this.#job.model,
        prompt: toEnginePrompt(prompt, this.#context.deps.pack.verdict.open),
        candidates: this.#words,
        priority: this.#job.priority,
      });
      return readVerdict(this.#context.deps.pack.verdict, result.logprobs).rawScore;
    });
    try {
      return await Promise.all(open);
    } finally {
      abort.abort();
      await Promise.allSettled(open);
      abort.dispose();
    }
  }

  #logprobsOf(feedback: SampledTokens | undefined, words: readonly number[]): { readonly logprobs?: VoteLogprobs } {
    if (this.#job.withLogprobs !== true) return {};
    const [accept = null, reject = null, undetermined = null] = words.map((word) =>
      Number.isFinite(word) ? word : null,
    );
    return { logprobs: { feedback: feedback ?? null, verdict: { accept, reject, undetermined } } };
  }

  /** The feedback has to leave room in the context for the verdict behind it. */
  #maxFeedback(): number {
    const used = Math.max(this.#numFeedbackPrompt, this.#numVerdictPrompt + this.#numWords + JOIN_SLACK);
    return clampToContext(used, this.#job.role.maxTokens, this.#job.contextLength);
  }

  #verdictPrompt(feedback: string | undefined): ReturnType<typeof toEnginePrompt> {
    const { feedback: format, verdict } = this.#context.deps.pack;
    const before = feedback === undefined ? '' : format.open + feedback + format.close;
    return toEnginePrompt(this.#prompt, before + verdict.open);
  }

  #callContext(signal: AbortSignal, open?: OpenVote): EngineCallContext {
    return {
      engine: this.#context.deps.engine,
      signal,
      patience: this.#context.patience,
      account: (usage, timings) => {
        open?.reservation.charge(usage.promptTokens + usage.completionTokens);
        if (open !== undefined) open.usage = addUsage(open.usage, tokenUsage(usage));
        this.#context.account(usage, timings);
      },
    };
  }

  /** With a reference nothing is sent before the guard has passed the whole feedback. */
  async #writeFeedback(
    vote: number,
    seed: number,
    { open, maxTokens }: { readonly open: OpenVote; readonly maxTokens: number },
  ): Promise<WrittenFeedback> {
    const { guard, onDelta, deps } = this.#context;
    const generate = (id: string, sampling: SamplingParams, onText: (text: string) => Promise<void> | void) =>
      generateText(
        this.#callContext(open.signal, open),
        {
          id,
          model: this.#job.model,
          prompt: toEnginePrompt(this.#prompt, deps.pack.feedback.open),
          sampling,
          maxTokens,
          stop: deps.pack.feedback.stop,
          isContinued: true,
          priority: this.#job.priority,
          ...(this.#job.withLogprobs === true ? { logprobs: 0 } : {}),
        },
        onText,
      );
    const { sampling } = this.#job.role;
    const id = `${this.#job.id}-v${vote}`;
    if (guard === undefined) {
      const written = await generate(`${id}-f`, { ...sampling, seed }, (text) => onDelta(vote, text));
      return { ...written, leak: null };
    }
    for (let tries = 0; ; tries++) {
      // a greedy generation would only repeat itself
      const again =
        tries === 0
          ? { ...sampling, seed }
          : { ...sampling, temperature: Math.max(sampling.temperature, 0.7), seed: retrySeed(seed, tries) };
      const { text, finishReason, tokens } = await generate(`${id}-f${tries}`, again, () => undefined);
      const leaks = guard.leaks(text);
      if (leaks && tries + 1 < MAX_FEEDBACK_TRIES) continue;
      const safe = leaks ? guard.redact(text) : text;
      if (safe !== '') await onDelta(vote, safe);
      const leak = leaks ? 'redacted' : tries > 0 ? 'regenerated' : 'none';
      // the tokens of a text that is kept back would tell it
      return { text: safe, finishReason, leak, tokens: leaks ? undefined : tokens };
    }
  }

  async #readVerdict(
    vote: string,
    feedback: string | undefined,
    open: OpenVote,
  ): Promise<{ readonly reading: VerdictReading; readonly model: string; readonly words: readonly number[] }> {
    const { budget, deps } = this.#context;
    const prompt = this.#verdictPrompt(feedback);
    if (budget.isLimited && feedback !== undefined) {
      const { engine } = deps;
      const [numPrompt = 0] = await countTokens({ engine, signal: open.signal }, this.#job.model, [prompt]);
      const needed = numPrompt + this.#numWords;
      const { reservation } = open;
      if (needed > reservation.tokens && !reservation.extend(needed - reservation.tokens)) throw new BudgetExhausted();
    }
    const result = await scoreCandidates(this.#callContext(open.signal, open), {
      id: `${this.#job.id}-${vote}-s`,
      model: this.#job.model,
      prompt,
      candidates: this.#words,
      isContinuation: feedback !== undefined,
      priority: this.#job.priority,
    });
    return { reading: readVerdict(deps.pack.verdict, result.logprobs), model: result.model, words: result.logprobs };
  }
}
