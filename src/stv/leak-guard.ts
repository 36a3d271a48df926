/**
 * Keeps the final answer of a caller's reference out of feedback. Feedback leaks when it states that answer as the answer
 * (`x = 5`, `the answer is 5`, a box) and the student has not, or mentions its value anywhere although neither the problem nor
 * the solution holds it; numbers that only count or point (`Step 2`, `two mistakes`, `x^2`, `3x`) state nothing. Word-by-word
 * quotes of the reference leak as well. What it cannot see: an answer in other words, or one to be computed (`2 + 3`).
 */
import { type AnswerStatement, findStatements } from './answer-statements.ts';
import { type AnswerPart, isSameAnswer, readAnswer, silentProduct, toExpression } from './final-answer.ts';
import { isAside, isAsserted, isCount, isLabel, isPieceOfLonger, type KnownText, type Span } from './leak-context.ts';
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

const BLOT = '[…]';
const WITHHELD = 'The feedback was withheld because it gave the answer away.';

export function createLeakGuard({ reference, problem, solution }: GuardedTexts, format: AnswerFormat): LeakGuard {
  const { text } = toPlainText(`${problem}\n${solution}`);
  const known: KnownText = { text, unspaced: text.replaceAll(/\s/g, ''), equations: new Map() };
  const answers = guardedAnswers(reference, solution, format).map((parts) =>
    parts.map((part) => createFinder(part, known)),
  );
  const findQuotes = createQuoteFinder(reference, known.text);

  const find = (feedback: PlainText): readonly Span[] => [
    ...answers.flatMap((finders) => findAnswer(finders, feedback.text)),
    ...findQuotes(feedback.text),
  ];
  // In a text that gives the answer away, what only mentions its value confirms it: `x = […] = 5`.
  const findMentions = (feedback: PlainText): readonly Span[] => {
    const stated = answers.filter((finders) => findAnswer(finders, feedback.text).length > 0);
    return (stated.length > 0 ? stated : answers).flat().flatMap(({ mentions }) => mentions(feedback.text));
  };
  return {
    leaks: (feedback) => find(toPlainText(feedback)).length > 0,
    redact: (feedback) => {
      let text = feedback;
      for (let pass = 0; pass < 4; pass++) {
        const plain = toPlainText(text);
        const spans = find(plain);
        if (spans.length === 0) return text;
        text = blot(text, plain, [...spans, ...findMentions(plain)]);
      }
      return find(toPlainText(text)).length === 0 ? text : WITHHELD;
    },
  };
}

/** Of an answer in several parts, one part alone is a hint. What is listed behind one part is stated with it: `the answer is (2, 3)`. */
function findAnswer(finders: readonly Finder[], feedback: string): readonly Span[] {
  const found: Span[] = [];
  let open = finders.filter(({ leaks }) => {
    const spans = leaks(feedback);
    found.push(...spans);
    return spans.length === 0;
  });
  for (let numOpen = 0; open.length > 0 && found.length > 0 && numOpen !== open.length; ) {
    numOpen = open.length;
    open = open.filter(({ mentions }) => {
      const listed = mentions(feedback).filter((span) => found.some((before) => isListed(feedback, before, span)));
      found.push(...listed);
      return listed.length === 0;
    });
  }
  return open.length === 0 ? found : [];
}

