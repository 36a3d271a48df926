/** Finds the places where a solution in free form states its answer, and cuts the answer out of what stands around it. */
import { createAnswerExtractor, lastBoxed } from './answer.ts';
import type { AnswerFormat } from './loop-pack.ts';
import { numberWords } from './number-words.ts';
import { toPlainText } from './plain-text.ts';
import { findWrittenValues } from './written-values.ts';

export interface AnswerStatement {
  /** `unknown`: the last `x = …`; `line`: how the text ends, which need not be meant as the answer. */
  readonly kind: 'boxed' | 'pattern' | 'marked' | 'announced' | 'unknown' | 'line';
  readonly text: string;
}

/** More of a line is no answer. Bounds the work per statement. */
const MAX_STATEMENT = 400;
/** So many announcements are looked at, from the last one on: behind the answer may stand `the solution is unique`. */
const MAX_ANNOUNCED = 8;

/** The most deliberate statement first; each is looked for when it is asked for. */
export function* findStatements(solution: string, format: AnswerFormat): Generator<AnswerStatement, void> {
  const lines = solution.trimEnd().split('\n');
  const finders: readonly (readonly [AnswerStatement['kind'], () => string | undefined])[] = [
    ['boxed', () => lastBoxed(solution)],
    ['pattern', () => (format.kind === 'pattern' ? createAnswerExtractor(format)(solution) : undefined)],
    ['marked', () => behindHashes(solution.trimEnd())],
    ['announced', () => lastAnnounced(solution)],
    ['line', () => lastStatement(lines)],
    ['unknown', () => lastUnknown(lines)],
  ];
  for (const [kind, find] of finders) {
    const text = find();
    if (text !== undefined && text !== '') yield { kind, text };
  }
}

/** `#### 42` with nothing on the lines below, as GSM8K ends its solutions. */
function behindHashes(solution: string): string | undefined {
  const at = solution.lastIndexOf('####');
  const marked = at === -1 ? '' : solution.slice(at + '####'.length).trimStart();
  return marked === '' || marked.includes('\n') ? undefined : marked;
}

/** Only the head: in `Final Answer: The final answer is 5` the inner one counts. */
const announcement =
  /(?:^|[\s*(])(?:final\s+answer|answer|solution|result)s?\s*(?:\s(?:to|of|for)\s[^.:=\n]{1,60}?\s)?(?:(?:should|must|would|will)\s+be|is|are|=|:)+[\s*:]*(?=[^\n])/gi;
const leadIn = /^(?:that|just|simply|exactly|therefore|thus|then|clearly|indeed|equal\s+to|given\s+by)\s+/i;

/** The last announcement of a value; of words only if none has a value. */
function lastAnnounced(solution: string): string | undefined {
  const heads = [...solution.matchAll(announcement)].slice(-MAX_ANNOUNCED);
  const texts = heads
    .reverse()
    .map((head) => announcedAt(solution, head.index + head[0].length))
    .filter((text) => text !== '' && !isProse(text));
  return texts.find(hasValue) ?? texts[0];
}

function announcedAt(solution: string, start: number): string {
  const line = solution.slice(start, start + MAX_STATEMENT).split('\n', 1)[0] ?? '';
  const text = cutAside(endSentence(line).replace(leadIn, ''));
  return hasAlternatives(text) ? text : afterLastEquals(leadingValue(text));
}

/** `The solution is to subtract 5 from both sides` announces a method. */
function isProse(text: string): boolean {
  return /^to\b/i.test(text) || (/^[a-z]{2,}\s/i.test(text) && text.split(/\s+/).length > 5);
}

const check = /^[\s*_#>-]*(?:check|checking|probe|proof|verify|verification|verifying|test)\b/i;
const closing =
  /^[\s*_$\\]*(?:q\.?\s*e\.?\s*d|done|finished|solved|end|ok|proved|(?:hence|as)\s+(?:proved|required|desired))\b[\s.!*_$]*$/i;

const setting = /^\\(?:begin|end)\{[^}]*\}$/;

/** The lines that may state an answer, from the last one on. */
function* statingLines(lines: readonly string[]): Generator<string> {
  for (let index = lines.length - 1; index >= 0; index--) {
    const line = (lines[index] ?? '').trim();
    if (!/[\p{L}\p{N}∞]/u.test(line) || setting.test(line) || check.test(line) || closing.test(line)) continue;
    yield line;
  }
}

/** How the last line that has something to say ends; words alone say something where they stand alone (`isosceles`). */
function lastStatement(lines: readonly string[]): string | undefined {
  let last: string | undefined;
  for (const line of statingLines(lines)) {
    last ??= line;
    if (!hasValue(line.slice(-MAX_STATEMENT)) && !/^\S+(?:\s+\S+)?$/.test(line)) continue;
    const statement = statementOf(line);
    if (statement !== undefined) return statement;
  }
  return last === undefined ? undefined : statementOf(last);
}

function statementOf(line: string): string | undefined {
  const unknown = unknownIn(line);
  if (unknown !== undefined) return unknown;
  const end = line.slice(-MAX_STATEMENT);
  if (end.includes('=') && !end.endsWith('=')) {
    const stated = cutAside(end);
    // `This is because 10/2 = 5` states nothing
    if (!hasValue(stated)) return undefined;
    return cutAside(endEquation(withoutUnknown(afterLastEquals(stated), stated)));
  }
  const sentence = line.length <= MAX_WHOLE ? endSentence(line) : undefined;
  return sentence !== undefined && isWhole(sentence) ? sentence : lastValue(end);
}

/** A shorter line may be the answer as it stands. */
const MAX_WHOLE = 40;

/** An expression or words, but no sentence about a number: `2x + 1`, `isosceles`, `2 more than x`, not `the train goes 120 km`. */
function isWhole(line: string): boolean {
  const { text } = toPlainText(line);
  const words = text.match(/(?<![\\a-z])[a-z]{2,}/g)?.filter((word) => !functions.test(word)) ?? [];
  if (words.length === 0 || /\b(?:than|times|plus|minus)\b/.test(text)) return true;
  const values = findWrittenValues(text).filter(({ isLooseWord }) => !isLooseWord);
  return values.length === 0 || values.some(({ start }) => start === 0);
}

const functions =
  /^(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?$|^(?:log|ln|exp|sqrt|frac|over|mod|gcd|lcm|max|min|infinity)$/;

function lastValue(end: string): string | undefined {
  const plain = toPlainText(end);
  const values = findWrittenValues(plain.text);
  const last = values.findLast(({ isLooseWord }) => !isLooseWord) ?? values.at(-1);
  return last === undefined ? undefined : plain.text.slice(last.start, last.end);
}

/** Of `12 = x` the 12. */
function withoutUnknown(side: string, stated: string): string {
  return /^[a-zA-Z][\s.$]*$/.test(side) ? afterLastEquals(stated.slice(0, stated.lastIndexOf('='))) : side;
}

function lastUnknown(lines: readonly string[]): string | undefined {
  for (const line of statingLines(lines)) {
    const text = unknownIn(line);
    if (text !== undefined && hasValue(text)) return text;
  }
  return undefined;
}

const inference = /\b(?:so|hence|thus|therefore|then|gives|implies|means)\b|[.;]\s|→|⇒|=>|\\implies|\\Rightarrow/i;
/** A letter that is no part of a term: of `2x = 10` and `x + y = 3` none. */
const unknownHead = /(?<![\w\\^_]|[\d+\-*/^)}]\s?)[a-zA-Z](?:_\{?\w\}?)?\s{0,4}=(?!=)/;

