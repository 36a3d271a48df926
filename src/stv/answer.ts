/** Finds the final answer in an attempt, as the pack says it is written. Linear in the length of the text. */
import { RE2JS } from 're2js';
import { StvError } from '../errors.ts';
import type { AnswerFormat } from './loop-pack.ts';

export type AnswerExtractor = (attempt: string) => string | undefined;

/** Throws StvError `pack_invalid` when a pattern is not RE2 syntax. */
export function createAnswerExtractor(format: AnswerFormat): AnswerExtractor {
  switch (format.kind) {
    case 'boxed':
      return lastBoxed;
    case 'last_line':
      return lastLine;
    case 'pattern':
      return lastMatch(format.pattern);
  }
}

/** Content of the last `\boxed{…}` whose braces are balanced; `\{` and `\}` are text. */
export function lastBoxed(text: string): string | undefined {
  // Backwards over all openings, yet linear: one pass finds for every brace the one that closes it.
  const closing = matchBraces(text);
  for (let from = text.length; from >= 0; ) {
    const at = text.lastIndexOf('\\boxed', from);
    if (at === -1) return undefined;
    let open = at + '\\boxed'.length;
    while (text[open] === ' ') open++;
    const close = text[open] === '{' ? closing.get(open) : undefined;
    if (close !== undefined) {
      const content = text.slice(open + 1, close).trim();
      if (content !== '') return content;
    }
    from = at - 1;
  }
  return undefined;
}

function matchBraces(text: string): ReadonlyMap<number, number> {
  const closing = new Map<number, number>();
  const open: number[] = [];
  for (let index = 0; index < text.length; index++) {
    const unit = text[index];
    if (unit === '\\') index++;
    else if (unit === '{') open.push(index);
    else if (unit === '}') {
      const start = open.pop();
      if (start !== undefined) closing.set(start, index);
    }
  }
  return closing;
}

function lastLine(text: string): string | undefined {
  const line = text.trimEnd();
  const answer = line.slice(Math.max(line.lastIndexOf('\n'), line.lastIndexOf('\r')) + 1).trim();
  return answer === '' ? undefined : answer;
}

function lastMatch(pattern: string): AnswerExtractor {
  let compiled: RE2JS;
  try {
    // first alone: what only closes a group of ours is not a pattern
    RE2JS.compile(pattern);
    // One match goes over all of them, each from where the one before ended: searching for every one anew could take
    // quadratic time, as a search may look at the whole remainder. A greedy head alone would cut the last one short.
    compiled = RE2JS.compile(`(?:(?s:.*?)(${pattern}))+`);
  } catch (cause) {
    throw new StvError('pack_invalid', 'The answer pattern of the pack is not valid RE2 syntax.', { cause });
  }
  return (text) => {
    const matcher = compiled.matcher(text);
    if (!matcher.lookingAt()) return undefined;
    // a group that took no part in the last match still holds what it had in an earlier one
    const hasGroup = matcher.groupCount() > 1;
    if (hasGroup && matcher.start(2) < matcher.start(1)) return undefined;
    const answer = matcher.group(hasGroup ? 2 : 1)?.trim();
    return answer === '' ? undefined : answer;
  };
}
