/** A run on the page: its head with status, budgets and result, and the rounds of each chain. Decides nothing. */
import { Bar, byId, h } from './dom.ts';
import { RoundCard } from './round-card.ts';
import { type Phase, type RoundView, type RunView, tokensOf } from './run-state.ts';
import { serverNow } from './server-clock.ts';
import { duration, endText, percent, roundName, startText, statusWords } from './wording.ts';

const phaseWords: Readonly<Record<Exclude<Phase, 'ended'>, string>> = {
  connecting: 'Starting…',
  live: 'Running',
  reconnecting: 'Reconnecting…',
  stopping: 'Stopping…',
  lost: 'Connection lost',
};

export class RunPanel {
  readonly #section = byId('run', HTMLElement);
  readonly #heading = byId('run-heading', HTMLElement);
  readonly #status = byId('status', HTMLElement);
  readonly #statusText = byId('status-text', HTMLElement);
  readonly #result = byId('result', HTMLElement);
  readonly #tabList = byId('chain-tabs', HTMLElement);
  readonly #panelBox = byId('chain-panels', HTMLElement);
  readonly #tokens = new Meter('Tokens');
  readonly #time = new Meter('Time');
  readonly #changed = new Set<RoundView>();
  #run: RunView | undefined;
  #cards = new Map<RoundView, RoundCard>();
  /** Per chain: its tab, its panel, the list of rounds in it. */
  #lists: HTMLElement[] = [];
  #panels: HTMLElement[] = [];
  #tabs: HTMLButtonElement[] = [];
  #shownChain = 0;
  #isChainChosen = false;
  #frame: number | undefined;
  #phase: Phase = 'connecting';

  constructor() {
    byId('budgets', HTMLElement).append(this.#tokens.element, this.#time.element);
    this.#tabList.addEventListener('keydown', (event) => this.#walkTabs(event));
  }

  hide(): void {
    this.#section.hidden = true;
    this.#run = undefined;
  }

  /** Begins to show another run. */
  show(run: RunView, problem: string): void {
    this.#run = run;
    this.#section.hidden = false;
    this.#heading.textContent = problem;
    this.#cards = new Map();
    this.#lists = [];
    this.#panels = [];
    this.#tabs = [];
    this.#shownChain = 0;
    this.#isChainChosen = false;
    this.#changed.clear();
    this.#tabList.replaceChildren();
    this.#tabList.hidden = true;
    this.#panelBox.replaceChildren();
    this.#result.hidden = true;
    this.setPhase('connecting');
  }

  focus(): void {
    this.#heading.focus({ preventScroll: true });
  }

  setPhase(phase: Phase): void {
    this.#phase = phase;
    this.#draw();
  }

  /** Something of the run has changed; it is drawn with the next frame. */
  touch(round: RoundView | undefined): void {
    if (round !== undefined) this.#changed.add(round);
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = undefined;
      this.#draw();
    });
    // hidden tabs get no frames, and the page must not fall behind without bound
    if (document.hidden) {
      cancelAnimationFrame(this.#frame);
      this.#frame = undefined;
      this.#draw();
    }
  }

