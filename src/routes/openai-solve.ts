/** What the OpenAI routes share about the model `solve`: the last user message is the problem of a run like any other. */
import type { FastifyRequest } from 'fastify';
import type { Static } from 'typebox';
import type { ChatMessage } from '../engine/engine.ts';
import { StvError } from '../errors.ts';
import type { FoundRun } from '../runs/run-registry.ts';
import type { SolveAnswer, SolveEvent } from '../stv/solve-events.ts';
import type { TokenUsage } from '../stv/usage.ts';
import { aboutField } from './error-field.ts';
import { seedOf, stopStrings, unsupportedParameter } from './openai-params.ts';
import { refusable } from './refusable.ts';
import { drawSeed, makeId } from './request-id.ts';
import type { RouteDeps } from './route-deps.ts';
import type { WireUsage } from './schemas.ts';
import type { SolveSummary as SolveSummarySchema } from './schemas-openai.ts';
import type { SolveBody } from './schemas-solve.ts';
import { ownerOf, toSolveRequest, traceContextOf } from './solve-request.ts';
import { errorOf, holdFor, isEmptyFailure } from './solve-wire.ts';

type SolveSummary = Static<typeof SolveSummarySchema>;

/** What an OpenAI body says about the run, beside its messages. */
interface SolveParams {
  readonly temperature?: number | undefined;
  readonly top_p?: number | undefined;
  readonly top_k?: number | undefined;
  readonly min_p?: number | undefined;
  readonly max_tokens?: number | undefined;
  readonly seed?: number | undefined;
  readonly x_solve?: Omit<SolveBody, 'problem'> | undefined;
}

/** What an OpenAI body may ask of a generation and the loop has no place for. */
interface GenerationParams {
  readonly stop?: string | readonly string[] | undefined;
  readonly logit_bias?: Readonly<Record<string, number>> | undefined;
  readonly presence_penalty?: number | undefined;
  readonly frequency_penalty?: number | undefined;
  readonly repetition_penalty?: number | undefined;
}

/** Throws `unsupported_parameter` for the first of these that would change the output; `others` are those of the route alone. */
export function refuseForSolve(body: GenerationParams, others: Readonly<Record<string, boolean>>): void {
  const given = {
    ...others,
    stop: stopStrings(body.stop).length > 0,
    logit_bias: Object.keys(body.logit_bias ?? {}).length > 0,
    presence_penalty: (body.presence_penalty ?? 0) !== 0,
    frequency_penalty: (body.frequency_penalty ?? 0) !== 0,
    repetition_penalty: (body.repetition_penalty ?? 1) !== 1,
  };
  for (const [name, isGiven] of Object.entries(given)) {
    if (isGiven)
      throw unsupportedParameter(name, `The parameter \`${name}\` is not supported with the model \`solve\`.`);
  }
}

/** The body of `POST /solve` that an OpenAI body means; `field` is where its messages stand. */
export function solveBodyOf(
  messages: readonly ChatMessage[],
  params: SolveParams,
  { field, maxTextLength }: { readonly field: string; readonly maxTextLength: number },
): SolveBody {
  const problem = messages.findLast((message) => message.role === 'user')?.content ?? '';
  if (problem.length < 1 || problem.length > maxTextLength) {
    throw new StvError(
      'invalid_value',
      `The last user message must hold 1 to ${maxTextLength} UTF-16 units, got ${problem.length}.`,
      { param: field },
    );
  }
  const { temperature, top_p, top_k, min_p, max_tokens, x_solve } = params;
  const given = Object.entries({ temperature, top_p, top_k, min_p, max_tokens }).filter(
    ([, value]) => value !== undefined,
  );
  return {
    ...x_solve,
    problem,
    generator: { ...Object.fromEntries(given), ...x_solve?.generator },
    seed: x_solve?.seed ?? seedOf(params.seed, 0, drawSeed),
  };
}

/** Starts the run and gives its events; they end when `signal` is aborted, and the run with them unless it is stored. */
export async function startSolve(
  request: FastifyRequest,
  solveBody: SolveBody,
  deps: RouteDeps,
  signal: AbortSignal,
): Promise<AsyncIterable<SolveEvent>> {
  const found = await start(request, solveBody, deps).catch(throwInXSolve);
  if (solveBody.store === true) request.leaveQuota?.();
  else if (found.kind === 'live') holdFor(found.live, signal);
  const events = eventsInXSolve(deps.runs.events(found, 0, signal));
  return solveBody.store === true ? events : refusable(events);
}

