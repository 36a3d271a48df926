/**
 * A plain form of mathematical writing in which values can be looked for: one spelling for signs, spaces and common LaTeX, in
 * lower case, with the way back to the places in the original.
 */

export interface PlainText {
  readonly text: string;
  /** `starts[i]`, `ends[i]`: the UTF-16 units of the original that unit i comes from. */
  readonly starts: readonly number[];
  readonly ends: readonly number[];
}

const superscripts = '⁰¹²³⁴⁵⁶⁷⁸⁹⁻';

/** LaTeX commands by what takes their place; the longest is tried first. `$` and text commands leave nothing. */
const commands: Readonly<Record<string, string>> = {
  dfrac: '\\frac',
  tfrac: '\\frac',
  cfrac: '\\frac',
  frac: '\\frac',
  sqrt: '\\sqrt',
  boxed: '\\boxed',
  overline: '\\overline',
  pi: 'π',
  cdot: '*',
  times: '*',
  div: '/',
  pm: '±',
  approx: '≈',
  to: '→',
  rightarrow: '→',
  implies: '→',
  infty: 'infinity',
  over: ' over ',
  circ: '°',
  percent: '%',
  left: '',
  right: '',
  big: '',
  displaystyle: '',
  text: '',
  textbf: '',
  textit: '',
  mathrm: '',
  mathbf: '',
  mathit: '',
  operatorname: '',
  bf: '',
  quad: ' ',
  qquad: ' ',
};

/** Signs that stand for another sign, code point by code point, after compatibility decomposition. */
const signs: Readonly<Record<string, string>> = {
  '−': '-',
  '–': '-',
  '—': '-',
  '‐': '-',
  '‑': '-',
  '‒': '-',
  '﹣': '-',
  '×': '*',
  '·': '*',
  '⋅': '*',
  '∙': '*',
  '•': '*',
  '÷': '/',
  '∕': '/',
  '⁄': '/',
  '’': "'",
  '‘': "'",
  '⇒': '→',
  '⟹': '→',
  '⟶': '→',
  '∞': 'infinity',
  '≃': '≈',
  '≅': '≈',
  '∼': '≈',
  $: '',
  '€': '',
  '£': '',
  '`': '',
  '°': '',
  '\u00ad': '',
  '\u200b': '',
  '\u200c': '',
  '\u200d': '',
  '\u2060': '',
  '\ufeff': '',
};

/** Arabic, Persian and Devanagari digits, which have no compatibility form. */
const otherDigits = /[\u0660-\u0669\u06f0-\u06f9\u0966-\u096f]/;

export function toPlainText(original: string): PlainText {
  let text = '';
  const starts: number[] = [];
  const ends: number[] = [];
  const put = (plain: string, start: number, end: number): void => {
    text += plain;
    for (let index = 0; index < plain.length; index++) {
      starts.push(start);
      ends.push(end);
    }
  };
  for (let index = 0; index < original.length; ) {
    const unit = original.charCodeAt(index);
    if (isPlain(unit)) {
      text += original[index];
      starts.push(index);
      ends.push(++index);
      continue;
    }
    const [plain, length] = readSign(original, index);
    put(plain, index, index + length);
    index += length;
  }
  return { text, starts, ends };
}

/** Digits, small letters and the space: most of any text. */
function isPlain(unit: number): boolean {
  return (unit >= 0x61 && unit <= 0x7a) || (unit >= 0x30 && unit <= 0x39) || unit === 0x20;
}

/** What the sign at `index` becomes, and how many units it takes. */
function readSign(original: string, index: number): readonly [string, number] {
  const char = String.fromCodePoint(original.codePointAt(index) ?? 0);
  if (char === '\\') return readCommand(original, index);
  // `2**8` is a power, `**8**` is bold
  if (/^\*\*[\d(]/.test(original.slice(index, index + 3)) && /[\w)]/.test(original[index - 1] ?? '')) return ['^', 2];
  if (original.startsWith('**', index) || original.startsWith('__', index)) return ['', 2];
  if (original.startsWith('+/-', index)) return ['±', 3];
  if (original.startsWith('{,}', index)) return [',', 3];
  if (original.startsWith('^\\circ', index)) return ['', 6];
  if (original.startsWith('^{\\circ}', index)) return ['', 8];
  if (char === '^' && original[index + 1] === '°') return ['', 2];
  const sign = signs[char];
  if (sign !== undefined) return [sign, char.length];
  const power = superscripts.indexOf(char);
  if (power !== -1) {
    const digit = char === '⁻' ? '-' : String(power);
    const isPower = /[\p{L}\d)}\]]$/u.test(original.slice(Math.max(0, index - 2), index)); // else the top of ⁷⁄₂
    return [superscripts.includes(original[index - 1] ?? ' ') || !isPower ? digit : `^${digit}`, 1];
  }
  if (otherDigits.test(char)) return [String(digitOf(char)), char.length];
  const decomposed = char.normalize('NFKC');
  // ½ comes apart into 1⁄2; behind a digit it is a mixed number
  if (decomposed.includes('⁄')) {
    const fraction = decomposed.replace('⁄', '/');
    const isMixed = /\p{Nd}\s*$/u.test(original.slice(Math.max(0, index - 8), index));
    return [isMixed ? ` ${fraction}` : fraction, char.length];
  }
  if (/\s/.test(decomposed)) return [char === '\n' || char === '\r' ? '\n' : ' ', char.length];
  return [decomposed.toLowerCase(), char.length];
}

function digitOf(char: string): number {
  const code = char.codePointAt(0) ?? 0;
  return code >= 0x966 ? code - 0x966 : code >= 0x6f0 ? code - 0x6f0 : code - 0x660;
}

function readCommand(original: string, index: number): readonly [string, number] {
  const name = /^[a-zA-Z]+/.exec(original.slice(index + 1, index + 24))?.[0];
  if (name === undefined) {
    const next = original[index + 1] ?? '';
    // spacing and math delimiters leave nothing; \%, \$, \{ are the sign itself
    if (',;:!()[]'.includes(next)) return ['', 2];
    if (next === ' ') return [' ', 2];
    if (next === '\\') return ['\n', 2];
    return [next === '$' ? '' : next, 1 + next.length];
  }
  const plain = commands[name];
  return [plain ?? `\\${name.toLowerCase()}`, 1 + name.length];
}
