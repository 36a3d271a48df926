/** Where a text stops being JSON, for files that must not be quoted: the parser's own message shows what stands there. */

const blank = /[ \t\r\n]*/y;
const scalar =
  /"(?:[^"\\\p{Cc}]|[\u007f-\u009f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/uy;

/** Line and column, from 1, of the first thing that no JSON can go on with. Only for texts that `JSON.parse` refuses. */
export function jsonErrorPosition(text: string): { readonly line: number; readonly column: number } {
  const before = text.slice(0, endOfJson(text)).split('\n');
  return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}

function endOfJson(text: string): number {
  let at = 0;
  const read = (pattern: RegExp): boolean => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    at += found?.[0].length ?? 0;
    return found !== null;
  };
  const readSign = (sign: string): boolean => {
    read(blank);
    if (text[at] !== sign) return false;
    at++;
    return true;
  };
  const readList = (end: string, readItem: () => boolean): boolean => {
    if (readSign(end)) return true;
    for (;;) {
      if (!readItem()) return false;
      if (readSign(end)) return true;
      if (!readSign(',')) return false;
    }
  };
  const readValue = (): boolean => {
    if (readSign('{')) return readList('}', () => readKey() && readSign(':') && readValue());
    if (readSign('[')) return readList(']', readValue);
    return read(scalar);
  };
  const readKey = (): boolean => {
    read(blank);
    return text[at] === '"' && read(scalar);
  };
  if (readValue()) read(blank);
  return at;
}
