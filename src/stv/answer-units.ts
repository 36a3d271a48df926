/** Tells the unit behind a number (`5 km/h`, `12 square feet`) from the rest of an expression (`6 sin x`, `2^n`, `1/x`). */
import type { PlainText } from './plain-text.ts';

const words = /^\s*(?:[a-zµ°²³][a-zµ°²³/^*0-9.]*(?:\s+|$)){1,4}$/;

/** In plain text, where capitals have gone. Those written with a capital have been spelt out. */
const letterUnits = new Set('mgshl');
const capitalUnits: Readonly<Record<string, string>> = {
  n: 'newton',
  j: 'joule',
  w: 'watt',
  v: 'volt',
  a: 'ampere',
  k: 'kelvin',
  c: 'celsius',
  f: 'fahrenheit',
  l: 'liter',
};

/** Words that make a number part of an expression. `tanks` and `logs` are things. */
const functions = /^(?:(?:arc)?(?:sin|cos|tan|cot|csc)h?|log|ln|exp|sqrt|pi)(?:[xyz]|$)/;
/** Without a blank, as `2xy` is an expression: only what is known as a unit, or too long to be one. */
const closeUnits =
  /^(?:[kcdmµn]m|[km]g|[mcdk]l|[mµn]s|lb|oz|ft|in|yd|mi|hz|kw|kj|kn|kv|pa|kpa|mph|kph|min|hrs?|sec|deg|rad|mol|usd|eur|inch|st|nd|rd|th|[a-z]{4,})$/;

/** Capital units by their names: `6 N` is a force, `6 n` a product. */
export function spellOutUnits(plain: PlainText, original: string): string {
  return plain.text.replaceAll(/(?<=\d[\s{]{1,6})[njwvakcfl](?=[\s}]*[.]?$|[/^*])/g, (letter: string, index: number) =>
    original[plain.starts[index] ?? 0] === letter.toUpperCase() ? (capitalUnits[letter] ?? letter) : letter,
  );
}

/** Whether what follows a number only says what it counts. */
export function isUnit(rest: string): boolean {
  // `5\text{m}` arrives as `5{m}`: what is set as text stands apart
  const text = rest.replace(/^\{/, ' ').replaceAll(/[{}]/g, '');
  // `72 or 73` is two answers
  if (!words.test(text) || /\b(?:or|and)\b/.test(text)) return false;
  const names = text.split(/[^a-zµ]+/).filter((name) => name !== '');
  const isClose = !/^\s/.test(text);
  return names.every((name, index) => {
    if (functions.test(name)) return false;
    if (isClose && index === 0) return closeUnits.test(name);
    return name.length > 1 || letterUnits.has(name) || (name === 'a' && index > 0);
  });
}
