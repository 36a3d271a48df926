/** Parsers for the values of flags, of the commands that ask a server and of those that need none. */
import { InvalidArgumentError } from 'commander';
import type { SolveRequest } from '../client/client.ts';

/** Without `max` the server says what is too much. */
export function number(min: number, max?: number): (text: string) => number {
  return bounded('a number', Number.isFinite, min, max);
}

export function integer(min: number, max?: number): (text: string) => number {
  return bounded('a whole number', Number.isSafeInteger, min, max);
}

function bounded(
  what: string,
  isOne: (value: number) => boolean,
  min: number,
  max: number | undefined,
): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && isOne(value) && value >= min && value <= (max ?? value)) return value;
    throw new InvalidArgumentError(
      `It must be ${what} ${max === undefined ? `of at least ${min}` : `from ${min} to ${max}`}.`,
    );
  };
}

/** Reads `single`, `consecutive:3`, `votes:3/5` or `score:0.9`. */
export function acceptRule(text: string): NonNullable<SolveRequest['accept']> {
  const [, rule, first, second] = /^(single|consecutive|votes|score)(?::([\d.]+)(?:\/(\d+))?)?$/.exec(text) ?? [];
  if (rule === 'single' && first === undefined) return { rule };
  if (rule === 'consecutive' && first !== undefined && second === undefined) return { rule, k: integer(1, 64)(first) };
  if (rule === 'votes' && first !== undefined && second !== undefined) {
    const [k, n] = [integer(1, 64)(first), integer(1, 64)(second)];
    if (k <= n) return { rule, k, n };
  }
  if (rule === 'score' && first !== undefined && second === undefined) return { rule, threshold: number(0, 1)(first) };
  throw new InvalidArgumentError('It must be single, consecutive:K, votes:K/N with K up to N, or score:THRESHOLD.');
}
