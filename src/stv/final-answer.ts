/** Takes the final answer out of a solution in free form, and apart into what would give it away. */
import { findStatements } from './answer-statements.ts';
import { isUnit, spellOutUnits } from './answer-units.ts';
import type { AnswerFormat } from './loop-pack.ts';
import { toPlainText } from './plain-text.ts';
import { findWrittenValues } from './written-values.ts';

/** One part of an answer: `x = 2 or x = -3` has two. */
export type AnswerPart =
  | {
      readonly kind: 'value';
      readonly value: number;
      readonly numDecimals: number | undefined;
      /** Of `50%`: 0.5. */
      readonly share?: number;
      /** Of `y = 2`: y. */
      readonly name?: string;
      /** In a pair or an interval, with its brackets: `(2, 5]` has `(]0` and `(]1`. */
      readonly place?: string;
    }
  /** Letters, digits and signs of an expression without spaces, in plain form. */
  | { readonly kind: 'expression'; readonly text: string }
  /** Words, in plain form. */
  | { readonly kind: 'words'; readonly text: string };

export type ValuePart = Extract<AnswerPart, { readonly kind: 'value' }>;

/** What is longer is no value and no name: it is looked for as it stands, by its beginning. Bounds all work on an answer. */
const MAX_ANSWER = 200;

/** How the solution states its answer: boxed, announced, behind `####`, or as the end of what it says last. */
export function findFinalAnswer(solution: string, format: AnswerFormat): string | undefined {
  for (const { text } of findStatements(solution, format)) return text;
  return undefined;
}

/** Empty when nothing of substance is left. Of several readings the first. */
export function splitAnswer(answer: string): readonly AnswerPart[] {
  return readAnswer(answer)[0] ?? [];
}

/** What ends a sentence; behind a number or a single letter `!` is a factorial. */
const sentenceEnd = /(?:[.?\s]|(?<=(?:[a-z]{2}|[\s.?])!*)!)+$/;

/** All readings: `2,3` is two answers, and where a comma stands before decimals, one; `5!` is 120 or an exclamation. */
export function readAnswer(answer: string): readonly (readonly AnswerPart[])[] {
  const exclaimed = /\d!\s*$/.test(answer.slice(-8)) ? readOne(answer.trimEnd().slice(0, -1)) : [];
  return [...readOne(answer), ...exclaimed];
}

function readOne(answer: string): readonly (readonly AnswerPart[])[] {
  if (answer.length > MAX_ANSWER) {
    const text = toExpression(toPlainText(answer.slice(0, MAX_ANSWER)).text);
    return text === '' ? [] : [[{ kind: 'expression', text }]];
  }
  const plain = spellOutUnits(toPlainText(answer), answer).replace(sentenceEnd, '').trim();
  const unboxed = plain.replace(/^\\boxed\{(.*)\}$/s, '$1');
  const unwrapped = unboxed.replace(/^[a-z]\s*(?:(?:∈|\\in)\s*|=\s*(?=\\?[({[].*[)}\]]$))/s, '');
  const unnamed = unwrapped.replace(/^[a-z]\s*=\s*/, '');
  // `1,250` is one number: a value that takes in the whole text comes first
  const whole = toPart(unwrapped);
  const isList = isDecimalCommaOrList(unnamed);
  if (whole?.kind === 'value' && !isList) return [[whole]];
  const readings = [toList(unwrapped), whole && [whole]];
  // nobody writes a list as `0,5`
  if (/^[-+]?\s?0,/.test(unnamed)) readings.reverse();
  return readings.filter((reading) => reading !== undefined).slice(0, isList ? 2 : 1);
}

/** `2,3`, with or without a sign; not `1,250`, and not `2,3 kg`, which is one length. */
function isDecimalCommaOrList(text: string): boolean {
  return /^[-+]?\s?\d+,\d+$/.test(text) && !/^[-+]?\s?\d{1,3},\d{3}$/.test(text);
}

