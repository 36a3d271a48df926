/** Variables of the environment that look like ours and are none: misspelled ones would be ignored without a word. */
import { configNames, envName } from './config.ts';

interface UnknownVariable {
  readonly name: string;
  /** The known name that is spelled most alike, where one is. */
  readonly nearest: string | undefined;
}

/** Read by the commands that talk to a server, and by those that start one for something else. */
const others: readonly string[] = [
  'STV_URL',
  'STV_API_KEY',
  'STV_BASE_URL',
  'STV_CHROMIUM',
  'STV_SCHEMATHESIS',
  'STV_VLLM',
];

/**
 * Packs name the variables of their keys themselves. The rest are settings of tests and tools, and what container platforms set by
 * themselves beside a service of that name.
 */
const foreign = /^STV_(?:.*_API_KEY$|(?:TEST|CI|FUZZ|LLAMA|SERVICE|PORT)_|SERVER(?:_|$))/;

export function unknownVariables(env: NodeJS.ProcessEnv): UnknownVariable[] {
  const known = [...configNames.map(envName), ...others];
  return Object.keys(env)
    .filter((name) => name.startsWith('STV_') && !known.includes(name) && !foreign.test(name))
    .sort()
    .map((name) => ({ name, nearest: nearestOf(name, known) }));
}

function nearestOf(name: string, known: readonly string[]): string | undefined {
  const [best] = known
    .map((candidate) => ({ candidate, distance: distanceOf(name, candidate) }))
    .sort((a, b) => a.distance - b.distance);
  return best !== undefined && best.distance <= Math.max(2, (name.length - 4) / 4) ? best.candidate : undefined;
}

/** Letters to insert, to leave out or to exchange (Levenshtein). */
function distanceOf(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (let j = 1; j <= b.length; j++) {
      const exchanged = (row[j - 1] ?? 0) + (letter === b[j - 1] ? 0 : 1);
      next.push(Math.min(exchanged, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
