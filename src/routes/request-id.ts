/** Ids on the wire: `x-request-id` in and out, and the prefixed ULIDs of objects. */
import { randomInt } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { ulid } from 'ulid';

export type IdPrefix = 'vrf' | 'ref' | 'slv' | 'chatcmpl' | 'cmpl' | 'resp' | 'msg' | 'rs' | 'req';

/** OpenAI's own spellings join with a hyphen where clients look for it. */
export function makeId(prefix: IdPrefix): string {
  const separator = prefix === 'chatcmpl' || prefix === 'cmpl' ? '-' : '_';
  return `${prefix}${separator}${ulid()}`;
}

/** What may come back in a header and stand in a log line without harm. */
const acceptable = /^[A-Za-z0-9._:-]{1,128}$/;

/** The client's id where it is harmless, else a new one. */
export function requestIdOf(request: Pick<IncomingMessage, 'headers'>): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && acceptable.test(given) ? given : makeId('req');
}

/** For requests without a seed: an unsigned 32-bit number. */
export function drawSeed(): number {
  return randomInt(2 ** 32);
}