function toList(text: string): readonly AnswerPart[] | undefined {
  const [, open = '', inside = text, close = ''] = /^\\?([({[])(.*?)\\?([)}\]])$/s.exec(text) ?? [];
  const isOrdered = /[([]/.test(open) && /[)\]]/.test(close);
  const pieces = inside
    .split(/\s*(?:;|,(?=\s)|,|\band\b|\bor\b|∪|\\cup)\s*/)
    .filter((piece) => piece.trim() !== '')
    .flatMap((piece) => (isOrdered ? [piece] : bothSigns(piece)));
  if (pieces.length <= 1 || pieces.length > 12) return undefined;
  const parts = pieces.map(toPart).filter((part) => part !== undefined);
  if (parts.length !== pieces.length || !parts.every(isValue)) return undefined;
  return isOrdered ? parts.map((part, index) => ({ ...part, place: `${open}${close}${index}` })) : parts;
}

/** `x = ±3` is `x = 3` and `x = -3`. */
function bothSigns(piece: string): readonly string[] {
  const [signed, head = ''] = /^(\s*(?:[a-z](?:_\{?\d\}?)?\s*=\s*)?)±/.exec(piece) ?? [];
  if (signed === undefined) return [piece];
  const size = piece.slice(signed.length);
  return [head + size, `${head}-${size}`];
}

function isValue(part: AnswerPart): part is ValuePart {
  return part.kind === 'value';
}

/**
 * Whether two answers have the same parts, in any order but for what has a place or one of several names. `isSame` compares values.
 */
export function isSameAnswer(
  a: readonly AnswerPart[],
  b: readonly AnswerPart[],
  isSame: (a: ValuePart, b: ValuePart) => boolean,
): boolean {
  if (a.length === 0 || a.length !== b.length) return false;
  const areNamed = [a, b].every((parts) => new Set(parts.flatMap(namesOf)).size > 1);
  const left = [...b];
  for (const part of a) {
    const found = left.findIndex((other) => {
      if (!isValue(part) || !isValue(other)) return !isValue(part) && !isValue(other) && part.text === other.text;
      return (!areNamed || agree(part.name, other.name)) && agree(part.place, other.place) && isSame(part, other);
    });
    if (found === -1) return false;
    left.splice(found, 1);
  }
  return true;
}

function namesOf(part: AnswerPart): readonly string[] {
  return isValue(part) && part.name !== undefined ? [part.name] : [];
}

function agree(a: string | undefined, b: string | undefined): boolean {
  return a === undefined || b === undefined || a === b;
}

function toPart(piece: string): AnswerPart | undefined {
  const [head = '', name] = /^\s*([a-z])(?:_\{?\d\}?)?\s*=/.exec(piece) ?? [];
  const text = piece
    .slice(head.length)
    .trim()
    .replace(/^(?:about|approximately|≈)\s*/, '')
    .replace(/^\{+([^{},;]*)\}+$/, '$1') // what a text command leaves; `{2,5}` is a set
    .trim()
    .replace(/^[([]([a-z])[)\]]$/, '$1');
  if (text === '') return undefined;
  const isBoth = text.startsWith('±');
  const value = findWrittenValues(text)
    .filter(({ start, end }) => !isBoth && start === 0 && (end === text.length || isUnit(text.slice(end))))
    .sort((a, b) => b.end - a.end)[0];
  if (value !== undefined) {
    const share = /(?:%|percent)$/.test(text) ? { share: value.value / 100 } : {};
    const named = name === undefined ? {} : { name };
    return { kind: 'value', value: value.value, numDecimals: value.numDecimals, ...share, ...named };
  }
  if (/^[a-z][a-z' -]+$/.test(text)) return { kind: 'words', text: text.replaceAll(/\s+/g, ' ') };
  return { kind: 'expression', text: toExpression(text) };
}

/** A multiplication sign that need not be written: `2*x`, `2*(`, `)*(`; not `2*5`. */
export const silentProduct = /(?<=\w)\*(?=[a-zπ_(])|(?<=[a-zπ)])\*(?=[\w(])/g;

/** Without spaces, brackets of single groups and multiplication signs, so that ways of setting an expression agree. */
export function toExpression(plain: string): string {
  return plain
    .replaceAll(/\\frac\{([^{}]*)\}\{([^{}]*)\}/g, '$1/$2')
    .replaceAll(/\^\{([^{}]*)\}/g, '^$1')
    .replaceAll(/\*\*/g, '^')
    .replaceAll(/[\s{}\\]/g, '')
    .replaceAll(silentProduct, '');
}
