/**
 * Keeps the final answer of a caller's reference out of feedback. Feedback leaks when it states that answer as the answer
 * (`x = 5`, `the answer is 5`, a box) and the student has not, or mentions its value anywhere although neither the problem nor
 * the solution holds it; numbers that only count or point (`Step 2`, `two mistakes`, `x^2`, `3x`) state nothing. Word-by-word
 * quotes of the reference leak as well. What it cannot see: an answer in other words, or one to be computed (`2 + 3`).
 */
import { type AnswerPart, findFinalAnswer, splitAnswer, toExpression } from './final-answer.ts';
import type { AnswerFormat } from './loop-pack.ts';
import { type PlainText, toPlainText } from './plain-text.ts';
import { findWrittenValues, isSameValue, type WrittenValue } from './written-values.ts';

export type LeakFlag = 'none' | 'regenerated' | 'redacted';

export interface LeakGuard {
  /** Whether the feedback states the reference's final answer or quotes the reference. */
  leaks(feedback: string): boolean;
  /** The feedback with every such statement blotted out. */
  redact(feedback: string): string;
}

export interface GuardedTexts {
  readonly reference: string;
  readonly problem: string;
  readonly solution: string;
}

/** What the student can see: problem and solution, in plain form. */
interface KnownText {
  readonly text: string;
  readonly unspaced: string;
}

/** Offsets in the plain text. */
interface Span {
  readonly start: number;
  readonly end: number;
}

const BLOT = '[…]';
const WITHHELD = 'The feedback was withheld because it gave the answer away.';

export function createLeakGuard({ reference, problem, solution }: GuardedTexts, format: AnswerFormat): LeakGuard {
  const parts = splitAnswer(findFinalAnswer(reference, format) ?? '');
  const { text } = toPlainText(`${problem}\n${solution}`);
  const known: KnownText = { text, unspaced: text.replaceAll(/\s/g, '') };
  // What the student has written as the final answer can be talked about.
  const isKnown = isSameAnswer(parts, splitAnswer(findFinalAnswer(solution, format) ?? ''));
  const finders = isKnown ? [] : parts.map((part) => createFinder(part, known));
  const findQuotes = createQuoteFinder(reference, known.text);

  const find = (feedback: PlainText): readonly Span[] => {
    const stated = finders.map((finder) => finder(feedback.text));
    // of an answer in several parts, one part alone is a hint
    const answers = stated.every((spans) => spans.length > 0) ? stated.flat() : [];
    return [...answers, ...findQuotes(feedback.text)];
  };
  return {
    leaks: (feedback) => find(toPlainText(feedback)).length > 0,
    redact: (feedback) => {
      let text = feedback;
      for (let pass = 0; pass < 4; pass++) {
        const plain = toPlainText(text);
        const spans = find(plain);
        if (spans.length === 0) return text;
        text = blot(text, plain, spans);
      }
      return find(toPlainText(text)).length === 0 ? text : WITHHELD;
    },
  };
}

function blot(text: string, plain: PlainText, spans: readonly Span[]): string {
  const sorted = spans
    .map(({ start, end }) => ({ start: plain.starts[start] ?? 0, end: plain.ends[end - 1] ?? text.length }))
    .sort((a, b) => a.start - b.start);
  let result = '';
  let done = 0;
  for (const { start, end } of sorted) {
    if (end <= done) continue;
    result += text.slice(done, Math.max(start, done)) + (start >= done ? BLOT : '');
    done = end;
  }
  return result + text.slice(done);
}

function isSameAnswer(a: readonly AnswerPart[], b: readonly AnswerPart[]): boolean {
  const same = (left: AnswerPart, right: AnswerPart): boolean =>
    left.kind === 'value' && right.kind === 'value'
      ? isSameValue(left, right)
      : left.kind !== 'value' && right.kind !== 'value' && left.text === right.text;
  return a.length > 0 && a.length === b.length && a.every((part) => b.some((other) => same(part, other)));
}

type Finder = (feedback: string) => readonly Span[];

function createFinder(part: AnswerPart, known: KnownText): Finder {
  switch (part.kind) {
    case 'value':
      return createValueFinder(part, known);
    case 'expression':
      return createExpressionFinder(part.text, known);
    case 'words':
      return createWordsFinder(part.text, known);
  }
}

const answerNoun = '(?:answer|solution|result|root|value\\s+(?:of|for)\\s+[a-z])s?';
const copula =
  '(?:is|are|was|were|be|being|equals?|=|:|->|→|≈|comes?\\s+(?:out|down)\\s+to|turns?\\s+out\\s+to\\s+be|of)';
const hedge =
  '(?:\\s*(?:not\\s+[^,;.]{1,20},?\\s+but|exactly|actually|indeed|really|just|simply|in\\s+fact|equal\\s+to|about|approximately|roughly|given\\s+by|the\\s+number|≈|=|:))*';
const opening = '(?:\\s*(?:[a-z]\\s*=|\\\\boxed\\s*\\{?|[({[]|"|\'))*\\s*';
const modal =
  '(?:(?:should|must|would|will|has\\s+to|ought\\s+to|needs?\\s+to|can\\s+only)\\s+(?:have\\s+been|be|equal|read)|to\\s+be)';

