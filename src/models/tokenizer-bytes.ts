/** The exact bytes behind each token: what a stream of tokens means before it is text. */

/** How a tokenizer's vocabulary writes bytes. */
export type TokenSpelling =
  /** Each character of a token stands for one byte (GPT-2's table). */
  | 'byte-level'
  /** `▁` stands for a space, `<0xNN>` for a byte, the rest for itself in UTF-8. */
  | 'byte-fallback';

/**
 * GPT-2's table: printable Latin-1 characters stand for themselves, the other bytes in ascending order for U+0100 on.
 * Index = UTF-16 unit, value = byte or -1.
 */
function byteLevelTable(): Int16Array {
  const table = new Int16Array(0x144).fill(-1);
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    table[printable ? byte : next++] = byte;
  }
  return table;
}

const BYTE_OF_UNIT = byteLevelTable();

function byteLevelBytes(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length);
  for (let index = 0; index < token.length; index++) {
    const byte = BYTE_OF_UNIT[token.charCodeAt(index)] ?? -1;
    if (byte < 0) return undefined;
    bytes[index] = byte;
  }
  return bytes;
}

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/** Bytes of one token of the model's vocabulary. A token outside the spelling stands for its own UTF-8. */
export function bytesOfToken(token: string, spelling: TokenSpelling): Uint8Array {
  if (spelling === 'byte-level') return byteLevelBytes(token) ?? new TextEncoder().encode(token);
  const byte = BYTE_TOKEN.exec(token)?.[1];
  if (byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16));
  return new TextEncoder().encode(token.replaceAll('▁', ' '));
}
