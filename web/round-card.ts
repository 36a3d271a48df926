/** One round on the page: the attempt on the left, what the verifier says of it on the right. */
import { Bar, h, setText } from './dom.ts';
import { markedPieces, type RoundView, type VerificationView } from './run-state.ts';
import { percent, roundName, verdictWords } from './wording.ts';

export class RoundCard {
  readonly element: HTMLElement;
  readonly #round: RoundView;
  readonly #acceptAt: number | undefined;
  readonly #work = h('div', { class: 'work text' });
  readonly #attemptText = document.createTextNode('');
  readonly #attemptState = h('span', { class: 'muted small' });
  readonly #verification = new VerificationPart();
  readonly #marker = h('span', { class: 'chip chip-best', hidden: true }, 'Best');
  readonly #tokens = h('span', { class: 'muted small' });
  #isMarked = false;

  /** `acceptAt`: the probability that the accept rule asks for, shown as a mark on the bar. */
  constructor(round: RoundView, acceptAt: number | undefined) {
    this.#round = round;
    this.#acceptAt = acceptAt;
    this.#work.append(this.#attemptText);
    const id = `round-${round.chain}-${round.round}`;
    const heading = h('h2', { id: `${id}-heading`, tabindex: -1 }, roundName(round));
    this.element = h(
      'li',
      { class: 'card round', id, 'aria-labelledby': heading.id },
      h('div', { class: 'round-head' }, heading, this.#marker, this.#tokens),
      h(
        'div',
        { class: 'sides' },
        h('section', { class: 'side' }, h('h3', {}, 'Attempt ', this.#attemptState), this.#work),
        this.#verification.element,
      ),
    );
    this.update(false);
  }

  update(isBest: boolean): void {
    const round = this.#round;
    const heading = this.element.querySelector('h2');
    if (heading !== null) heading.textContent = roundName(round);
    this.#showAttempt();
    this.#attemptState.textContent = round.isAttemptEnded || round.isEnded ? '' : 'being written…';
    this.#work.classList.toggle('writing', !round.isAttemptEnded && !round.isEnded);
    this.#verification.update(round, this.#acceptAt);
    this.#marker.hidden = !isBest;
    this.#tokens.textContent = round.tokens === 0 ? '' : `${round.tokens} tokens`;
    this.element.classList.toggle('accepted', round.isAccepted);
  }

  #showAttempt(): void {
    const { attempt, verifications } = this.#round;
    const error = verifications.at(-1)?.end?.first_error ?? null;
    const { before, wrong, after } = markedPieces(attempt, error);
    if (error === null || wrong === '') {
      if (this.#isMarked) this.#work.replaceChildren(this.#attemptText);
      this.#isMarked = false;
      setText(this.#attemptText, attempt);
      return;
    }
    if (this.#isMarked) return;
    this.#isMarked = true;
    const mark = h(
      'mark',
      {},
      h('span', { class: 'visually-hidden' }, `First wrong step, step ${error.step}: `),
      wrong,
      h('span', { class: 'visually-hidden' }, ' (end of the wrong step)'),
    );
    const label = h('span', { class: 'step-label', 'aria-hidden': 'true' }, `step ${error.step}`);
    this.#work.replaceChildren(before, mark, label, after);
  }
}

class VerificationPart {
  readonly element: HTMLElement;
  readonly #chip = h('span', { class: 'chip' });
  readonly #bar = new Bar('Probability that the attempt is right');
  readonly #probability = h('span', { class: 'figure' });
  readonly #row = h('div', { class: 'probability', hidden: true });
  readonly #feedback = h('p', { class: 'feedback text' });
  readonly #feedbackText = document.createTextNode('');
  readonly #more = h('p', { class: 'muted small', hidden: true });

  constructor() {
    this.#feedback.append(this.#feedbackText);
    this.#row.append(h('span', { class: 'muted small' }, 'Probability'), this.#bar.element, this.#probability);
    this.element = h(
      'section',
      { class: 'side' },
      h('h3', {}, 'Verification ', this.#chip),
      this.#row,
      this.#feedback,
      this.#more,
    );
  }

  update(round: RoundView, acceptAt: number | undefined): void {
    const latest = round.verifications.at(-1);
    const end = latest?.end;
    this.element.classList.toggle('waiting', latest === undefined);
    this.#chip.hidden = latest === undefined;
    this.#chip.dataset['verdict'] = end?.verdict ?? 'none';
    this.#chip.textContent = end === undefined ? stateOf(round) : chipOf(end.verdict);
    this.#row.hidden = end === undefined;
    if (end !== undefined) {
      this.#bar.set(end.score, percent(end.score), acceptAt);
      if (acceptAt !== undefined) this.#row.title = `Accepted from ${percent(acceptAt)}`;
      this.#bar.element.dataset['verdict'] = end.verdict;
      this.#probability.textContent = percent(end.score);
    }
    const feedback = end?.feedback ?? latest?.texts.find((text) => text !== undefined) ?? '';
    setText(this.#feedbackText, feedback.trimStart());
    const more = moreOf(round.verifications);
    this.#more.hidden = more === '';
    this.#more.textContent = more;
  }
}

function stateOf(round: RoundView): string {
  return round.isEnded ? 'Broken off' : 'Checking…';
}

function chipOf(verdict: 'accept' | 'reject' | 'undetermined'): string {
  const { sign, label } = verdictWords[verdict];
  return `${sign} ${label}`;
}

/** What stands behind a verdict that took several votes or several verifications. */
function moreOf(verifications: readonly VerificationView[]): string {
  const latest = verifications.at(-1);
  const votes = latest?.end?.votes ?? [];
  const signs = (verdicts: readonly ('accept' | 'reject' | 'undetermined')[]): string =>
    verdicts.map((verdict) => verdictWords[verdict].sign).join(' ');
  const parts: string[] = [];
  // votes are numbered across the verifications of a round: the places of the earlier ones stay empty
  const numCast = latest?.texts.filter((text) => text !== undefined).length ?? 0;
  if (votes.length > 1) parts.push(`Votes: ${signs(votes.map(({ verdict }) => verdict))}`);
  else if (latest?.end === undefined && numCast > 1) parts.push(`${numCast} votes being cast`);
  if (verifications.length > 1) {
    const ended = verifications.flatMap(({ end }) => (end === undefined ? [] : [end.verdict]));
    parts.push(`Checked ${verifications.length} times: ${signs(ended)}`);
  }
  return parts.join(' · ');
}
