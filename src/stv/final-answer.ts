/** Takes the final answer out of a solution in free form, and apart into what would give it away. */
import { createAnswerExtractor, lastBoxed } from './answer.ts';
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

const announced = /(?:^|[\s*(])(?:final\s+answer|answer|solution|result)\s*(?:is|are|=|:)+[\s*:]*([^\n]+)/gi;

/** How the solution states its answer: boxed, announced, behind `####`, or as the end of its last line. */
export function findFinalAnswer(solution: string, format: AnswerFormat): string | undefined {
  const boxed = lastBoxed(solution);
  if (boxed !== undefined) return boxed;
  if (format.kind === 'pattern') {
    const matched = createAnswerExtractor(format)(solution);
    if (matched !== undefined) return matched;
  }
  const marked = behindHashes(solution.trimEnd());
  if (marked !== undefined) return marked;
  const lastAnnounced = [...solution.matchAll(announced)].at(-1)?.[1];
  if (lastAnnounced !== undefined) return firstSentence(lastAnnounced);
  const line = solution.trimEnd().split('\n').at(-1)?.trim() ?? '';
  const afterEquals = line.slice(line.lastIndexOf('=') + 1).trim();
  if (line.includes('=') && afterEquals !== '') {
    // `x = 2 or x = -3`: all of it, not what follows the last sign
    return /\b(?:or|and)\b|[;,]\s*[a-z]\s*=/i.test(line) ? firstSentence(line) : firstSentence(afterEquals);
  }
  if (line === '') return undefined;
  if (line.length <= 40) return firstSentence(line);
  const plain = toPlainText(line.slice(-400));
  const last = findWrittenValues(plain.text).at(-1);
  return last === undefined ? undefined : plain.text.slice(last.start, last.end);
}

/** `#### 42` with nothing on the lines below, as GSM8K ends its solutions. */
function behindHashes(solution: string): string | undefined {
  const at = solution.lastIndexOf('####');
  const marked = at === -1 ? '' : solution.slice(at + '####'.length).trimStart();
  return marked === '' || marked.includes('\n') ? undefined : marked;
}

function firstSentence(text: string): string {
  return text
    .replace(/(?:[.!?](?=\s|$)).*$/s, '')
    .replaceAll(/[*`$]+/g, '')
    .trim();
}

/** Words behind a number that only say what it counts. */
const unitWords = /^\s*(?:[a-zµ°²³/^][a-zµ°²³/^0-9.]*(?:\s+|$)){1,4}$/;

/** Empty when nothing of substance is left. */
export function splitAnswer(answer: string): readonly AnswerPart[] {
  if (answer.length > MAX_ANSWER) {
    const text = toExpression(toPlainText(answer.slice(0, MAX_ANSWER)).text);
    return text === '' ? [] : [{ kind: 'expression', text }];
  }
  const plain = toPlainText(answer)
    .text.replaceAll(/[.!?]+\s*$/g, '')
    .trim();
  const unwrapped = plain.replace(/^\\boxed\{(.*)\}$/s, '$1').replace(/^([a-z]\s*(?:=|∈|\\in)\s*)/, '');
  // `1,250` is one number: a value that takes in the whole text comes first
  const whole = toPart(unwrapped);
  if (whole?.kind === 'value') return [whole];
  const inside = unwrapped.replace(/^(?:\\?[({[])(.*)(?:\\?[)}\]])$/s, '$1');
  const pieces = inside.split(/\s*(?:;|,(?=\s)|,|\band\b|\bor\b|∪|\\cup)\s*/).filter((piece) => piece.trim() !== '');
  if (pieces.length > 1 && pieces.length <= 12) {
    const parts = pieces.map(toPart).filter((part) => part !== undefined);
    if (parts.length === pieces.length && parts.every((part) => part.kind === 'value')) return parts;
  }
  return whole === undefined ? [] : [whole];
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

function isUnit(rest: string): boolean {
  // `2x` is an expression, `2 m` and `2 km/h` are lengths and speeds
  return (
    unitWords.test(rest.replaceAll(/[{}]/g, '')) &&
    // `72 or 73` is two answers
    !/\b(?:or|and)\b/.test(rest) &&
    !/^[a-z](?:$|[\^+\-*/=\d])/.test(rest.trimStart() === rest ? rest : '')
  );
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
