/** Counting votes: rules as pure functions, and the run of votes side by side that stops as soon as a rule has decided. */
import { linkAbort } from './event-stream.ts';
import type { Verdict } from './verdict.ts';

/**
 * The verdict that `cast` decides when `numOpen` more votes may follow; `undefined` while a later vote can still change it.
 * Always decides when none is open.
 */
export type VoteRule = (cast: readonly Verdict[], numOpen: number) => Verdict | undefined;

interface Tally {
  readonly accept: number;
  readonly reject: number;
  readonly undetermined: number;
}

function tally(cast: readonly Verdict[]): Tally {
  const count = (verdict: Verdict): number => cast.filter((other) => other === verdict).length;
  return { accept: count('accept'), reject: count('reject'), undetermined: count('undetermined') };
}

function leader({ accept, reject, undetermined }: Tally): Verdict {
  if (accept > reject && accept > undetermined) return 'accept';
  if (reject > accept && reject > undetermined) return 'reject';
  return 'undetermined';
}

/** The verdict with the most votes; when two share the lead, `undetermined`. */
export const majority: VoteRule = (cast, numOpen) => {
  const counts = tally(cast);
  const verdict = leader(counts);
  // Decided once even the strongest rival with all open votes does not change it. A rival of `undetermined` has to overtake
  // it, because a tie is `undetermined` as well; a rival of the others only has to draw level.
  const rivals = (['accept', 'reject', 'undetermined'] as const).filter((other) => other !== verdict);
  const strongest = Math.max(...rivals.map((rival) => counts[rival]));
  const needed = counts[verdict] - strongest;
  const isSettled = verdict === 'undetermined' ? needed >= numOpen : needed > numOpen;
  return numOpen === 0 || isSettled ? verdict : undefined;
};

/** `accept` once `k` votes accept; otherwise what most of the others say, as soon as `k` are out of reach. */
export function acceptsAtLeast(k: number): VoteRule {
  return (cast, numOpen) => {
    const { accept, reject, undetermined } = tally(cast);
    if (accept >= k) return 'accept';
    if (accept + numOpen >= k) return undefined;
    return reject > undetermined ? 'reject' : 'undetermined';
  };
}

export interface CastOptions<Vote> {
  readonly numVotes: number;
  /** Ask the rule after every vote; otherwise only after the last. */
  readonly earlyStop: boolean;
  readonly rule: VoteRule;
  readonly signal: AbortSignal;
  readonly cast: (vote: number, signal: AbortSignal) => Promise<Vote>;
  /** Called in index order for every vote that counts. */
  readonly onCounted: (vote: number, record: Vote) => Promise<void> | void;
}

export interface CastVotes<Vote> {
  readonly verdict: Verdict;
  readonly votes: readonly Vote[];
}

type Settled<Vote> = { readonly vote: Vote } | { readonly thrown: unknown };

/**
 * Casts the votes side by side and counts them in index order, so that the result does not depend on which ends first. Once
 * decided, or once a vote has failed, the others are cancelled; it returns when all of them have ended.
 */
export async function castVotes<Vote extends { readonly verdict: Verdict }>(
  options: CastOptions<Vote>,
): Promise<CastVotes<Vote>> {
  const { numVotes, earlyStop, rule, cast, onCounted } = options;
  const abort = linkAbort(options.signal);
  const open = Array.from({ length: numVotes }, (_, index) =>
    cast(index, abort.signal).then(
      (vote): Settled<Vote> => ({ vote }),
      (thrown: unknown): Settled<Vote> => ({ thrown }),
    ),
  );
  const votes: Vote[] = [];
  try {
    for (const [index, pending] of open.entries()) {
      const settled = await pending;
      if ('thrown' in settled) throw settled.thrown;
      votes.push(settled.vote);
      await onCounted(index, settled.vote);
      const numOpen = numVotes - votes.length;
      if (numOpen > 0 && !earlyStop) continue;
      const verdict = rule(
        votes.map((vote) => vote.verdict),
        numOpen,
      );
      if (verdict !== undefined) return { verdict, votes };
    }
    throw new Error('A vote rule has not decided after the last vote.');
  } finally {
    abort.abort();
    await Promise.all(open);
    abort.dispose();
  }
}
