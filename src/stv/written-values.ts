/**
 * Finds the numbers that a text states, in whatever form they are written: digits with separators, decimals, fractions, mixed
 * numbers, percent, powers of ten, roots, multiples of pi, LaTeX, words. Works on the plain form of `plain-text.ts`.
 */

import { numberWords, valueOfWords } from './number-words.ts';

export interface WrittenValue {
  /** Offsets in the plain text. */
  readonly start: number;
  readonly end: number;
  readonly value: number;
  /** Digits behind the point of a plain decimal; undefined when the form is exact. */
  readonly numDecimals: number | undefined;
  /** A small number in words, which may well not be meant as one (`one of the steps`). */
  readonly isLooseWord: boolean;
}

interface Parsed {
  readonly end: number;
  readonly value: number;
  readonly numDecimals?: number | undefined;
}

/** No written value is longer; bounds the work per place. */
const MAX_LENGTH = 120;

/** More than any feedback states: what bounds the work on a text made of nothing but numbers. */
const MAX_VALUES = 4_096;

/** All readings, overlapping ones included: `1,250` is a thousand and some, and 1 and 250 as well. */
export function findWrittenValues(text: string): readonly WrittenValue[] {
  const found: WrittenValue[] = [];
  const add = (start: number, parsed: Parsed, isLooseWord = false): void => {
    if (!Number.isFinite(parsed.value)) return;
    found.push({ start, end: parsed.end, value: parsed.value, numDecimals: parsed.numDecimals, isLooseWord });
  };
  for (const match of text.matchAll(valueStart)) {
    if (found.length >= MAX_VALUES) break;
    const start = match.index;
    const before = text[start - 1] ?? '';
    // inside a number; behind a point only if that ends a sentence
    if (isDigit(before) || (before === '.' && isDigit(text[start - 2] ?? ''))) continue;
    const window = text.slice(start, start + MAX_LENGTH);
    for (const parsed of readings(window)) {
      for (const reading of withSuffix(window, parsed)) {
        const value = { ...reading, end: start + reading.end };
        const [signStart, signs] = signBefore(text, start);
        for (const sign of signs) add(signStart, { ...value, value: sign * value.value });
        if (signs[0] === -1 && isOperation(text, signStart, start)) add(start, value);
      }
    }
  }
  for (const match of text.matchAll(numberWords)) {
    if (found.length >= MAX_VALUES) break;
    const value = valueOfWords(match[0]);
    if (value === undefined) continue;
    const isSingle = !/[\s-]/.test(match[0].trim());
    add(match.index, { end: match.index + match[0].length, value }, isSingle && Math.abs(value) <= 12);
  }
  return found;
}

