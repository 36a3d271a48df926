/** Numbers in English words: `minus twenty-one`, `two thirds`, `one and a half`, `two point five`. Text in lower case. */

const units = [
  'zero',
  'one',
  'two',
  'three',
  'four',
  'five',
  'six',
  'seven',
  'eight',
  'nine',
  'ten',
  'eleven',
  'twelve',
];
const teens = ['thirteen', 'fourteen', 'fifteen', 'sixteen', 'seventeen', 'eighteen', 'nineteen'];
const tens = ['twenty', 'thirty', 'forty', 'fifty', 'sixty', 'seventy', 'eighty', 'ninety'];
const scales: Readonly<Record<string, number>> = { hundred: 100, thousand: 1_000, million: 1_000_000, billion: 1e9 };
const parts: Readonly<Record<string, number>> = {
  half: 2,
  halves: 2,
  third: 3,
  thirds: 3,
  quarter: 4,
  quarters: 4,
  fourth: 4,
  fourths: 4,
  fifth: 5,
  fifths: 5,
  sixth: 6,
  sixths: 6,
  seventh: 7,
  sevenths: 7,
  eighth: 8,
  eighths: 8,
  ninth: 9,
  ninths: 9,
  tenth: 10,
  tenths: 10,
};

const smallWord = `(?:${[...units, ...teens, ...tens].join('|')})`;
const anyWord = `(?:${[...units, ...teens, ...tens, ...Object.keys(scales)].join('|')})`;
const partWord = `(?:${Object.keys(parts).join('|')})`;
const scaleWord = `(?:${Object.keys(scales).join('|')})`;
/** `two hundred and three` is one number, `two and three` are two. */
const cardinal = `(?:(?:an?\\s+(?=${scaleWord}))?${anyWord}(?:(?:[\\s-]+|(?<=${scaleWord})\\s+and\\s+)${anyWord}){0,12})`;
/** In the plain text everything is in lower case. Order: the longer forms first. */
export const numberWords = new RegExp(
  `\\b(?:(?:minus|negative)\\s+)?(?:${cardinal}\\s+and\\s+(?:an?|${smallWord})[\\s-]+${partWord}|(?:an?|${cardinal})[\\s-]+${partWord}|${cardinal}(?:\\s+point(?:[\\s-]+${smallWord}){1,12})?)\\b`,
  'g',
);

/** Value of a match of `numberWords`. */
export function valueOfWords(phrase: string): number | undefined {
  const sign = /^(?:minus|negative)\s/.test(phrase) ? -1 : 1;
  const words = phrase.replace(/^(?:minus|negative)\s+/, '').split(/[\s-]+/);
  const part = parts[words.at(-1) ?? ''];
  if (part !== undefined) {
    const body = words.slice(0, -1);
    const and = body.lastIndexOf('and');
    // `one and a half` is mixed; the `and` of `one hundred and five sixths` is taken the same way
    if (and > 0) {
      const whole = cardinalValue(body.slice(0, and));
      const above = cardinalValue(body.slice(and + 1));
      return whole === undefined || above === undefined ? undefined : sign * (whole + above / part);
    }
    const above = cardinalValue(body);
    return above === undefined ? undefined : (sign * above) / part;
  }
  const point = words.indexOf('point');
  if (point === -1) {
    const value = cardinalValue(words);
    return value === undefined ? undefined : sign * value;
  }
  const whole = cardinalValue(words.slice(0, point));
  const digits = words.slice(point + 1).map((word) => units.indexOf(word));
  if (whole === undefined || digits.some((digit) => digit < 0 || digit > 9)) return undefined;
  return sign * Number(`${whole}.${digits.join('')}`);
}

function cardinalValue(words: readonly string[]): number | undefined {
  let total = 0;
  let group = 0;
  for (const word of words) {
    if (word === 'and') continue;
    const scale = scales[word];
    if (word === 'a' || word === 'an') group += 1;
    else if (scale === 100) group = Math.max(group, 1) * 100;
    else if (scale !== undefined) {
      total += Math.max(group, 1) * scale;
      group = 0;
    } else {
      const small = [...units, ...teens].indexOf(word);
      const ten = tens.indexOf(word);
      if (small === -1 && ten === -1) return undefined;
      group += small === -1 ? 20 + 10 * ten : small;
    }
  }
  return words.length === 0 ? undefined : total + group;
}
