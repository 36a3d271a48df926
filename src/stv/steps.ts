/**
 * Splits a solution into steps: those that a prompt numbers if it numbers them itself, else its numbered items, else its
 * lines. Only finds borders: the text itself, with its LaTeX and Markdown, stays untouched.
 */

/** Offsets in UTF-16 units: `solution.slice(start, end) === quote`. `step` counts from 1. */
export interface StepSpan {
  readonly step: number;
  readonly start: number;
  readonly end: number;
  readonly quote: string;
}

interface Line {
  readonly start: number;
  readonly end: number;
  /** Inside a formula or code block that began on an earlier line. */
  readonly isContinued: boolean;
}

/** Steps in order, without the blank space around them. Empty only for a blank solution. */
export function splitSteps(solution: string): readonly StepSpan[] {
  const lines = findLines(solution);
  const starts = numberedStarts(solution, lines) ?? inlineStarts(solution);
  const borders =
    starts ??
    lines
      .filter(({ start, end, isContinued }) => !isContinued && solution.slice(start, end).trim() !== '')
      .map(({ start }) => start);
  return spansFrom(borders, solution);
}

/**
 * Steps as the model counts them that reads the solution in `shown`, the texts of a prompt that holds nothing else of the
 * request: a template may number the lines itself, whatever numbers the solution has of its own.
 */
export function splitShownSteps(solution: string, shown: readonly string[]): readonly StepSpan[] {
  const whole = solution.trim();
  if (shown.some((text) => text.includes(whole))) return splitSteps(solution);
  for (const text of shown) {
    const starts = startsNumberedIn(text, solution);
    if (starts !== undefined) return spansFrom(starts, solution);
  }
  return splitSteps(solution);
}

/** What a template writes before a line to number it: words without digits around one number. */
const shownNumber = /^\D{0,24}?(\d{1,5})\D{0,8}$/;

/**
 * Where the lines begin that `shown` numbers from 1 on. All lines of the solution have to be found in order: where some are
 * missing, the numbers could belong to anything.
 */
function startsNumberedIn(shown: string, solution: string): readonly number[] | undefined {
  const lines = findLines(solution)
    .map(({ start, end }) => ({ start, text: solution.slice(start, end).trim() }))
    .filter(({ text }) => text !== '');
  const starts: number[] = [];
  let numFound = 0;
  for (const shownLine of shown.split('\n')) {
    const line = lines[numFound];
    if (line === undefined) break;
    const trimmed = shownLine.trim();
    if (!trimmed.endsWith(line.text)) continue;
    const before = trimmed.slice(0, trimmed.length - line.text.length);
    const isNumbered = Number(shownNumber.exec(before)?.[1]) === starts.length + 1;
    if (isNumbered) starts.push(line.start);
    if (isNumbered || before === '') numFound++;
  }
  return starts.length > 0 && numFound === lines.length ? starts : undefined;
}

/** From each border to the next one. */
function spansFrom(borders: readonly number[], solution: string): readonly StepSpan[] {
  const steps: StepSpan[] = [];
  for (const [index, border] of borders.entries()) {
    const raw = solution.slice(border, borders[index + 1] ?? solution.length);
    const quote = raw.trim();
    if (quote === '') continue;
    const start = border + raw.indexOf(quote);
    steps.push({ step: steps.length + 1, start, end: start + quote.length, quote });
  }
  return steps;
}

/** Delimiters that hold several lines together, and what closes them. */
const blocks: readonly (readonly [RegExp, (line: string, match: RegExpExecArray) => string])[] = [
  [/^\s*(```+|~~~+)/, (_, match) => match[1] ?? '```'],
  [/\\begin\{([a-zA-Z]+\*?)\}/, (_, match) => `\\end{${match[1]}}`],
  [/\\\[/, () => '\\]'],
  [/\$\$/, () => '$$'],
];

function findLines(text: string): readonly Line[] {
  const lines: Line[] = [];
  const lastIndices = new Map<string, number>();
  const lastIndexOf = (close: string): number => {
    const known = lastIndices.get(close) ?? text.lastIndexOf(close);
    lastIndices.set(close, known);
    return known;
  };
  let closer: string | undefined;
  let start = 0;
  while (start <= text.length) {
    const newline = text.indexOf('\n', start);
    const end = newline === -1 ? text.length : newline;
    lines.push({ start, end, isContinued: closer !== undefined });
    closer = openBlock(text.slice(start, end), closer, (close) => lastIndexOf(close) >= end);
    if (newline === -1) break;
    start = newline + 1;
  }
  return lines;
}

/** What closes the block that is open after `line`. A block that is never closed is none: its lines count one by one. */
function openBlock(
  line: string,
  closer: string | undefined,
  isClosedLater: (close: string) => boolean,
): string | undefined {
  let from = 0;
  let open = closer;
  for (;;) {
    if (open !== undefined) {
      const at = line.indexOf(open, from);
      if (at === -1) break;
      from = at + open.length;
      open = undefined;
      continue;
    }
    const remainder = line.slice(from);
    let first: { readonly at: number; readonly length: number; readonly close: string } | undefined;
    for (const [pattern, close] of blocks) {
      const match = pattern.exec(remainder);
      if (match === null || (first !== undefined && match.index >= first.at)) continue;
      first = { at: match.index, length: match[0].length, close: close(remainder, match) };
    }
    if (first === undefined) return undefined;
    from += first.at + first.length;
    open = first.close;
  }
  return closer !== undefined || isClosedLater(open) ? open : undefined;
}

const marker =
  /^([ \t]*)(?:[>#]+[ \t]*)?(?:[*_]{1,3})?(?:(?:step|schritt|paso|étape)[ \t]+\(?(\d{1,3})\)?(?![\d.]*\d)|\(?(\d{1,3})[.):](?=[ \t*_]|$))/i;

/**
 * Where numbered items begin, if the solution numbers its steps from 1 on without a gap, at least two of them. Where steps are
 * named, bare numbers only list what belongs to one; else they count with at most one line before the first. What stands
 * before `Step 1` is no step, so that numbers mean what the solution's own numbers mean.
 */
function numberedStarts(text: string, lines: readonly Line[]): readonly number[] | undefined {
  const named: number[] = [];
  const bare: number[] = [];
  let numBefore = 0;
  let margin = 0;
  for (const { start, end, isContinued } of lines) {
    if (isContinued) continue;
    const line = text.slice(start, end);
    const [, indent = '', name, number] = marker.exec(line) ?? [];
    const column = indent.replaceAll('\t', '    ').length;
    if (bare.length === 0) margin = column;
    if (Number(name) === named.length + 1) named.push(start);
    // a column apart are ` 9.` and `10.`; further in stands a list within an item
    if (Number(number) === bare.length + 1 && Math.abs(column - margin) <= 1) bare.push(start);
    else if (bare.length === 0 && line.trim() !== '') numBefore++;
  }
  if (named.length >= 2) return named;
  return bare.length >= 2 && numBefore <= 1 ? bare : undefined;
}

/** The same for `Step 1: … Step 2: …` within one line. */
function inlineStarts(text: string): readonly number[] | undefined {
  const starts: number[] = [];
  for (const match of text.matchAll(/(?<![\p{L}\d])step[ \t]+(\d{1,3})[ \t]*[:.)]/giu)) {
    if (Number(match[1]) === starts.length + 1) starts.push(match.index);
  }
  const before = text.slice(0, starts[0] ?? 0).trim();
  return starts.length >= 2 && !before.includes('\n') ? starts : undefined;
}