  /** The clock; call it about every second while the run goes on. */
  tick(): void {
    const start = this.#run?.start;
    if (this.#run === undefined || start === undefined) return;
    const end = this.#run.end;
    const seconds = end === undefined ? Math.max(0, serverNow() / 1000 - start.created) : end.timings.total_ms / 1000;
    this.#time.set(seconds, start.limits.budget.seconds, duration);
  }

  #draw(): void {
    const run = this.#run;
    if (run === undefined) return;
    const isFollowing = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 160;
    this.#drawHead(run);
    for (const round of this.#changed) this.#drawRound(run, round);
    this.#changed.clear();
    this.#drawTabs(run);
    this.tick();
    if (isFollowing && this.#phase === 'live') window.scrollTo({ top: document.documentElement.scrollHeight });
  }

  #drawHead(run: RunView): void {
    const { start, end } = run;
    if (start !== undefined) this.#heading.textContent = start.problem;
    const phase = end === undefined ? this.#phase : 'ended';
    this.#status.dataset['status'] = end?.status ?? phase;
    this.#status.textContent =
      end === undefined || phase !== 'ended' ? phaseText(this.#phase) : statusWords[end.status];
    this.#statusText.textContent = end === undefined ? whereText(run) : endText(end);
    if (start !== undefined) this.#tokens.set(tokensOf(run), start.limits.budget.tokens, (count) => String(count));
    this.#section.toggleAttribute('data-live', end === undefined && phase !== 'lost');
    if (end !== undefined) this.#drawResult(run);
  }

  #drawResult(run: RunView): void {
    const { end, start } = run;
    if (end === undefined || !this.#result.hidden) return;
    const { chain, round } = end;
    const best = chain === null || round === null ? undefined : run.chains[chain]?.[round];
    const parts: Node[] = [];
    if (end.answer !== null) {
      const label = end.status === 'accepted' ? 'Answer' : 'Best answer found';
      parts.push(h('p', { class: 'answer' }, h('span', { class: 'muted' }, `${label} `), h('strong', {}, end.answer)));
    }
    if (best !== undefined) {
      const link = h('a', { href: `#round-${best.chain}-${best.round}` }, roundName(best));
      const score = end.score === null ? '' : `, probability ${percent(end.score)}`;
      link.addEventListener('click', (event) => {
        event.preventDefault();
        this.#choose(best.chain, true);
        const heading = document.getElementById(`round-${best.chain}-${best.round}-heading`);
        heading?.scrollIntoView({ block: 'start' });
        heading?.focus({ preventScroll: true });
      });
      const chainText = run.chains.length > 1 ? ` of chain ${best.chain + 1}` : '';
      parts.push(h('p', { class: 'muted' }, 'See ', link, `${chainText}${score}`));
    }
    if (start !== undefined) parts.push(h('p', { class: 'muted small' }, startText(start)));
    this.#result.replaceChildren(...parts);
    this.#result.hidden = parts.length === 0;
    if (chain !== null && !this.#isChainChosen) this.#choose(chain, false);
    for (const card of this.#cards.keys()) this.#changed.add(card);
  }

  #drawRound(run: RunView, round: RoundView): void {
    // replaced since by a repeated round
    if (run.chains[round.chain]?.[round.round] !== round) return;
    const list = this.#listOf(round.chain);
    let card = this.#cards.get(round);
    if (card === undefined) {
      const rule = run.start?.limits.accept;
      card = new RoundCard(round, rule?.rule === 'score' ? rule.threshold : undefined);
      this.#cards.set(round, card);
      for (const [old, stale] of this.#cards) {
        if (old.chain === round.chain && old.round >= round.round && old !== round) {
          stale.element.remove();
          this.#cards.delete(old);
        }
      }
      list.append(card.element);
    }
    const { best } = run;
    card.update(false);
    for (const [other, shown] of this.#cards) {
      const isBest = best !== null && other.chain === best.chain && other.round === best.round;
      if (other.isEnded) shown.update(isBest && !other.isAccepted && this.#cards.size > 1);
    }
  }

  #listOf(chain: number): HTMLElement {
    for (let index = this.#lists.length; index <= chain; index++) {
      const list = h('ol', { class: 'rounds' });
      const panel = h('div', { id: `chain-${index}`, hidden: index !== this.#shownChain }, list);
      const tab = h('button', { type: 'button', role: 'tab', id: `tab-${index}`, 'aria-controls': panel.id });
      tab.addEventListener('click', () => this.#choose(index, true));
      this.#lists.push(list);
      this.#panels.push(panel);
      this.#tabs.push(tab);
      this.#panelBox.append(panel);
      this.#tabList.append(tab);
    }
    return this.#lists[chain] as HTMLElement;
  }

  #drawTabs(run: RunView): void {
    if (run.chains.length < 2) return;
    this.#listOf(run.chains.length - 1);
    this.#tabList.hidden = false;
    for (const [index, tab] of this.#tabs.entries()) {
      tab.textContent = `Chain ${index + 1}${standing(run.chains[index] ?? [])}`;
      tab.setAttribute('aria-selected', String(index === this.#shownChain));
      tab.tabIndex = index === this.#shownChain ? 0 : -1;
      const panel = this.#panels[index];
      panel?.setAttribute('role', 'tabpanel');
      panel?.setAttribute('aria-labelledby', tab.id);
    }
  }

  #choose(chain: number, byUser: boolean): void {
    this.#shownChain = chain;
    this.#isChainChosen ||= byUser;
    for (const [index, panel] of this.#panels.entries()) panel.hidden = index !== chain;
    if (this.#run !== undefined) this.#drawTabs(this.#run);
  }

  #walkTabs(event: KeyboardEvent): void {
    const last = this.#tabs.length - 1;
    const targets: Readonly<Record<string, number>> = {
      ArrowRight: this.#shownChain === last ? 0 : this.#shownChain + 1,
      ArrowLeft: this.#shownChain === 0 ? last : this.#shownChain - 1,
      Home: 0,
      End: last,
    };
    const target = targets[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#choose(target, true);
    this.#tabs[target]?.focus();
  }
}

/** An amount, and how much of its budget that is where there is one. */
class Meter {
  readonly element: HTMLElement;
  readonly #bar: Bar;
  readonly #text = h('span', { class: 'figure' });

  constructor(label: string) {
    this.#bar = new Bar(`${label} of the budget`);
    this.#bar.element.hidden = true;
    this.element = h('div', { class: 'meter' }, h('span', { class: 'muted' }, label), this.#bar.element, this.#text);
  }

  set(amount: number, budget: number | null, show: (amount: number) => string): void {
    const text = budget === null ? show(amount) : `${show(amount)} of ${show(budget)}`;
    this.#text.textContent = text;
    this.#bar.element.hidden = budget === null;
    if (budget !== null) this.#bar.set(amount / budget, text);
  }
}

/** How a chain stands, in a few characters for its tab. */
function standing(rounds: readonly RoundView[]): string {
  if (rounds.some((round) => round.isAccepted)) return ' ✓';
  const scores = rounds.flatMap(({ verifications }) => verifications.at(-1)?.end?.score ?? []);
  const latest = scores.at(-1);
  return latest === undefined ? '' : ` · ${percent(latest)}`;
}

function phaseText(phase: Phase): string {
  return phase === 'ended' ? 'Ended' : phaseWords[phase];
}

function whereText(run: RunView): string {
  if (run.chains.length !== 1) return '';
  const current = run.chains[0]?.at(-1);
  if (current === undefined) return '';
  const step = current.isAttemptEnded ? 'being checked' : 'being written';
  return `${roundName(current)} is ${current.isEnded ? 'checked' : step}`;
}
