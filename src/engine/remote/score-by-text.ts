/** Candidates found in the texts of a remote's most likely first tokens, or in a short answer. Pure. */
import type { TokenLogprob } from '../engine.ts';

/**
 * Log-probability of each candidate as far as the first token tells: the sum over the listed tokens that begin this candidate and
 * no other. An upper bound for candidates of several tokens. White space at a token's head is not looked at.
 */
export function scoreFirstToken(top: TokenLogprob['top'], candidates: readonly string[]): number[] {
  const sums = candidates.map(() => 0);
  const wanted = candidates.map((candidate) => candidate.trimStart());
  for (const { text, logprob } of top) {
    const word = text.trimStart();
    if (word === '') continue;
    const matches = wanted.flatMap((candidate, index) =>
      candidate.startsWith(word) || word.startsWith(candidate) ? [index] : [],
    );
    const [only] = matches;
    if (matches.length === 1 && only !== undefined) sums[only] = (sums[only] ?? 0) + Math.exp(logprob);
  }
  // rounding can lift a sum over 1
  return sums.map((sum) => Math.min(0, Math.log(sum)));
}

/** 0 for the candidate that the answer begins with, -Infinity for the others; the longest where several fit. */
export function scoreVote(answer: string, candidates: readonly string[]): number[] {
  const text = answer.trimStart();
  let best = -1;
  for (const [index, candidate] of candidates.entries()) {
    if (text.startsWith(candidate.trimStart()) && candidate.length > (candidates[best]?.length ?? 0)) best = index;
  }
  return candidates.map((_, index) => (index === best ? 0 : Number.NEGATIVE_INFINITY));
}

/**
 * The token behind the echo of `prefix` (or the first one, where there is none): where the candidate stands. White space before
 * it is passed over. undefined when the answer ended before.
 */
export function tokenBehindEcho(tokens: readonly TokenLogprob[], prefix: string): TokenLogprob | undefined {
  const core = prefix.trimEnd();
  const whole = tokens.map(({ text }) => text).join('');
  const isEcho = core !== '' && whole.startsWith(core);
  let end = 0;
  for (const token of tokens) {
    const begin = end;
    end += token.text.length;
    const isBehind = !isEcho || begin >= core.length;
    if (isBehind && token.text.trim() !== '') return token;
  }
  return undefined;
}
