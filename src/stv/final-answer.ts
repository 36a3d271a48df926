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
    }
  /** Letters, digits and signs of an expression without spaces, in plain form. */
  | { readonly kind: 'expression'; readonly text: string }
  /** Words, in plain form. */
  | { readonly kind: 'words'; readonly text: string };

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
  const unwrapped = plain.replace(/^\\boxed\{(.*)\}$/s, '$1').replace(/^([a-z]\s*(?:=|∈|\\in)\s*)/, '');
  // `1,250` is one number: a value that takes in the whole text comes first
  const whole = toPart(unwrapped);
  const isList = isDecimalCommaOrList(unwrapped);
  if (whole?.kind === 'value' && !isList) return [[whole]];
  const readings = [toList(unwrapped), whole && [whole]];
  // nobody writes a list as `0,5`
  if (/^[-+]?\s?0,/.test(unwrapped)) readings.reverse();
  return readings.filter((reading) => reading !== undefined).slice(0, isList ? 2 : 1);
}

/** `2,3`, with or without a sign; not `1,250`, and not `2,3 kg`, which is one length. */
function isDecimalCommaOrList(text: string): boolean {
  return /^[-+]?\s?\d+,\d+$/.test(text) && !/^[-+]?\s?\d{1,3},\d{3}$/.test(text);
}

function toList(text: string): readonly AnswerPart[] | undefined {
  const inside = text.replace(/^(?:\\?[({[])(.*)(?:\\?[)}\]])$/s, '$1');
  const pieces = inside.split(/\s*(?:;|,(?=\s)|,|\band\b|\bor\b|∪|\\cup)\s*/).filter((piece) => piece.trim() !== '');
  if (pieces.length <= 1 || pieces.length > 12) return undefined;
  const parts = pieces.map(toPart).filter((part) => part !== undefined);
  return parts.length === pieces.length && parts.every((part) => part.kind === 'value') ? parts : undefined;
}

function toPart(piece: string): AnswerPart | undefined {
  const text = piece
    .trim()
    .replace(/^[a-z](?:_\{?\d\}?)?\s*=\s*/, '')
    .replace(/^(?:about|approximately|≈)\s*/, '');
  if (text === '') return undefined;
  const value = findWrittenValues(text)
    .filter(({ start, end }) => start === 0 && (end === text.length || isUnit(text.slice(end))))
    .sort((a, b) => b.end - a.end)[0];
  if (value !== undefined) {
    const share = /(?:%|percent)$/.test(text) ? { share: value.value / 100 } : {};
    return { kind: 'value', value: value.value, numDecimals: value.numDecimals, ...share };
  }
  if (/^[a-z][a-z' -]+$/.test(text)) return { kind: 'words', text: text.replaceAll(/\s+/g, ' ') };
  return { kind: 'expression', text: toExpression(text) };
}

/** Without spaces, brackets of single groups and multiplication signs, so that ways of setting an expression agree. */
export function toExpression(plain: string): string {
  return plain
    .replaceAll(/\\frac\{([^{}]*)\}\{([^{}]*)\}/g, '$1/$2')
    .replaceAll(/\^\{([^{}]*)\}/g, '^$1')
    .replaceAll(/\*\*/g, '^')
    .replaceAll(/(?<=[\w)])\*(?=[\w(])/g, '')
    .replaceAll(/[\s{}\\]/g, '');
}
