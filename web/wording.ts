/** The page's words for what the contract names. */
import type { AcceptRule } from './composer.ts';
import type { RoundView, SolveEnd, SolveStart } from './run-state.ts';

type Verdict = 'accept' | 'reject' | 'undetermined';

export const verdictWords: Readonly<Record<Verdict, { readonly label: string; readonly sign: string }>> = {
  accept: { label: 'Accepted', sign: '✓' },
  reject: { label: 'Rejected', sign: '✕' },
  undetermined: { label: 'Undetermined', sign: '?' },
};

export const statusWords: Readonly<Record<SolveEnd['status'], string>> = {
  accepted: 'Accepted',
  exhausted: 'Not accepted',
  abstained: 'No answer given',
  cancelled: 'Stopped',
  failed: 'Failed',
};

const stopWords: Readonly<Record<NonNullable<SolveEnd['stop_reason']>, string>> = {
  accepted: '',
  max_rounds: 'all revisions are used up',
  rejects_in_a_row: 'too many rejects in a row',
  token_budget: 'the token budget is used up',
  deadline: 'the time is up',
  cancelled: '',
  engine_error: 'a model failed',
  shutdown: 'the server shut down',
};

export function roundName(round: RoundView): string {
  if (round.round > 0) return `Revision ${round.round}`;
  return round.isGiven ? 'The given attempt' : 'First attempt';
}

export function endText(end: SolveEnd): string {
  const parts = [end.stop_reason === null ? '' : stopWords[end.stop_reason]];
  if (end.status === 'accepted' && end.round !== null) parts.push(afterRevisions(end.round));
  if (end.error !== null) parts.push(end.error.message);
  return parts.filter((part) => part !== '').join(' · ');
}

function afterRevisions(count: number): string {
  if (count === 0) return 'without a revision';
  return count === 1 ? 'after 1 revision' : `after ${count} revisions`;
}

/** The page's own address of a stored run. */
export function addressOf(id: string): string {
  return `?run=${encodeURIComponent(id)}`;
}

export function percent(probability: number): string {
  const value = probability * 100;
  // 99.6 % is not certainty, and neither is 0.4 % impossible
  const digits = value > 99 || value < 1 ? 1 : 0;
  return `${value.toFixed(digits)} %`;
}

export function ruleText(rule: AcceptRule): string {
  switch (rule.rule) {
    case 'single':
      return 'one accept';
    case 'consecutive':
      return `${rule.k} accepts in a row`;
    case 'votes':
      return `${rule.k} of ${rule.n} votes`;
    case 'score':
      return `probability ${rule.threshold} or more`;
  }
}

/** Of the run that goes on: models, rule, seed. */
export function startText(start: SolveStart): string {
  const { generator, verifier } = start.models;
  const shortened = (name: string): string => name.replace(/@sha256:(\w{8})\w*$/, '@$1');
  const models = generator === verifier ? shortened(generator) : `${shortened(generator)} and ${shortened(verifier)}`;
  return `${models} · accept after ${ruleText(start.limits.accept)} · seed ${start.seed}`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return `${minutes} min ${Math.floor(seconds % 60)} s`;
}