/** In front of a value that is put forward as the answer. */
const assertedBefore = [
  new RegExp(
    `\\b(?:final|correct|right|true|actual|real|expected|proper)?\\s*${answerNoun}\\b(?:[^.;,\\n=]{0,40}?)\\s*(?:${modal}|${copula})${hedge}${opening}$`,
  ),
  new RegExp(`\\\\boxed\\s*\\{?${opening}$`),
  /\b(?:option|choice)\s*\(?$/,
];
/** The same for an unknown: `x = 5`. What stands before it is the unknown's equation, looked up in the known texts. */
const unknownBefore = new RegExp(
  `(?<![\\w\\\\]|[\\d+\\-*/^)}]\\s?)(?<unknown>[a-z])(?:_\\{?\\d\\}?)?\\s*(?:${modal}|=|≈|→|->|\\bis\\b|\\bequals\\b)${hedge}\\s*[({]?\\s*$`,
);
const assertedAfter =
  /^\s*[)}\]"']*\s*(?:[a-z°]+\s+){0,2}(?:is|was|would\s+be|as|should\s+be)\s+(?:the|your|our)?\s*(?:final|correct|right|actual|expected)?\s*(?:answer|solution|result|root|value\s+(?:of|for)\s+[a-z])\b/;

/** In front of or behind a number that only points or counts. */
const pointerBefore =
  /(?:\b(?:steps?|lines?|equations?|eqs?\.?|items?|parts?|problems?|questions?|exercises?|cases?|rows?|columns?|rounds?|attempts?|numbers?|no\.|figures?|sections?|chapters?|pages?|degree|first|last|next|top)\s*(?:\(|#|\d+\s*(?:,|and|to|or|-)\s*)?|#)\s*$/;
const listMarker = /(?:^|\n)[ \t]*[-*(]?[ \t]*$/;
const countedAfter =
  /^\s*(?:(?:small|minor|major|serious|separate|different|other|more|further|decimal|significant|similar|possible|distinct|like|consecutive|whole)\s+)*(?:errors?|mistakes?|steps?|lines?|problems?|issues?|things?|times?|places?|sides?|terms?|parts?|cases?|signs?|equations?|ways?|numbers?|digits?|points?|factors?|brackets?|unknowns?|variables?|methods?|reasons?|slips?|solutions?|roots?|halves|pieces)\b/;
const ordinalAfter = /^(?:st|nd|rd|th)\b/;
const coefficientAfter = /^(?:[a-z](?![a-z])|\s*\*\s*[a-z](?![a-z])|\()/;
const exponentBefore = /[\^_]\s*\{?\s*-?$/;

/** Enough of the text around a value to judge what it is said to be. */
const CONTEXT = 90;

function isAsserted(text: string, { start, end }: Span, known: KnownText): boolean {
  const before = text.slice(Math.max(0, start - CONTEXT), start);
  if (assertedBefore.some((pattern) => pattern.test(before)) || assertedAfter.test(text.slice(end, end + CONTEXT)))
    return true;
  const unknown = unknownBefore.exec(before)?.groups?.['unknown'];
  if (unknown === undefined || (unknown === 'a' && !/\ba\s*[=≈]/.test(before))) return false;
  // an equation that the student or the problem has written can be spoken of
  const equation = `${unknown}=${text.slice(start, end)}`.replaceAll(/\s/g, '');
  const equations = known.unspaced;
  for (let at = equations.indexOf(equation); at !== -1; at = equations.indexOf(equation, at + 1)) {
    // `x=2` is not written where `x=25` or `x=2.5` is
    if (!/^(?:\d|[.,]\d)/.test(equations.slice(at + equation.length, at + equation.length + 2))) return false;
  }
  return true;
}

/** A number that only says which one: `Step 2`, `2.` at the head of a line, `2nd`. */
function isLabel(text: string, { start, end }: Span): boolean {
  const before = text.slice(Math.max(0, start - CONTEXT), start);
  const after = text.slice(end, end + CONTEXT);
  return (
    pointerBefore.test(before) || ordinalAfter.test(after) || (listMarker.test(before) && /^\s*[.):]\s/.test(after))
  );
}

/** A number that is part of something else or counts something: `x^2`, `2x`, `2 mistakes`. */
function isAside(text: string, { start, end }: Span): boolean {
  const after = text.slice(end, end + CONTEXT);
  return (
    exponentBefore.test(text.slice(Math.max(0, start - 8), start)) ||
    countedAfter.test(after) ||
    coefficientAfter.test(after)
  );
}

function createValueFinder(answer: AnswerPart & { kind: 'value' }, known: KnownText): Finder {
  const isAnswer = (value: WrittenValue): boolean =>
    isSameValue(value, answer) ||
    (answer.share !== undefined && isSameValue(value, { value: answer.share, numDecimals: undefined }));
  const isMentioned = findWrittenValues(known.text).some((value) => isAnswer(value) && !isLabel(known.text, value));
  const isLeak = (text: string, value: WrittenValue): boolean => {
    if (isAsserted(text, value, known))
      return !countedAfter.test(text.slice(value.end, value.end + CONTEXT)) || !value.isLooseWord;
    return !isMentioned && !value.isLooseWord && !isLabel(text, value) && !isAside(text, value);
  };
  return (feedback) => {
    const same = findWrittenValues(feedback).filter(isAnswer);
    return same.filter((value) => isLeak(feedback, value));
  };
}

/** Places of `needle` in the text without spaces, brackets and multiplication signs, as offsets of the text itself. */
function findExpression(text: string, needle: string): readonly Span[] {
  const units: string[] = [];
  const places: number[] = [];
  const rewritten = text.replaceAll(/\\frac\{([^{}]*)\}\{([^{}]*)\}/g, (match, above: string, below: string) =>
    `${above}/${below}`.padEnd(match.length),
  );
  for (let index = 0; index < rewritten.length; index++) {
    const unit = rewritten[index] ?? '';
    if (/[\s{}\\]/.test(unit)) continue;
    if (unit === '*' && /[\w)]/.test(units.at(-1) ?? '') && /^\s*[\w(]/.test(rewritten.slice(index + 1, index + 4)))
      continue;
    units.push(unit);
    places.push(index);
  }
  const joined = units.join('');
  const spans: Span[] = [];
  for (let at = joined.indexOf(needle); at !== -1; at = joined.indexOf(needle, at + 1)) {
    // not a piece of something longer: `2x+1` in `12x+1` or `2x+15`
    if (/[\w.]/.test(joined[at - 1] ?? '') && /\w/.test(needle[0] ?? '') && isTouching(places[at - 1], places[at]))
      continue;
    const end = at + needle.length;
    if (/\w/.test(joined[end] ?? '') && /\w/.test(needle.at(-1) ?? '') && isTouching(places[end - 1], places[end]))
      continue;
    spans.push({ start: places[at] ?? 0, end: (places[end - 1] ?? 0) + 1 });
  }
  return spans;
}

function isTouching(left: number | undefined, right: number | undefined): boolean {
  return left !== undefined && right !== undefined && right === left + 1;
}

function createExpressionFinder(needle: string, known: KnownText): Finder {
  if (needle === '') return () => [];
  const isMentioned = findExpression(known.text, toExpression(needle)).length > 0;
  const isShort = needle.length < 3;
  return (feedback) =>
    findExpression(feedback, needle).filter((span) => isAsserted(feedback, span, known) || (!isMentioned && !isShort));
}

/** Words so common that only a statement about the answer gives them a meaning. */
const commonWords = new Set(
  'yes no true false none zero all both even odd increasing decreasing positive negative undefined infinity correct'.split(
    ' ',
  ),
);

function createWordsFinder(words: string, known: KnownText): Finder {
  const escaped = words.replaceAll(/[^a-z0-9]+/g, '[^a-z0-9]+');
  const pattern = new RegExp(`(?<![a-z0-9])${escaped}(?![a-z0-9])`, 'g');
  const isMentioned = known.text.search(pattern) !== -1;
  const isCommon = words.length < 4 || commonWords.has(words);
  return (feedback) =>
    [...feedback.matchAll(pattern)]
      .map((match): Span => ({ start: match.index, end: match.index + match[0].length }))
      .filter((span) => isAsserted(feedback, span, known) || (!isMentioned && !isCommon));
}

const QUOTE_TOKENS = 8;
/** Words, as against signs and numbers: a correct equation may well stand in both texts. */
const QUOTE_WORDS = 5;

interface Token extends Span {
  readonly text: string;
  readonly isWord: boolean;
}

function tokenize(text: string): readonly Token[] {
  return [...text.matchAll(/[\p{L}]+|\d+(?:\.\d+)?|[^\s\p{L}\d.,;:!?]/gu)].map((match) => ({
    text: match[0],
    isWord: /^\p{L}{2}/u.test(match[0]),
    start: match.index,
    end: match.index + match[0].length,
  }));
}

interface Shingle extends Span {
  readonly key: string;
}

/** Runs of `QUOTE_TOKENS` tokens with enough words among them. */
function shingles(tokens: readonly Token[]): readonly Shingle[] {
  const found: Shingle[] = [];
  let numWords = 0;
  for (const [index, token] of tokens.entries()) {
    if (token.isWord) numWords++;
    const first = tokens[index - QUOTE_TOKENS + 1];
    if (first === undefined) continue;
    if (numWords >= QUOTE_WORDS) {
      const run = tokens.slice(index - QUOTE_TOKENS + 1, index + 1);
      found.push({ key: run.map(({ text }) => text).join(' '), start: first.start, end: token.end });
    }
    if (first.isWord) numWords--;
  }
  return found;
}

/** Runs of words that stand in the reference and in neither of the texts that the student knows. */
function createQuoteFinder(reference: string, known: string): Finder {
  const knownKeys = new Set(shingles(tokenize(known)).map(({ key }) => key));
  const keys = new Set(shingles(tokenize(toPlainText(reference).text)).map(({ key }) => key));
  return (feedback) => shingles(tokenize(feedback)).filter(({ key }) => keys.has(key) && !knownKeys.has(key));
}
