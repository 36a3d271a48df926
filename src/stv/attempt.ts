/** One attempt: the first, or one refined from an earlier attempt and its feedback. Used by `/refine` and by the rounds of a run. */
import type { FinishReason, SamplingParams, Timings, Usage } from '../engine/engine.ts';
import type { AnswerExtractor } from './answer.ts';
import { clampToContext, type ResolvedRole, reserveCompletion } from './call-plan.ts';
import { countTokens, generateText, type SampledTokens } from './engine-call.ts';
import type { LoopDeps, Priority } from './loop-deps.ts';
import { type RenderedPrompt, toEnginePrompt } from './prompts.ts';
import type { QueuePatience } from './queue-patience.ts';
import { ReasoningSplitter } from './reasoning.ts';
import type { TokenBudget } from './token-budget.ts';

export interface AttemptJob {
  readonly id: string;
  readonly prompt: RenderedPrompt;
  readonly model: string;
  readonly contextLength: number;
  readonly role: ResolvedRole;
  readonly seed: number;
  readonly priority: Priority;
  /** The attempt that is refined: most of it will be repeated. */
  readonly previous?: string | undefined;
  /** Report the sampled tokens with their log-probabilities. */
  readonly withLogprobs?: boolean | undefined;
}

export interface AttemptContext {
  readonly deps: LoopDeps;
  readonly findAnswer: AnswerExtractor;
  readonly signal: AbortSignal;
  readonly budget: TokenBudget;
  readonly patience: QueuePatience;
  /** Called once for every engine call. */
  readonly account: (usage: Usage, timings: Timings, reasoningTokens: number) => void;
  readonly onDelta: (text: string) => Promise<void>;
}

export interface Attempt {
  readonly text: string;
  readonly answer: string | null;
  readonly reasoning: string | null;
  readonly finishReason: FinishReason;
  /** Full name of the weights. */
  readonly model: string;
  /** Of everything that was generated, reasoning too. Where they were asked for. */
  readonly tokens: SampledTokens | undefined;
}

/** Throws StvError (engine, context length, abort) and `BudgetExhausted`; the call has ended by then. */
export async function writeAttempt(job: AttemptJob, context: AttemptContext): Promise<Attempt> {
  const { deps, signal, budget, onDelta } = context;
  const prompt = toEnginePrompt(job.prompt);
  context.patience.ask(() => deps.engine.checkRoom(job.model));
  const [numPrompt = 0] = await countTokens({ engine: deps.engine, signal }, job.model, [prompt]);
  const { maxTokens, reservation } = await reserveCompletion(
    budget,
    {
      numFixed: numPrompt,
      charges: 1,
      maxTokens: clampToContext(numPrompt, job.role.maxTokens, job.contextLength),
    },
    signal,
  );
  const splitter = new ReasoningSplitter(deps.pack.reasoning, job.prompt.prefix);
  let reasoningTokens = 0;
  const sampling: SamplingParams = { ...job.role.sampling, seed: job.seed };
  try {
    const generated = await generateText(
      {
        engine: deps.engine,
        signal,
        patience: context.patience,
        account: (usage, timings) => {
          reservation.charge(usage.promptTokens + usage.completionTokens);
          context.account(usage, timings, Math.min(reasoningTokens, usage.completionTokens));
        },
      },
      {
        id: job.id,
        model: job.model,
        prompt,
        sampling,
        maxTokens,
        stop: [],
        priority: job.priority,
        ...(job.previous === undefined ? {} : { prediction: job.previous }),
        ...(job.withLogprobs === true ? { logprobs: 0 } : {}),
      },
      async (text, numTokens) => {
        const wasReasoning = splitter.isReasoning;
        const content = splitter.push(text);
        if (wasReasoning || splitter.isReasoning) reasoningTokens += numTokens;
        if (content !== '') await onDelta(content);
      },
    );
    const rest = splitter.flush();
    if (rest !== '') await onDelta(rest);
    const { content, reasoning } = splitter.parts;
    return {
      text: content,
      answer: context.findAnswer(content) ?? null,
      reasoning: reasoning ?? null,
      finishReason: generated.finishReason,
      model: generated.model,
      tokens: generated.tokens,
    };
  } finally {
    reservation.release();
  }
}