/** Whether nothing but the signs of a list, or a name, stands between the two. */
function isListed(text: string, before: Span, { start }: Span): boolean {
  const between = text.slice(before.end, Math.min(start, before.end + 16));
  return start >= before.end && /^[\s)}\]]*(?:,|;|and|or|,\s*and|,\s*or)[\s({[]*(?:[a-z]\s*=\s*)?$/.test(between);
}

/**
 * Every way in which the reference may be stating its answer, as none of them is sure to be the one that counts; none at all when
 * the student has found it.
 */
function guardedAnswers(reference: string, solution: string, format: AnswerFormat): readonly (readonly AnswerPart[])[] {
  const found = studentAnswers(solution, format);
  const isFound = (readings: readonly (readonly AnswerPart[])[]): boolean =>
    readings.some((parts) => found.some((other) => isSameAnswer(parts, other, isSameValue)));
  const [main, ...others] = Array.from(findStatements(reference, format), ({ kind, text }) => ({
    kind,
    readings: readAnswer(text),
  }));
  if (main === undefined || isFound(main.readings)) return [];
  // Further up, `P = 1 - 1/4` is a step; and how a text ends means little where its answer has been announced.
  const further = others
    .filter(({ kind, readings }) => kind !== 'line' && !isFound(readings))
    .flatMap(({ kind, readings }) =>
      kind === 'unknown' ? readings.filter((parts) => parts.every((part) => part.kind === 'value')) : readings,
    );
  const answers = [...main.readings, ...further];
  return answers.filter(
    (parts, index) => !answers.slice(0, index).some((other) => isSameAnswer(parts, other, isSameValue)),
  );
}

/** What the student puts forward as the answer; a number that the text only ends with (`Check: 10 - 5 = 5`) is none. */
function studentAnswers(solution: string, format: AnswerFormat): readonly (readonly AnswerPart[])[] {
  const isAlone = format.kind === 'last_line' || !solution.trim().includes('\n');
  const isMeant = ({ kind, text }: AnswerStatement): boolean =>
    kind !== 'line' || (isAlone && solution.trimEnd().endsWith(text) && !solution.includes('='));
  for (const statement of findStatements(solution, format)) if (isMeant(statement)) return readAnswer(statement.text);
  return [];
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

interface Finder {
  /** Where the feedback gives it away. */
  leaks(feedback: string): readonly Span[];
  /** Where it stands at all, but for labels and counts. */
  mentions(feedback: string): readonly Span[];
}

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

function createValueFinder(answer: AnswerPart & { kind: 'value' }, known: KnownText): Finder {
  const isAnswer = (value: WrittenValue): boolean =>
    isSameValue(value, answer) ||
    (answer.share !== undefined && isSameValue(value, { value: answer.share, numDecimals: undefined }));
  const isMentioned = findWrittenValues(known.text).some((value) => isAnswer(value) && !isLabel(known.text, value));
  const isLeak = (text: string, value: WrittenValue): boolean => {
    if (isAsserted(text, value, known)) return !isCount(text, value) || !value.isLooseWord;
    return !isMentioned && !value.isLooseWord && !isLabel(text, value) && !isAside(text, value);
  };
  // `one of them` is no number
  const isMention = (text: string, value: WrittenValue): boolean =>
    !isLabel(text, value) && !isAside(text, value) && (!value.isLooseWord || Math.abs(value.value) > 1);
  const find = (text: string): readonly WrittenValue[] =>
    findWrittenValues(text).filter((value) => isAnswer(value) && !isPieceOfLonger(text, value));
  return {
    leaks: (feedback) => find(feedback).filter((value) => isLeak(feedback, value)),
    mentions: (feedback) => find(feedback).filter((value) => isMention(feedback, value)),
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
    units.push(unit);
    places.push(index);
  }
  const silent = new Set(Array.from(units.join('').matchAll(silentProduct), ({ index }) => index));
  const isHeard = (_: unknown, index: number): boolean => !silent.has(index);
  return findUnits(units.filter(isHeard).join(''), places.filter(isHeard), needle);
}

/** `places`: of each unit of `joined` in the text. */
function findUnits(joined: string, places: readonly number[], needle: string): readonly Span[] {
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
  if (needle === '') return { leaks: () => [], mentions: () => [] };
  const isMentioned = findExpression(known.text, toExpression(needle)).length > 0;
  const isShort = needle.length < 3;
  return {
    leaks: (feedback) =>
      findExpression(feedback, needle).filter(
        (span) => isAsserted(feedback, span, known) || (!isMentioned && !isShort),
      ),
    mentions: (feedback) => (isShort ? [] : findExpression(feedback, needle)),
  };
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
  const find = (text: string): readonly Span[] =>
    [...text.matchAll(pattern)].map((match) => ({ start: match.index, end: match.index + match[0].length }));
  return {
    leaks: (feedback) =>
      find(feedback).filter((span) => isAsserted(feedback, span, known) || (!isMentioned && !isCommon)),
    mentions: (feedback) => (isCommon ? [] : find(feedback)),
  };
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
function createQuoteFinder(reference: string, known: string): (feedback: string) => readonly Span[] {
  const knownKeys = new Set(shingles(tokenize(known)).map(({ key }) => key));
  const keys = new Set(shingles(tokenize(toPlainText(reference).text)).map(({ key }) => key));
  return (feedback) => shingles(tokenize(feedback)).filter(({ key }) => keys.has(key) && !knownKeys.has(key));
}