const valueStart = /\d|\.\d|\\frac|\\sqrt|√|π|\bpi\b|\bsqrt\b|square root|[({](?=\s{0,4}-?\s{0,4}[\d\\√π])/g;

/** What may follow a number and make more of it; most numbers stand alone, and are done with at one look. */
const continued = /^\s*(?:[.,'_/*^(√π…]|\\frac|\\sqrt|\\overline|sqrt|pi\b|over\b|and\s+\d|\d)/;

function isDigit(unit: string): boolean {
  return unit >= '0' && unit <= '9' && unit.length === 1;
}

/** All readings of what begins at the head of `window`. */
function readings(window: string): readonly Parsed[] {
  const digits = /^\d+/.exec(window)?.[0];
  if (digits !== undefined && !continued.test(window.slice(digits.length))) {
    return [{ end: digits.length, value: Number(digits), numDecimals: undefined }];
  }
  const product = parseProduct(window, 0);
  if (window.startsWith('(') || window.startsWith('{')) {
    // a bracket alone adds nothing to what stands in it
    const group = parseArgument(window, 0, /^(?!)/);
    return product !== undefined && group !== undefined && product.end > group.end ? [product] : [];
  }
  return product === undefined ? parseNumbers(window, 0) : [...parseNumbers(window, 0), product];
}

/** Where the sign directly in front begins, and what it makes of the value: `±` both. */
function signBefore(text: string, start: number): readonly [number, readonly number[]] {
  const before = /(?:(?:\b(?:minus|negative)\s+)|[-+±]\s?)$/.exec(text.slice(Math.max(0, start - 12), start));
  if (before === null) return [start, [1]];
  const signStart = start - before[0].length;
  if (before[0].startsWith('±')) return [signStart, [1, -1]];
  return [signStart, [before[0].startsWith('+') ? 1 : -1]];
}

/** Behind these words a minus is a sign: `x is - 3`, `x is minus 3`. */
const beforeSign = /\b(?:is|are|was|be|equals?|gives?|gets?|got|to|of|than|by|and|or|not)$/;

/**
 * Whether the minus may as well be an operation or a dash, so that the number behind it is stated without it: `4 - 3`, `x - 3`,
 * `the root – 3`, `- 3` as an item of a list. In `x = -3` and `it is -3` it is a sign.
 */
function isOperation(text: string, signStart: number, start: number): boolean {
  const head = text.slice(Math.max(0, signStart - 24), signStart);
  const before = head.trimEnd();
  if (/\n/.test(head.slice(before.length)) || before === '') return /\s$/.test(text.slice(signStart, start));
  if (/[\d)\]}π%!]$|(?:^|[^a-z])[a-z]$/.test(before)) return true;
  const isSpaced = before.length < head.length;
  const isDash = isSpaced === /\s$/.test(text.slice(signStart, start));
  return isDash && /[a-z]$/.test(before) && !beforeSign.test(before);
}

/** `50%` states 50 and 0.5; `1.5e3` and `1.5 * 10^3` state 1500. */
function withSuffix(text: string, parsed: Parsed): readonly Parsed[] {
  const rest = text.slice(parsed.end);
  const percent = /^\s*(?:%|percent\b|per cent\b)/.exec(rest);
  if (percent !== null) {
    const end = parsed.end + percent[0].length;
    return [
      { ...parsed, end },
      {
        end,
        value: parsed.value / 100,
        numDecimals: parsed.numDecimals === undefined ? undefined : parsed.numDecimals + 2,
      },
    ];
  }
  const scientific = /^e([-+]?\d{1,3})(?!\d|\.\d)/.exec(rest);
  if (scientific !== null) {
    const value = Number(`${parsed.value}e${scientific[1]}`);
    return [{ end: parsed.end + scientific[0].length, value }];
  }
  return [parsed];
}

/** Every plain reading of the digits at `start`. */
function parseNumbers(text: string, start: number): readonly Parsed[] {
  const rest = text.slice(start);
  const readings: Parsed[] = [];
  const read = (pattern: RegExp, toNumber: (match: RegExpExecArray) => Parsed | undefined): void => {
    const match = pattern.exec(rest);
    const parsed = match === null ? undefined : toNumber(match);
    if (parsed !== undefined) readings.push({ ...parsed, end: start + parsed.end });
  };
  read(/^\d{1,3}(?:([, '_])\d{3})(?:\1\d{3})*(?:\.(\d+))?(?!\d)/, (match) => ({
    end: match[0].length,
    value: Number(match[0].replaceAll(/[, '_]/g, '')),
    numDecimals: match[2]?.length,
  }));
  read(/^\d{1,3}(?:\.\d{3}){2,}(?![\d,])/, (match) => ({
    end: match[0].length,
    value: Number(match[0].replaceAll('.', '')),
  }));
  read(/^\d{1,3}(?:\.\d{3})+,(\d+)(?!\d)/, (match) => ({
    end: match[0].length,
    value: Number(match[0].replaceAll('.', '').replace(',', '.')),
    numDecimals: match[1]?.length,
  }));
  // a decimal comma, unless it separates groups of three
  read(/^(\d+),(\d+)(?![\d,])/, (match) =>
    match[2]?.length === 3
      ? undefined
      : { end: match[0].length, value: Number(`${match[1]}.${match[2]}`), numDecimals: match[2]?.length },
  );
  read(/^(\d*)\.(\d*)(?:\\overline\{?(\d{1,6})\}?|\((\d{1,6})\))/, (match) => ({
    end: match[0].length,
    value: repeatingDecimal(match[1] ?? '', match[2] ?? '', match[3] ?? match[4] ?? ''),
  }));
  read(/^\d*\.?\d+(?:\.{3}|…)?/, (match) => {
    const digits = match[0].replace(/\.{3}|…/, '');
    const point = digits.indexOf('.');
    return {
      end: match[0].length,
      value: Number(digits),
      numDecimals: point === -1 ? undefined : digits.length - point - 1,
    };
  });
  return readings;
}

function repeatingDecimal(whole: string, fixed: string, repeated: string): number {
  const nines = 10 ** repeated.length - 1;
  return Number(`${whole || '0'}.${fixed || '0'}`) + Number(repeated) / nines / 10 ** fixed.length;
}

/**
 * Products and quotients that are a way of writing a number: `3\sqrt{2}/2`, `2π`, `1 1/2`, `6 * 10^3`. `3 * 4` is something to
 * be computed, and so is a sum.
 */
function parseProduct(text: string, start: number): Parsed | undefined {
  const mixed = parseMixed(text, start);
  if (mixed !== undefined) return mixed;
  const first = parsePower(text, start);
  if (first === undefined) return undefined;
  let { value, end } = first;
  for (let count = 0; count < 8; count++) {
    const operator = /^\s*(?:(\*|\/|over\b)\s*|(?=\\sqrt|√|sqrt\b|π|pi\b|\\frac))/.exec(text.slice(end));
    if (operator === null) break;
    const from = end + operator[0].length;
    const next = parsePower(text, from);
    if (next === undefined) break;
    const multiplies = operator[1] === '*' || operator[1] === undefined;
    if (multiplies && Number.isInteger(value) && Number.isInteger(next.value) && !/^10\s*\^/.test(text.slice(from)))
      break;
    value = multiplies ? value * next.value : value / next.value;
    end = next.end;
  }
  return { value, end };
}

/** `1 1/2`, `1 and 1/2`, `1\frac{1}{2}`. */
function parseMixed(text: string, start: number): Parsed | undefined {
  const match =
    /^(\d{1,6})(?:\s+and\s+|\s+|(?=\\frac))(?:(\d{1,6})\s*\/\s*(\d{1,6})(?!\d)|\\frac\s*\{?\s*(\d+)\s*\}?\s*\{?\s*(\d+)\s*\}?)/.exec(
      text.slice(start),
    );
  if (match === null) return undefined;
  const above = Number(match[2] ?? match[4]);
  const below = Number(match[3] ?? match[5]);
  return { value: Number(match[1]) + above / below, end: start + match[0].length };
}

function parsePower(text: string, start: number): Parsed | undefined {
  const base = parseFactor(text, start);
  if (base === undefined) return undefined;
  const power = /^\s*\^\s*(?:\{\s*(-?\d{1,4})\s*\}|\(\s*(-?\d{1,4})\s*\)|(-?\d{1,4}))/.exec(text.slice(base.end));
  if (power === null) return base;
  return { value: base.value ** Number(power[1] ?? power[2] ?? power[3]), end: base.end + power[0].length };
}

function parseFactor(text: string, at: number): Parsed | undefined {
  const start = at + (/^\s*/.exec(text.slice(at))?.[0].length ?? 0);
  const rest = text.slice(start);
  if (rest.startsWith('\\frac')) {
    const above = parseArgument(text, start + '\\frac'.length, /^\s*\d/);
    const below = above && parseArgument(text, above.end, /^\s*\d/);
    return above && below && { value: above.value / below.value, end: below.end };
  }
  const root = /^(?:\\sqrt|sqrt|√|square root of)\s*(?:\[(\d)\])?/.exec(rest);
  if (root !== null) {
    const inside = parseArgument(text, start + root[0].length, /^\s*\d+(?:\.\d+)?/);
    return inside && { value: inside.value ** (1 / Number(root[1] ?? 2)), end: inside.end };
  }
  const pi = /^(?:π|pi\b)/.exec(rest);
  if (pi !== null) return { value: Math.PI, end: start + pi[0].length };
  if (rest.startsWith('(') || rest.startsWith('{')) return parseArgument(text, start, /^(?!)/);
  const sign = /^-\s*(?=[\d.\\√π])/.exec(rest);
  if (sign !== null) {
    const inner = parseFactor(text, start + sign[0].length);
    return inner && { value: -inner.value, end: inner.end };
  }
  return parseNumbers(text, start)[0];
}

/** `{…}` or `(…)` around one product; without brackets the digits that `bare` takes (behind \frac a single one, as LaTeX does). */
function parseArgument(text: string, start: number, bare: RegExp): Parsed | undefined {
  const open = /^\s*[{(]/.exec(text.slice(start));
  if (open === null) {
    const digits = bare.exec(text.slice(start));
    return digits === null ? undefined : { value: Number(digits[0]), end: start + digits[0].length };
  }
  const inner = parseProduct(text, start + open[0].length);
  const close = inner && /^\s*[})]/.exec(text.slice(inner.end));
  return inner && close ? { value: inner.value, end: inner.end + close[0].length } : undefined;
}

/** Equal up to rounding errors, or one a rounding of the other to at least two decimals. */
export function isSameValue(
  a: { readonly value: number; readonly numDecimals: number | undefined },
  b: { readonly value: number; readonly numDecimals: number | undefined },
): boolean {
  const difference = Math.abs(a.value - b.value);
  if (difference <= 1e-9 * Math.max(1, Math.abs(a.value), Math.abs(b.value))) return true;
  return isRoundingOf(a, b.value) || isRoundingOf(b, a.value);
}

function isRoundingOf(
  rounded: { readonly value: number; readonly numDecimals: number | undefined },
  exact: number,
): boolean {
  const { numDecimals } = rounded;
  if (numDecimals === undefined || numDecimals < 2) return false;
  // rounded to nearest or cut off
  const scaled = exact * 10 ** numDecimals;
  const target = Math.round(rounded.value * 10 ** numDecimals);
  return Math.abs(target) >= 10 && (Math.round(scaled) === target || Math.trunc(scaled) === target);
}
