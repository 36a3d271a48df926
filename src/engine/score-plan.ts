/**
 * How to read the probability of several continuations with as few computed tokens as possible. The encodings form a tree behind
 * their common beginning: every inner node needs one row of logits, every deepest inner node one sequence.
 */
import type { PromptRowRequest, PromptRowResult } from './messages.ts';

export interface ScorePlan {
  /** One for each path; reads the rows of the tokens it shares with an earlier path only once. */
  readonly sequences: readonly { readonly prompt: Int32Array; readonly promptRows: readonly PromptRowRequest[] }[];
  /** Tokens that all candidates share: the prompt, as far as it is encoded alike with each of them. */
  readonly numShared: number;
}

interface Path {
  readonly prompt: Int32Array;
  readonly rows: { position: number; targets: number[]; top: 0 }[];
}

/**
 * @param prompt the prompt's own encoding: candidates are scored from its end, or from where an encoding leaves it earlier
 * @param encodings prompt and candidate together, one for each candidate, longer than what they share
 */
export function planScore(prompt: Int32Array, encodings: readonly Int32Array[]): ScorePlan {
  const numShared = sharedLength(prompt, encodings);
  if (numShared === 0) throw new Error('Candidates need at least one token of a prompt before them.');
  const paths: Path[] = [];
  // longest first: a shorter encoding's rows then lie on a path that exists
  for (const encoding of [...encodings].sort((a, b) => b.length - a.length)) {
    const inner = encoding.subarray(0, encoding.length - 1); // the last token is only ever a target
    let path = paths.find(({ prompt: tokens }) => startsWith(tokens, inner));
    if (path === undefined) {
      path = { prompt: inner, rows: [] };
      paths.push(path);
    }
    for (let position = numShared - 1; position < inner.length; position++) {
      const owner = paths.find(({ prompt: tokens }) => startsWith(tokens, encoding.subarray(0, position + 1))) ?? path;
      const target = encoding[position + 1] as number; // position + 1 < encoding.length
      const row = owner.rows.find((candidate) => candidate.position === position);
      if (row === undefined) owner.rows.push({ position, targets: [target], top: 0 });
      else if (!row.targets.includes(target)) row.targets.push(target);
    }
  }
  for (const { rows } of paths) rows.sort((a, b) => a.position - b.position);
  return { numShared, sequences: paths.map(({ prompt: tokens, rows }) => ({ prompt: tokens, promptRows: rows })) };
}

/** Tokens that are read: the shared ones once, then those of each sequence's own. */
export function numPromptTokens({ numShared, sequences }: ScorePlan): number {
  return sequences.reduce((sum, { prompt }) => sum + prompt.length - numShared, numShared);
}

/**
 * Log-probability of each encoding behind the shared tokens.
 * @param results the rows of each planned sequence, in the plan's order
 */
export function collectScore(
  plan: ScorePlan,
  encodings: readonly Int32Array[],
  results: readonly (readonly PromptRowResult[])[],
): number[] {
  return encodings.map((encoding) => {
    let sum = 0;
    for (let position = plan.numShared - 1; position < encoding.length - 1; position++) {
      const owner = plan.sequences.findIndex(({ prompt }) => startsWith(prompt, encoding.subarray(0, position + 1)));
      const target = encoding[position + 1] as number; // position + 1 < encoding.length
      const request = plan.sequences[owner]?.promptRows.find((row) => row.position === position);
      const result = results[owner]?.find((row) => row.position === position);
      sum += result?.logprobs[request?.targets.indexOf(target) ?? -1] ?? Number.NEGATIVE_INFINITY;
    }
    return sum;
  });
}

/** Every encoding must keep at least one token behind the shared ones, or it would have nothing to be scored by. */
function sharedLength(prompt: Int32Array, encodings: readonly Int32Array[]): number {
  let length = prompt.length;
  for (const encoding of encodings) {
    length = Math.min(length, encoding.length - 1);
    for (let i = 0; i < length; i++) {
      if (encoding[i] !== prompt[i]) length = i;
    }
  }
  return length;
}

function startsWith(tokens: Int32Array, beginning: Int32Array): boolean {
  if (beginning.length > tokens.length) return false;
  for (let i = 0; i < beginning.length; i++) if (tokens[i] !== beginning[i]) return false;
  return true;
}
