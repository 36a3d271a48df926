/**
 * The loop as a model of `POST /v1/responses`: each round is a reasoning item with the attempt and its verification as
 * parts of the summary, the solution is the message. Summaries, because their events have the same names in every client.
 */
import type { SolveEvent } from '../stv/solve-events.ts';
import { isCutOff, isSideBySide, reasoningText, summaryOf, throwEmptyFailure, usageOf } from './openai-solve.ts';
import type { ResponseEnding, ResponseEvent, ResponseRecord } from './response-record.ts';
import { responseUsage } from './responses-wire.ts';
import type { SolveBody } from './schemas-solve.ts';
import { solveAnswerOf, wireErrorOf } from './solve-wire.ts';

export async function* solvedResponse(
  events: AsyncIterable<SolveEvent>,
  body: SolveBody,
  record: ResponseRecord,
): AsyncGenerator<ResponseEvent> {
  const round = isSideBySide(body) ? wholeRounds(record) : growingRounds(record);
  let isBegun = false;
  for await (const event of events) {
    if (event.type === 'solve-end') throwEmptyFailure(solveAnswerOf(event));
    if (!isBegun) yield* record.begin();
    isBegun = true;
    if (event.type !== 'solve-end') {
      yield* round(event);
      continue;
    }
    const answer = solveAnswerOf(event);
    const isEarly = answer.status === 'cancelled' || answer.status === 'failed';
    const isWhole = !isEarly && !isCutOff(answer);
    if (answer.solution !== null) {
      yield* record.openMessage();
      yield* record.addText(answer.solution);
      yield* record.closeMessage(isWhole ? 'completed' : 'incomplete');
    }
    const { error } = answer;
    const ending: ResponseEnding = {
      status: answer.status === 'failed' ? 'failed' : isWhole ? 'completed' : 'incomplete',
      ...(answer.status === 'cancelled' ? { reason: 'cancelled' } : {}),
      ...(isEarly || isWhole ? {} : { reason: 'max_output_tokens' }),
      ...(error === null ? {} : { error: { code: error.code, message: wireErrorOf(error).message } }),
      usage: responseUsage(usageOf(answer)),
      x_solve: summaryOf(answer),
    };
    yield* record.finish(ending);
  }
}

type RoundEvents = (event: SolveEvent) => ResponseEvent[];

/** One chain and one vote: every part grows as its tokens come. */
function growingRounds(record: ResponseRecord): RoundEvents {
  return (event) => {
    const text = reasoningText(event, false);
    switch (event.type) {
      case 'round-start':
        return record.openReasoning();
      case 'attempt-start':
      case 'verification-start':
        return [...record.openSummary(), ...record.addSummary(text)];
      case 'attempt-delta':
      case 'verification-delta':
        return record.addSummary(text);
      case 'attempt-end':
      case 'verification-end':
        return [...record.addSummary(text), ...record.closeSummary()];
      case 'round-end':
        return record.closeReasoning();
      default:
        return [];
    }
  };
}

/** Rounds that grow at the same time come one after the other, each when it is finished. */
function wholeRounds(record: ResponseRecord): RoundEvents {
  const parts = new Map<string, string[]>();
  return (event) => {
    if (!('chain' in event) || event.type === 'solve-end') return [];
    const key = `${event.chain}.${event.round}`;
    // a round that begins anew drops what it had
    const texts = (event.type === 'round-start' ? undefined : parts.get(key)) ?? [];
    parts.set(key, texts);
    const text = reasoningText(event, true);
    if (text !== '') texts.push(text);
    if (event.type !== 'round-end') return [];
    parts.delete(key);
    const opened = record.openReasoning();
    const summaries = texts.flatMap((part) => [
      ...record.openSummary(),
      ...record.addSummary(part),
      ...record.closeSummary(),
    ]);
    return [...opened, ...summaries, ...record.closeReasoning()];
  };
}
