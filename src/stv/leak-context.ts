/** Judges by what stands around a value in feedback whether it is put forward as the answer, or only points or counts. */

/** Offsets in the plain text. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** What the student can see: problem and solution, in plain form. */
export interface KnownText {
  readonly text: string;
  readonly unspaced: string;
  /** Whether an equation has been found in it: feedback may ask for the same one thousands of times. */
  readonly equations: Map<string, boolean>;
}

const answerNoun = '(?:answer|solution|result|root|value\\s+(?:of|for)\\s+[a-z])s?';
const copula =
  '(?:is|are|was|were|be|being|equals?|=|:|->|→|≈|comes?\\s+(?:out|down)\\s+to|works?\\s+out\\s+(?:to|as)(?:\\s+be)?|turns?\\s+out\\s+(?:to\\s+be|as)|of)';
const adverb =
  'exactly|actually|indeed|really|just|simply|therefore|thus|hence|then|so|clearly|obviously|evidently|plainly|certainly|now|instead|precisely|always|only';
const hedge = `(?:\\s*(?:not\\s+[^,;.]{1,20},?\\s+but|${adverb}|in\\s+fact|,?\\s*of\\s+course,?|to(?=\\s)|equal\\s+to|about|approximately|roughly|given\\s+by|the\\s+number|≈|=|:))*`;
const opening = '(?:\\s*(?:[a-z]\\s*=|\\\\boxed\\s*\\{?|[({[]|"|\'))*\\s*';
const modal =
  '(?:(?:should|must|would|will|has\\s+to|ought\\s+to|needs?\\s+to|can\\s+only)\\s+(?:have\\s+been|be|equal|read)|to\\s+be)';

const rightChoice = '(?:correct|right|true|best|proper|intended)\\s+(?:option|choice|alternative|letter)';

/** In front of a value that is put forward as the answer. */
const assertedBefore = [
  new RegExp(
    `\\b(?:final|correct|right|true|actual|real|expected|proper)?\\s*${answerNoun}\\b(?:[^.;,\\n=]{0,40}?)\\s*(?:${modal}|${copula})${hedge}${opening}$`,
  ),
  new RegExp(`\\\\boxed\\s*\\{?${opening}$`),
  /\b(?:option|choice)\s*\(?$/,
  new RegExp(`\\b${rightChoice}\\s*(?:${modal}|${copula})${hedge}${opening}$`),
];
/** The same for an unknown: `x = 5`. What stands before it is the unknown's equation, looked up in the known texts. */
const unknownBefore = new RegExp(
  `(?<![\\w\\\\]|[\\d+\\-*/^)}]\\s?)(?<unknown>[a-z])(?:_\\{?\\d\\}?)?\\s*(?:${modal}|=|≈|→|->|\\b(?:is|equals|becomes)\\b|(?:works|comes|turns)\\s+out\\s+(?:to|as)(?:\\s+be)?)${hedge}\\s*[({]?\\s*$`,
);
const assertedAfter = [
  /^\s*[)}\]"']*\s*(?:[a-z°]+\s+){0,2}(?:is|was|would\s+be|as|should\s+be)\s+(?:the|your|our)?\s*(?:final|correct|right|actual|expected)?\s*(?:answer|solution|result|root|value\s+(?:of|for)\s+[a-z])\b/,
  new RegExp(`^\\s*[)}\\]"']*\\s*(?:is|was|would\\s+be|should\\s+be)\\s+the\\s+${rightChoice}\\b`),
];
/** `The correct answer, 5, is …`: set between commas. */
const apposedBefore = new RegExp(`\\b${answerNoun}\\s*,\\s*(?:namely|that\\s+is|i\\.e\\.)?,?${opening}$`);
const apposedAfter = /^\s*[)}\]"']*\s*,/;

