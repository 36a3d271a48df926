/** Which tokens a scheduled lane computes and which of its rows are read: prompt rows, the sampled one, those of guesses. */
import type { Lane } from '../models/causal-lm.ts';
import type { PlannedDraft } from './draft-planner.ts';
import type { ScheduledLane } from './scheduler.ts';
import type { Sequence } from './sequence.ts';

/**
 * What a lane computes beyond its schedule and what its rows mean: first the prompt rows that were asked for, then the row that is
 * sampled from, if any, then a row for each guessed token.
 */
export interface LaneRows {
  readonly logitRows: number[];
  readonly numPromptRows: number;
  readonly isSampled: boolean;
  readonly planned: PlannedDraft | undefined;
}

/** Its last token is the only one that is not computed, so guesses may follow it. */
export function isBetweenTokens(sequence: Sequence): boolean {
  return sequence.isDecoding && sequence.isGenerating && sequence.numOutputTokens > 0;
}

export function wantedRows({ sequence, numTokens }: ScheduledLane, planned: PlannedDraft | undefined): LaneRows {
  const from = sequence.numComputedTokens;
  const to = from + numTokens;
  const logitRows: number[] = [];
  for (let i = sequence.numReportedRows; i < sequence.spec.promptRows.length; i++) {
    const position = (sequence.spec.promptRows[i] as { position: number }).position; // i < length
    if (position >= to) break;
    logitRows.push(position - from);
  }
  const numPromptRows = logitRows.length;
  const isSampled = sequence.isGenerating && to === sequence.numTokens;
  if (isSampled) logitRows.push(numTokens - 1);
  for (let i = 0; i < (planned?.numTokens ?? 0); i++) logitRows.push(numTokens + i);
  return { logitRows, numPromptRows, isSampled, planned };
}

export function toLane({ sequence, numTokens }: ScheduledLane, rows: LaneRows): Lane {
  if (sequence.slot === undefined) throw new Error(`Sequence ${sequence.id} was scheduled without a slot.`);
  const past = sequence.numComputedTokens;
  const scheduled = sequence.tokens(past, past + numTokens);
  const { planned, logitRows } = rows;
  if (planned === undefined || planned.numTokens === 0) {
    return { slot: sequence.slot, past, tokens: scheduled, logitRows };
  }
  const tokens = new Int32Array(numTokens + planned.numTokens);
  tokens.set(scheduled);
  tokens.set(planned.draft.tokens.subarray(0, planned.numTokens), numTokens);
  return { slot: sequence.slot, past, tokens, logitRows };
}
