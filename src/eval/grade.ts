/** Whether a final answer is the right one, however it is written: by value for numbers, by plain form for the rest. */
import { type AnswerPart, isSameAnswer, splitAnswer, type ValuePart } from '../stv/final-answer.ts';

/**
 * Sets of answers (`2 or -3`) agree in any order. A number that the key gives rounded (`3.14`, two decimals or more) is met by a
 * more exact one; an exact key (`1/3`) by a decimal of at least four places.
 */
export function isRightAnswer(given: string | null, key: string): boolean {
  if (given === null) return false;
  if (given.trim() === key.trim()) return true;
  return isSameAnswer(partsOf(given), partsOf(key), isRightValue);
}

/** Between alternatives; `1 and 1/2` is one number. */
const between = /\\text\s*\{\s*(?:or|and)\s*\}|\bor\b|\band\b(?!\s+\d+\s*\/)/i;

function partsOf(answer: string): readonly AnswerPart[] {
  return answer.split(between).flatMap((piece) => splitAnswer(piece));
}

function isRightValue(given: ValuePart, key: ValuePart): boolean {
  if (Math.abs(given.value - key.value) <= 1e-9 * Math.max(1, Math.abs(key.value))) return true;
  const isMoreExact =
    key.numDecimals !== undefined && (given.numDecimals ?? Number.POSITIVE_INFINITY) > key.numDecimals;
  if (isMoreExact && (key.numDecimals ?? 0) >= 2) return isRounded(given.value, key.value, key.numDecimals ?? 0);
  const isExactKey = key.numDecimals === undefined && !Number.isInteger(key.value);
  return isExactKey && (given.numDecimals ?? 0) >= 4 && isRounded(key.value, given.value, given.numDecimals ?? 0);
}

/** Whether `rounded` is `exact` to so many decimals. */
function isRounded(exact: number, rounded: number, numDecimals: number): boolean {
  return Math.abs(exact - rounded) <= 0.5 * 10 ** -numDecimals * (1 + 1e-9);
}
