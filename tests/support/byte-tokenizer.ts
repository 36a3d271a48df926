/** Ids 0..255 are bytes, a few specials above: multi-byte characters split over tokens come for free. */
import type { ChatMessage } from '../../src/engine/engine.ts';

export const BYTE_VOCAB_SIZE = 260;
export const BOS = 256;
export const EOS = 257;
export const ROLE_START = 258;
export const ROLE_END = 259;

const encoder = new TextEncoder();

export function encodeBytes(text: string): number[] {
  return [...encoder.encode(text)];
}

export function bytesOfToken(id: number): Uint8Array {
  return id < 256 ? Uint8Array.of(id) : new Uint8Array(0);
}

/** The whole text of a token list; what the incremental detokenizer must add up to. */
export function decodeBytes(tokens: readonly number[]): string {
  return Buffer.from(tokens.filter((id) => id < 256)).toString('utf8');
}

/** `ROLE_START role \n content ROLE_END \n` for each message, then the opening of the assistant's turn. */
export function encodeByteChat(messages: readonly ChatMessage[], assistantPrefix = ''): number[] {
  const tokens = [BOS];
  for (const { role, content } of messages) {
    tokens.push(ROLE_START, ...encodeBytes(`${role}\n${content}`), ROLE_END, 10);
  }
  tokens.push(ROLE_START, ...encodeBytes(`assistant\n${assistantPrefix}`));
  return tokens;
}
