/**
 * Where the first wrong step of a rejected solution is: as the feedback itself says it, else found by scoring prefixes of the
 * solution. Pure but for the scores, which it is handed a function for.
 */
import type { StepSpan } from './steps.ts';

/** Shorter texts occur by chance. */
const MIN_QUOTE = 4;

const ordinals = ['first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'seventh', 'eighth', 'ninth', 'tenth'];
const cardinals = ['one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten'];

const noun = '(?:steps?|lines?|equations?|items?)';
const number = `(\\d{1,4}|${cardinals.join('|')})`;

/** `from step 2 to step 3`: what goes wrong is the move, and it shows in the later one. */
const moveReference = new RegExp(
  `\\b(?:from|between)\\s+${noun}\\s+\\(?${number}\\)?\\s+(?:to|and)\\s+(?:${noun}\\s+)?\\(?${number}\\b`,
  'i',
);
const numberedReference = new RegExp(`\\b${noun}\\s*(?:no\\.?|number|#)?\\s*\\(?${number}\\b`, 'gi');
const ordinalReference = new RegExp(
  `\\b(${ordinals.join('|')}|last|final|\\d{1,3}(?:st|nd|rd|th))\\s+${noun}\\b`,
  'gi',
);
/** Ends before a step that is named to compare with, or as the origin of a value. */
const comparison = /\b(?:from|unlike|than|after)\s+(?:the\s+)?$/i;
/** Where the origin is what goes wrong: `the error comes from step 2`, `the value from step 2`, `from step 2 on`. */
const originBefore =
  /\b(?:comes?|came|stems?|arises?|start(?:s|ing)?|results?|values?|numbers?)\s+from\s+(?:the\s+)?$/i;
const onAfter = /^\)?\s+on(?:wards?)?\b/i;
const bareItem = /^\s*(?:[-*>]\s*)?\(?(\d{1,4})[.):]\s/;

