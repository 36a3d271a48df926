/** What one API key may use, as configuration and keys files write it. Knows no HTTP and no time. */
import { StvError } from '../errors.ts';

export const limitNames = ['requests_per_minute', 'requests_per_day', 'tokens_per_day', 'concurrent'] as const;
export type LimitName = (typeof limitNames)[number];

/** Absent or 0: no limit. Days are those of UTC; tokens are prompt and output together. */
export type KeyLimits = Readonly<Partial<Record<LimitName, number>>>;

const maxValue = 1_000_000_000_000;

/** Checks limits given by name; values are numbers or their text. Throws `config_invalid` that begins with `where`. */
export function readLimits(given: Readonly<Record<string, unknown>>, where: string): KeyLimits {
  const limits: Partial<Record<LimitName, number>> = {};
  for (const [name, raw] of Object.entries(given)) {
    const known = limitNames.find((candidate) => candidate === name);
    if (known === undefined) {
      throw new StvError(
        'config_invalid',
        `${where}: the limit ${name} is unknown; there are ${limitNames.join(', ')}.`,
      );
    }
    const value = typeof raw === 'string' && /^\d{1,13}$/.test(raw) ? Number(raw) : raw;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > maxValue) {
      throw new StvError(
        'config_invalid',
        `${where}: ${name} must be a whole number from 0 (no limit) to ${maxValue}.`,
      );
    }
    limits[known] = value;
  }
  return limits;
}

/** `name=value` words, as lines of a keys file and `stv key --limits` have them. */
export function readLimitWords(words: readonly string[], where: string): KeyLimits {
  return readLimits(
    Object.fromEntries(
      words.map((word) => {
        const at = word.indexOf('=');
        if (at < 0) throw new StvError('config_invalid', `${where}: a limit is written name=value.`);
        return [word.slice(0, at), word.slice(at + 1)];
      }),
    ),
    where,
  );
}

/** The value that holds for a key; undefined = no limit. */
export function limitOf(name: LimitName, own: KeyLimits, defaults: KeyLimits): number | undefined {
  const value = own[name] ?? defaults[name] ?? 0;
  return value === 0 ? undefined : value;
}