async function start(request: FastifyRequest, solveBody: SolveBody, deps: RouteDeps): Promise<FoundRun> {
  return deps.runs.start({
    request: { ...toSolveRequest(solveBody, makeId('slv'), deps.config), ...traceContextOf(request) },
    owner: ownerOf(request),
    isStored: solveBody.store === true,
    label: solveBody.label,
  });
}

/** The options of a run that can be wrong although the body fits its schema. */
const option = '(?:accept|chains|max_rounds|generator|verifier|store)\\b';
const isOption = new RegExp(`^${option}`);
const beforeOption = new RegExp(`\`(?=${option})`, 'g');

/** What is wrong with an option, under the name that it has in these bodies. Always throws. */
function throwInXSolve(thrown: unknown): never {
  if (!(thrown instanceof StvError) || !isOption.test(thrown.param ?? '')) throw thrown;
  throw aboutField(thrown, `x_solve.${thrown.param}`, thrown.message.replaceAll(beforeOption, '`x_solve.'));
}

async function* eventsInXSolve(events: AsyncIterable<SolveEvent>): AsyncGenerator<SolveEvent> {
  try {
    yield* events;
  } catch (thrown) {
    throwInXSolve(thrown);
  }
}

/** Texts that grow at the same time cannot share one stream of reasoning; they come whole, when they are finished. */
export function isSideBySide(body: SolveBody): boolean {
  return (body.chains ?? 1) > 1 || (body.accept?.rule === 'votes' && body.accept.n > 1);
}

/** Whether the caller gave the attempt: it cost nothing, and no delta has told its text. */
function isGiven({ usage }: Extract<SolveEvent, { readonly type: 'attempt-end' }>): boolean {
  return usage.totalTokens === 0;
}

/** What one event adds to the reasoning: headings, texts, verdicts. */
export function reasoningText(event: SolveEvent, sideBySide: boolean): string {
  switch (event.type) {
    case 'attempt-start':
      return sideBySide ? '' : `Round ${event.round}, attempt:\n`;
    case 'attempt-delta':
    case 'verification-delta':
      return sideBySide ? '' : event.text;
    case 'attempt-end':
      if (sideBySide) return `Chain ${event.chain}, round ${event.round}, attempt:\n${event.attempt}\n\n`;
      return `${isGiven(event) ? event.attempt : ''}\n\n`;
    case 'verification-start':
      return sideBySide ? '' : `Round ${event.round}, verification:\n`;
    case 'verification-end': {
      const verdict = `Verdict: ${event.verdict} (score ${event.score.toFixed(2)})\n\n`;
      if (!sideBySide) return `\n${verdict}`;
      return `Chain ${event.chain}, round ${event.round}, verification:\n${event.feedback}\n${verdict}`;
    }
    default:
      return '';
  }
}

export function throwEmptyFailure(answer: SolveAnswer): void {
  if (answer.error === null || !isEmptyFailure(answer)) return;
  throw errorOf(answer.error);
}

export function summaryOf(answer: SolveAnswer): SolveSummary {
  const { id, status, stopReason, score, chain, round } = answer;
  return { id, status, stop_reason: stopReason, score, chain, round };
}

/** Whether the solution ends where its tokens ran out. */
export function isCutOff(answer: SolveAnswer): boolean {
  return answer.solution !== null && chosenRound(answer)?.finishReason === 'length';
}

function chosenRound(answer: SolveAnswer): SolveAnswer['chains'][number]['rounds'][number] | undefined {
  const chain = answer.chains.find((one) => one.chain === answer.chain);
  return chain?.rounds.find(({ round }) => round === answer.round);
}

/** Both roles together. What was generated beside the solution itself counts as reasoning. */
export function usageOf(answer: SolveAnswer): WireUsage {
  const { generator, verifier } = answer.usage;
  const sum = (read: (usage: TokenUsage) => number): number => read(generator) + read(verifier);
  const completion = sum((usage) => usage.completionTokens);
  const shown = answer.solution === null ? 0 : (chosenRound(answer)?.usage.generator.completionTokens ?? 0);
  return {
    prompt_tokens: sum((usage) => usage.promptTokens),
    completion_tokens: completion,
    total_tokens: sum((usage) => usage.totalTokens),
    prompt_tokens_details: { cached_tokens: sum((usage) => usage.promptTokensDetails.cachedTokens) },
    completion_tokens_details: {
      // the loop's own predictions are none of the client's
      accepted_prediction_tokens: 0,
      rejected_prediction_tokens: 0,
      reasoning_tokens: Math.max(0, completion - shown),
    },
  };
}