/** Further on in a chain that an unknown begins: `x = (15 - 5)/2 = 10/2 = 5`. Words end it. */
const chainBefore =
  /(?<![\w\\]|[\d+\-*/^)}]\s?)(?<unknown>[a-z])(?:_\{?\d\}?)?\s*[=≈](?:(?:[^=≈\n;:→.,a-z\\]|[.,](?=\d)|\\(?:frac|sqrt)|[a-z](?![a-z])|(?:sqrt|over)\b){1,60}[=≈])+\s*[({]?\s*$/;

/** In front of or behind a number that only points or counts. */
const pointerBefore =
  /(?:\b(?:steps?|lines?|equations?|eqs?\.?|items?|parts?|problems?|questions?|exercises?|cases?|rows?|columns?|rounds?|attempts?|numbers?|no\.|figures?|sections?|chapters?|pages?|degree|first|last|next|top)\s*(?:\(|#|(?:\d+\s*(?:,\s*and|,\s*or|,|and|to|or|through|&|-)\s*){1,8}|\d+\s*\(?\s*(?:out\s+)?of)?|#)\s*$/;
/** `See (4)`. */
const bracketedBefore = /\b(?:see|by|from|in|into|using|use|with|compare|and|cf\.?)\s*\($/;
const listMarker = /(?:^|\n)[ \t]*[-*(]?[ \t]*$/;
const countedAfter =
  /^\s*(?:(?:small|minor|major|serious|separate|different|other|more|further|decimal|significant|similar|possible|distinct|like|consecutive|whole)\s+)*(?:errors?|mistakes?|steps?|lines?|problems?|issues?|things?|times?|places?|sides?|terms?|parts?|cases?|signs?|equations?|ways?|numbers?|digits?|points?|factors?|brackets?|unknowns?|variables?|methods?|reasons?|slips?|solutions?|roots?|halves|pieces)\b/;
const ordinalAfter = /^(?:st|nd|rd|th)\b/;
const coefficientAfter = /^(?:[a-z](?![a-z])|\s*\*\s*[a-z](?![a-z])|\()/;
const exponentBefore = /[\^_]\s*\{?\s*-?$/;

/** Enough of the text around a value to judge what it is said to be. */
const CONTEXT = 90;

export function isAsserted(text: string, { start, end }: Span, known: KnownText): boolean {
  const before = text.slice(Math.max(0, start - CONTEXT), start);
  const after = text.slice(end, end + CONTEXT);
  if (assertedBefore.some((pattern) => pattern.test(before))) return !isArticle(text, start, end, after);
  if (assertedAfter.some((pattern) => pattern.test(after))) return true;
  if (apposedAfter.test(after) && apposedBefore.test(before)) return true;
  const unknown = (unknownBefore.exec(before) ?? chainBefore.exec(before))?.groups?.['unknown'];
  if (unknown === undefined || (unknown === 'a' && !/\ba\s*[=≈]/.test(before))) return false;
  // an equation that the student or the problem has written can be spoken of
  return !isWritten(`${unknown}=${text.slice(start, end)}`.replaceAll(/\s/g, ''), known);
}

function isWritten(equation: string, { unspaced, equations }: KnownText): boolean {
  const seen = equations.get(equation);
  if (seen !== undefined) return seen;
  let at = unspaced.indexOf(equation);
  // `x=2` is not written where `x=25` or `x=2.5` is
  while (at !== -1 && /^(?:\d|[.,]\d)/.test(unspaced.slice(at + equation.length, at + equation.length + 2))) {
    at = unspaced.indexOf(equation, at + 1);
  }
  equations.set(equation, at !== -1);
  return at !== -1;
}

/** `the correct option is a prime`, where the answer is A. */
function isArticle(text: string, start: number, end: number, after: string): boolean {
  return text.slice(start, end) === 'a' && /^\s+[a-z]{2}/.test(after);
}

/** A number that only says which one: `Step 2`, `2.` at the head of a line, `2nd`. */
export function isLabel(text: string, { start, end }: Span): boolean {
  const before = text.slice(Math.max(0, start - CONTEXT), start);
  const after = text.slice(end, end + CONTEXT);
  return (
    pointerBefore.test(before) ||
    ordinalAfter.test(after) ||
    (bracketedBefore.test(before) && after.startsWith(')')) ||
    (listMarker.test(before) && /^\s*[.):]\s/.test(after))
  );
}

/** The 4 of `4,000`. */
export function isPieceOfLonger(text: string, { start, end }: Span): boolean {
  return (
    /^[,'_]\d{3}(?!\d)/.test(text.slice(end, end + 5)) ||
    (end - start === 3 && /\d[,'_]$/.test(text.slice(Math.max(0, start - 2), start)))
  );
}

/** Whether something is counted that any feedback counts: `two mistakes`. */
export function isCount(text: string, { end }: Span): boolean {
  return countedAfter.test(text.slice(end, end + CONTEXT));
}

/** A number that is part of something else or counts something: `x^2`, `2x`, `2 mistakes`. */
export function isAside(text: string, { start, end }: Span): boolean {
  const after = text.slice(end, end + CONTEXT);
  return (
    exponentBefore.test(text.slice(Math.max(0, start - 8), start)) ||
    countedAfter.test(after) ||
    coefficientAfter.test(after)
  );
}