const wrong =
  /\b(?:in(?:correct|valid|accurate|consistent)|wrong(?:ly)?|errors?|mistakes?|mistaken|should\s+(?:be|have|read|equal|give)|must\s+be|not|\w+n['’]t|fails?|false|flaw(?:ed)?|missing|forgot(?:ten)?|unjustified|instead\s+of|miscalculat\w*|misappli\w*|slip|faulty|cannot)\b|[✗✘❌]/i;
const right =
  /\b(?:ok(?:ay)?|correct(?:ly)?|right|fine|valid|good|true|holds?|checks?\s+out|accurate|sound|no\s+(?:errors?|mistakes?|issues?|problems?)|nothing\s+wrong|without\s+(?:errors?|mistakes?))\b|[✓✔✅]/i;
/** Denials that make a clause a good word for its step. */
const denial =
  /\b(?:no|without|(?:not|\w+n['’]t)\s+(?:(?:see|find|spot|notice)\s+)?(?:any|an|a|the)|free\s+of)\s+(?:\w+\s+)?(?:errors?|mistakes?|issues?|problems?)\b|\bnot\s+(?:wrong|incorrect)\b|\bnothing\s+(?:is\s+)?wrong\b/gi;
/** `is right since 5 is not negative`: group 1 is the praise. */
const reasonOfPraise =
  /\b((?:(?:is|are|looks?|seems?)\s+(?:\w+\s+)?(?:right|correct|fine|valid|ok(?:ay)?|true|sound|accurate|good)|holds?|checks?\s+out),?)\s+(?:since|because)\b.*$/i;

type Mood = 'wrong' | 'right' | 'neutral';

/** Without denials and without the reasons of praise: their words object to nothing. */
function withoutAsides(clause: string): string {
  return clause.replaceAll(denial, ' fine ').replace(reasonOfPraise, '$1');
}

/** Of a clause without asides. */
function moodOf(clause: string): Mood {
  if (wrong.test(clause)) return 'wrong';
  return right.test(clause) ? 'right' : 'neutral';
}

/** A comma before the next step or before what is wrong; not one within `step 1, step 2 and step 3`. */
const turningComma = /,\s+(?=(?:the\s+)?(?:error|mistake)|step\s+\d+\b(?!,?\s+and\b|,\s+(?:and\s+)?step\b))/i;

/** Lines and sentences, split again where a comma, `but` or `;` turns the statement. Numbers such as `3.5` and `1.` stay whole. */
function splitClauses(feedback: string): readonly string[] {
  return feedback
    .replaceAll(/[^\S\r\n]+/g, ' ') // so that no pattern below has long blanks to try
    .split(/\r?\n|(?<=[^\d\s][.!?。])\s+|(?<=\d[.!?])\s+(?=\p{Lu})|;\s+|,?\s+(?:but|however|whereas)\b,?\s*/u)
    .flatMap((sentence) => sentence.split(turningComma))
    .map((clause) => clause.trim())
    .filter((clause) => clause !== '');
}

function toNumber(word: string): number {
  const digits = /^\d+/.exec(word);
  if (digits !== null) return Number(digits[0]);
  const lower = word.toLowerCase();
  return 1 + (ordinals.includes(lower) ? ordinals.indexOf(lower) : cardinals.indexOf(lower));
}

/** A place in a clause that names a step; `step` is undefined when the solution has none of that number. */
interface Reference {
  readonly start: number;
  readonly end: number;
  readonly step: StepSpan | undefined;
}

/** In the order of the clause. */
function findReferences(clause: string, steps: readonly StepSpan[]): readonly Reference[] {
  const toReference = ({ index, 0: text, 1: word = '' }: RegExpExecArray): Reference => {
    const isLast = /^(?:last|final)$/i.test(word);
    return { start: index, end: index + text.length, step: isLast ? steps.at(-1) : steps[toNumber(word) - 1] };
  };
  return [...clause.matchAll(numberedReference), ...clause.matchAll(ordinalReference)]
    .map(toReference)
    .sort((a, b) => a.start - b.start);
}

/** The one that the objection is about: the nearest to its word. One to compare with is never meant, an origin only alone. */
function blamedReference(clause: string, references: readonly Reference[]): Reference | undefined {
  const before = ({ start }: Reference): string => clause.slice(Math.max(0, start - 24), start);
  const plain = references.filter((reference) => !comparison.test(before(reference)));
  const origins = references.filter(
    (reference) =>
      originBefore.test(before(reference)) || onAfter.test(clause.slice(reference.end, reference.end + 12)),
  );
  const candidates = plain.length > 0 ? plain : origins;
  const objection = wrong.exec(clause);
  if (objection === null) return candidates[0];
  const end = objection.index + objection[0].length;
  const distance = (reference: Reference): number =>
    Math.max(objection.index - reference.end, reference.start - end, 0);
  return candidates.reduce<Reference | undefined>(
    (best, reference) => (best === undefined || distance(reference) < distance(best) ? reference : best),
    undefined,
  );
}

/** The step that a clause without asides names by number, within range. */
function namedStep(clause: string, steps: readonly StepSpan[]): StepSpan | undefined {
  const move = moveReference.exec(clause);
  if (move?.[2] !== undefined) return steps[toNumber(move[2]) - 1];
  const blamed = blamedReference(clause, findReferences(clause, steps));
  if (blamed !== undefined) return blamed.step;
  const item = bareItem.exec(clause);
  return item?.[1] === undefined ? undefined : steps[Number(item[1]) - 1];
}

/** Letters, digits and signs only: a quote may be set with other spaces, marks or LaTeX delimiters than the original. */
function bare(text: string): string {
  return text
    .normalize('NFKC')
    .replaceAll(/\\(?:left|right|,|;|!|quad|qquad|cdot|times)(?![a-zA-Z])|[\s$`*_"'“”‘’{}\\]/g, '')
    .replaceAll(/[−–—]/g, '-')
    .replaceAll('×', '*')
    .toLowerCase();
}

/** Joins the step that a move starts from with the one where it goes wrong: `from A to B`, `A does not give B`; not what one should get. */
const move =
  /(?<!\b(?:should|must|would)(?: have)? )\b(?:from|giv(?:es?|ing)|gave|gets?|getting|got|le(?:ads?|ading|d) to|follow(?:s|ed|ing)?)\b/i;

/** The step that a clause quotes; of a move between several the last. `bareSteps`: the steps' own words, `bare`. */
function quotedStep(clause: string, steps: readonly StepSpan[], bareSteps: readonly string[]): StepSpan | undefined {
  const quoted = findQuoted(clause, bareSteps);
  const first = quoted[0];
  if (first === undefined) return undefined;
  return steps[move.test(clause) ? Math.max(...quoted) : first];
}

/** Indices of the steps in which alone a quotation stands, else of those that stand whole in the clause; by the longest text. */
function findQuoted(clause: string, bareSteps: readonly string[]): readonly number[] {
  const quotations = [...clause.matchAll(/["“`'‘$]{1,2}([^"“”`'‘’$\n]{2,400})["”`'’$]{1,2}/g)]
    .map((match) => bare(match[1] ?? ''))
    .filter((quotation) => quotation.length >= MIN_QUOTE)
    .sort((a, b) => b.length - a.length);
  const held = quotations.flatMap((quotation) => {
    const holders = bareSteps.flatMap((step, index) => (step.includes(quotation) ? [index] : []));
    return holders.length === 1 ? holders : [];
  });
  if (held.length > 0) return held;
  let rest = bare(clause);
  return [...bareSteps.entries()]
    .filter(([, step]) => step.length >= MIN_QUOTE && rest.includes(step))
    .sort(([, a], [, b]) => b.length - a.length)
    .flatMap(([index, step]) => {
      // `x = 9` does not stand in `2x = 9`
      if (!rest.includes(step)) return [];
      rest = rest.replaceAll(step, '\n');
      return [index];
    });
}

/**
 * The first step that the feedback objects to: the first clause that names or quotes a step and says something against it,
 * else the first that names one without praise. Steps that the feedback calls right are passed over.
 */
export function locateFromFeedback(feedback: string, steps: readonly StepSpan[]): StepSpan | undefined {
  if (steps.length === 0) return undefined;
  const bareSteps = steps.map(({ quote }) => bare(quote));
  let neutral: StepSpan | undefined;
  // a step may be named in one sentence and judged in the next: `Look at step 2. The sign is wrong.`
  let subject: StepSpan | undefined;
  for (const clause of splitClauses(feedback)) {
    const plain = withoutAsides(clause);
    const mood = moodOf(plain);
    const step = namedStep(plain, steps) ?? quotedStep(clause, steps, bareSteps);
    if (mood === 'right') {
      subject = undefined;
      continue;
    }
    if (step !== undefined) subject = step;
    if (mood === 'wrong' && subject !== undefined) return subject;
    if (step !== undefined) neutral ??= step;
  }
  return neutral;
}

/** Prefixes scored at the same time, and so how often the steps are halved: 16 finds one of 256 in two batches. */
const MAX_BATCH = 16;
/** Bounds all batches together; 65,536 steps need no more. */
const MAX_SCORES = 4 * MAX_BATCH;

/**
 * `scorePrefixes` gives P(accept) for the solution cut after each of the given numbers of steps, in order; `undefined` = too
 * dear now. The first error is the step at which the log-odds of acceptance fall most, from even odds before the first.
 */
export async function locateByPrefixes(
  steps: readonly StepSpan[],
  scorePrefixes: (numSteps: readonly number[]) => Promise<readonly number[] | undefined>,
): Promise<StepSpan | undefined> {
  if (steps.length <= 1) return steps[0];
  let low = 0;
  let lowOdds = 0;
  let high = steps.length;
  let numScored = 0;
  // the fall lies in (low, high]
  while (high - low > 1 || numScored === 0) {
    const cuts = spreadCuts(low, high);
    numScored += cuts.length;
    if (numScored > MAX_SCORES) return undefined;
    const scores = await scorePrefixes(cuts);
    if (scores === undefined) return undefined;
    const odds = scores.map(logOdds);
    let best = 0;
    let bestFall = Number.NEGATIVE_INFINITY;
    for (const [index, value] of odds.entries()) {
      const fall = (index === 0 ? lowOdds : (odds[index - 1] ?? 0)) - value;
      if (fall <= bestFall) continue;
      best = index;
      bestFall = fall;
    }
    lowOdds = best === 0 ? lowOdds : (odds[best - 1] ?? 0);
    low = best === 0 ? low : (cuts[best - 1] ?? low);
    high = cuts[best] ?? high;
  }
  return steps[high - 1];
}

/** At most `MAX_BATCH` ascending numbers in (low, high], the last of them `high`. */
function spreadCuts(low: number, high: number): readonly number[] {
  const count = Math.min(MAX_BATCH, high - low);
  return Array.from({ length: count }, (_, index) => low + Math.round(((index + 1) * (high - low)) / count));
}

function logOdds(probability: number): number {
  const inside = Math.min(1 - 1e-9, Math.max(1e-9, probability));
  return Math.log(inside / (1 - inside));
}