/** What an unknown is said to be at the end of the line: of `n = 4, so x = 10/2 = 5` it is 5. */
function unknownIn(line: string): string | undefined {
  const end = line.slice(-MAX_STATEMENT);
  if (!end.includes('=')) return undefined;
  for (const clause of end.split(inference).reverse()) {
    const head = unknownHead.exec(clause);
    if (head === null) continue;
    const text = cutAside(endEquation(clause.slice(head.index)));
    const answer = hasAlternatives(text) ? text : leadingValue(afterLastEquals(text));
    if (answer !== '') return answer;
  }
  return undefined;
}

/** `x = 2 or x = -3`: all of it, not what follows the last sign. */
function hasAlternatives(text: string): boolean {
  return /\b(?:or|and)\b|[;,]\s*[a-z](?:_\{?\w\}?)?\s*=/i.test(text);
}

function afterLastEquals(text: string): string {
  return text.slice(text.lastIndexOf('=') + 1).trim();
}

function hasValue(text: string): boolean {
  return /[\d=√π∞½¼¾⅓⅔]|\\(?:frac|sqrt|pi|infty)/.test(text) || text.toLowerCase().search(numberWords) !== -1;
}

const reason = /\s(?:because|since|which)\b.*$|,\s+(?:as|so|where|for|hence|thus|therefore)\b.*$/is;
const behindValue =
  /,?\s(?:because|since|which|as|so|hence|thus|therefore)\b.*$|,\s+(?!(?:and|or)\b)[a-z]{2}.*$|\s(?:and|or)\s+[a-z]{2,}\s+[a-z]{2}.*$|\s\((?=[^)]*(?:[a-z]{2}|=)).*$/is;

/** Without the reason or the remark behind it. Between words (`red, blue and green`) a comma may belong to the answer. */
function cutAside(text: string): string {
  return text.replace(/\d/.test(text.slice(0, 24)) ? behindValue : reason, '').trim();
}

/** The value that a longer sentence begins with: `5 for all of the people in the room`. `2 more than x` is no value. */
function leadingValue(text: string): string {
  const plain = toPlainText(text).text;
  const words = plain.match(/[a-z]{2,}/g) ?? [];
  if (words.length <= 4 || /\b(?:than|times|plus|minus)\b/.test(plain)) return text;
  const ends = findWrittenValues(plain)
    .filter(({ start, end }) => start === 0 && /^\s+[a-z]{2}/.test(plain.slice(end, end + 8)))
    .map(({ end }) => end);
  return ends.length === 0 ? text : plain.slice(0, Math.max(...ends));
}

const marks = /[*`$]+|\\[()[\]]/g;

function endSentence(text: string): string {
  return text
    .replace(/(?:[.!?](?=[\s*$`]|$)).*$/s, '')
    .replaceAll(marks, '')
    .trim();
}

/** In an equation `5!` is a factorial. */
function endEquation(text: string): string {
  return text
    .replace(/(?:[.?](?=[\s$`]|$)).*$/s, '')
    .replaceAll(/[`$]+|\*\*$|\\[()[\]]/g, '')
    .trim();
}
