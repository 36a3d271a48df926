/**
 * Every function of the loop that reads texts of callers or of a model, with texts made to keep a pattern busy: long runs and
 * repetitions of what its patterns look for, each with an end that makes the match fail. A text as long as the API allows must
 * not hold up the event loop.
 */
import { describe, expect, it } from 'vitest';
import { createAnswerExtractor } from '../../src/stv/answer.ts';
import { findFinalAnswer, splitAnswer } from '../../src/stv/final-answer.ts';
import { locateFromFeedback } from '../../src/stv/first-error.ts';
import { createLeakGuard } from '../../src/stv/leak-guard.ts';
import { toPlainText } from '../../src/stv/plain-text.ts';
import { ReasoningSplitter } from '../../src/stv/reasoning.ts';
import { splitSteps } from '../../src/stv/steps.ts';
import { findWrittenValues } from '../../src/stv/written-values.ts';

/** A quarter of what a text may hold: the least at which a quadratic pattern (10^8 places to try) shows above a linear one. */
const LENGTH = 16_384;
const MAX_MS = 200;
const MAX_GROWTH = 9;

const pieces = [
  ...['a', ' ', '\n', '\t', '.', '!', '#', '=', ',', ';', ':', '-', '*', '/', '^', '1', '½', '²', '−', '٣', '%', 'é'],
  ...['{', '}', '(', ')', '[', ']', '\\', '$', '`', '"', '“', '_', '\\{', '\\(', '\\[', '$$', '```', '````'],
  ...['a ', '1 ', '1.', '1,', '1, ', '1/', '1^', '1e', '(1', '{1', '-1', '1 1/1 ', '1000,', ' ½', '1½', 'x = ', 'x=1 '],
  ...[
    '\\boxed{',
    '\\boxed ',
    '\\frac{',
    '\\frac11',
    '\\frac{1}',
    '\\sqrt',
    '\\sqrt{',
    '\\pi',
    '√',
    '2π',
    '\\text{',
    '^\\circ',
  ],
  ...['one ', 'one-', 'one and ', 'a hundred ', 'minus ', 'a half ', 'one point ', 'square root of ', 'over '],
  ...[
    'answer is ',
    'answer ',
    'final ',
    'final answer: ',
    'the answer is not ',
    'exactly ',
    'or ',
    'and ',
    '####',
    '#### ',
  ],
  ...[
    'step ',
    'step 1 ',
    'Step 1: ',
    'Step 2:',
    'from step ',
    'step (',
    'line no. ',
    'first ',
    'last step ',
    '1. ',
    '1)\n',
    '- ',
  ],
  ...[
    'not ',
    'no ',
    'no errors ',
    'without ',
    'but ',
    ', but ',
    '; ',
    'is wrong. ',
    'should ',
    "n't ",
    '\\begin{a}',
    '\\end{a}\n',
  ],
];

function fill(piece: string, length: number): string {
  return piece.repeat(Math.ceil(length / piece.length)).slice(0, length);
}

/** Runs of one piece and blocks of two kinds one behind the other, open and with an end that fits nothing. */
function* hostileTexts(length: number): Generator<string> {
  for (const [index, piece] of pieces.entries()) {
    for (const head of ['', '\\boxed{2 ']) yield `${head}${fill(piece, length - head.length - 4)}~#}`;
    yield fill(piece, length);
    const other = pieces[(index * 31 + 7) % pieces.length] ?? '';
    yield `${fill(piece, length / 2)}${fill(' ', length / 2 - 3)}\nb~`;
    yield `${fill(other, length / 2)}${fill(piece, length / 2 - 1)}~`;
  }
}

/** Least processor time of some tries, in ms: what else the machine does only ever adds to it. */
function leastMs(read: () => unknown, tries: number): number {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < tries; i++) {
    const begun = process.cpuUsage();
    read();
    least = Math.min(least, process.cpuUsage(begun).user / 1000);
  }
  return least;
}

/**
 * The first text with which reading takes long and grows faster than the text does. A slow machine alone is no finding: a text four
 * times as long takes about 4 times as long where a pattern is linear, 16 times where it is quadratic.
 */
function slowText(length: number, read: (text: string) => unknown): string | undefined {
  const shorter = hostileTexts(length / 4);
  for (const text of hostileTexts(length)) {
    const quarter = shorter.next().value as string;
    if (leastMs(() => read(text), 1) <= MAX_MS) continue;
    const ms = leastMs(() => read(text), 3);
    if (ms <= MAX_MS) continue;
    const growth = ms / leastMs(() => read(quarter), 5);
    if (growth > MAX_GROWTH || ms > 10 * MAX_MS)
      return `${ms} ms, ${growth} times a quarter: ${text.slice(0, 40)} … ${text.slice(-20)}`;
  }
  return undefined;
}

const boxed = { kind: 'boxed' } as const;
const steps = splitSteps('Step 1: x = 2\nStep 2: x = 3');
const manySteps = splitSteps(Array.from({ length: 300 }, (_, index) => `Step ${index + 1}: ${index}x = 2`).join('\n'));
const readers: readonly (readonly [name: string, length: number, read: (text: string) => unknown])[] = [
  ['toPlainText', 4 * LENGTH, (text) => toPlainText(text)],
  ['findWrittenValues', LENGTH, (text) => findWrittenValues(toPlainText(text).text)],
  ['findFinalAnswer', LENGTH, (text) => findFinalAnswer(text, boxed)],
  ['splitAnswer', LENGTH, (text) => splitAnswer(text)],
  ['splitAnswer of what a short answer may hold', 200, (text) => splitAnswer(text)],
  ['the answer of an attempt', LENGTH, (text) => createAnswerExtractor(boxed)(text)],
  ['splitSteps', LENGTH, (text) => splitSteps(text)],
  ['locateFromFeedback', LENGTH, (text) => locateFromFeedback(text, steps)],
  ['locateFromFeedback in many steps', LENGTH, (text) => locateFromFeedback(text, manySteps)],
  ['reasoning', LENGTH, (text) => new ReasoningSplitter({ open: '<think>', close: '</think>' }).push(text)],
  ['a guard on a hostile reference', LENGTH, (reference) => guard({ reference }).leaks('The answer is 5.')],
  ['a guard on a hostile problem', LENGTH, (problem) => guard({ problem }).leaks('The answer is 5.')],
  ['a guard on a hostile solution', LENGTH, (solution) => guard({ solution }).leaks('The answer is 5.')],
  ['a guard on hostile feedback about a number', LENGTH, (text) => guard({}).redact(text)],
  ['… about an expression', LENGTH, (text) => guard({ reference: '\\boxed{x^2+1}' }).redact(text)],
  ['… about words', LENGTH, (text) => guard({ reference: '\\boxed{a b a b a}' }).redact(text)],
];

function guard(texts: { readonly reference?: string; readonly problem?: string; readonly solution?: string }) {
  return createLeakGuard({ reference: 'So x = 5', problem: 'Solve x - 1 = 4', solution: 'x = 3', ...texts }, boxed);
}

describe('no text keeps a pattern busy', () => {
  it.each(readers)(
    '%s (%i characters)',
    (_, length, read) => {
      expect(slowText(length, read)).toBeUndefined();
    },
    120_000,
  );

  it('a reference with any number of words makes no pattern that cannot be built', () => {
    for (const count of [2, 60, 12_000]) {
      const words = fill('ab cd ', count * 3);
      expect(guard({ reference: `\\boxed{${words}}` }).leaks('Look at line 1.')).toBe(false);
    }
  });
});
