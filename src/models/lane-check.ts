/** What a step must be, checked before native code sees it. */
import { StvError } from '../errors.ts';
import type { CausalLMLimits, Lane } from './causal-lm.ts';

/**
 * A wrong lane would let native code write into another sequence's cache: refuses it with StvError `internal`. Writes each lane's
 * first row among all wanted rows to `firstRowOf`.
 */
export function assertLanes(lanes: readonly Lane[], limits: CausalLMLimits, firstRowOf?: Int32Array): void {
  const { numSlots, maxLength, maxLanes, maxBatchedTokens, vocabSize } = limits;
  if (lanes.length < 1 || lanes.length > maxLanes) {
    throw new StvError('internal', `A step has 1 to ${maxLanes} lanes, not ${lanes.length}.`);
  }
  let numTokens = 0;
  let numRows = 0;
  for (let index = 0; index < lanes.length; index++) {
    const { slot, past, tokens, logitRows } = lanes[index] as Lane; // index is below the length
    if (!(Number.isInteger(slot) && slot >= 0 && slot < numSlots)) {
      throw new StvError('internal', `Slot ${slot} is not among the ${numSlots} slots.`);
    }
    for (let other = 0; other < index; other++) {
      if ((lanes[other] as Lane).slot === slot)
        throw new StvError('internal', `Slot ${slot} is in two lanes of a step.`);
    }
    if (!(Number.isInteger(past) && past >= 0 && tokens.length >= 1 && past + tokens.length <= maxLength)) {
      throw new StvError(
        'internal',
        `A lane of ${tokens.length} tokens after ${past} does not fit into a slot of ${maxLength} tokens.`,
      );
    }
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i] as number;
      if (!(Number.isInteger(token) && token >= 0 && token < vocabSize)) {
        throw new StvError('internal', `Token ${token} is outside the vocabulary of ${vocabSize}.`);
      }
    }
    for (let i = 0; i < logitRows.length; i++) {
      const row = logitRows[i] as number;
      if (!(Number.isInteger(row) && row >= 0 && row < tokens.length)) {
        throw new StvError('internal', `Logits of row ${row} were asked for in a lane of ${tokens.length} tokens.`);
      }
    }
    if (firstRowOf !== undefined) firstRowOf[index] = numRows;
    numTokens += tokens.length;
    numRows += logitRows.length;
  }
  if (numTokens > maxBatchedTokens || numRows > maxBatchedTokens) {
    throw new StvError('internal', `A step has at most ${maxBatchedTokens} tokens, not ${numTokens}.`);
  }
}
