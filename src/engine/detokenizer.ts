/** Bytes of tokens -> text, never half a character. One per sequence; knows bytes, not tokens or models. */

const NO_BYTES = new Uint8Array(0);

/** Ill-formed bytes become U+FFFD exactly as decoding the whole at once would give, however the bytes were split. */
export class Detokenizer {
  #pending: Uint8Array = NO_BYTES;

  /** Whether the last bytes are the beginning of a character that is not complete yet. */
  get hasPending(): boolean {
    return this.#pending.length > 0;
  }

  /** The characters that these bytes complete. */
  push(bytes: Uint8Array): string {
    if (bytes.length === 0) return '';
    let all = bytes;
    if (this.#pending.length > 0) {
      all = new Uint8Array(this.#pending.length + bytes.length);
      all.set(this.#pending);
      all.set(bytes, this.#pending.length);
    }
    const end = all.length - incompleteTail(all);
    this.#pending = end === all.length ? NO_BYTES : all.slice(end);
    return decode(all, end);
  }

  /** What is left when nothing more comes: U+FFFD for the beginning of a character, else nothing. */
  end(): string {
    const rest = this.#pending;
    this.#pending = NO_BYTES;
    return decode(rest, rest.length);
  }
}

function decode(bytes: Uint8Array, end: number): string {
  if (end === 0) return '';
  return Buffer.from(bytes.buffer, bytes.byteOffset, end).toString('utf8');
}

/** How many bytes at the end are the proper beginning of a well-formed character (0 to 3). */
function incompleteTail(bytes: Uint8Array): number {
  const furthest = Math.max(0, bytes.length - 3);
  for (let i = bytes.length - 1; i >= furthest; i--) {
    const byte = bytes[i] as number; // i is inside
    if (byte < 0x80) return 0;
    if (byte < 0xc0) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    const have = bytes.length - i;
    if (byte < 0xc2 || byte > 0xf4 || have >= length) return 0;
    return have === 1 || isSecondByte(byte, bytes[i + 1] as number) ? have : 0;
  }
  return 0;
}

/** Overlong forms, surrogates and what lies beyond U+10FFFF are ill-formed from their second byte on. */
function isSecondByte(first: number, second: number): boolean {
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  return second >= low && second <= high;
}
