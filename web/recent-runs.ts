/** The list of stored runs under the form: what was asked before, to be opened again. Hidden where there is nothing to show. */
import type { SolveListEntry, StvClient } from '../src/client/client.ts';
import { byId, h } from './dom.ts';
import { addressOf, statusWords } from './wording.ts';

const maxRuns = 8;
/** A problem's beginning says enough. */
const maxChars = 110;

export class RecentRuns {
  readonly #client: StvClient;
  readonly #section = byId('recent', HTMLElement);
  readonly #list = byId('recent-list', HTMLUListElement);

  /** The form may be gone by the time the answer comes. */
  #isWanted = false;

  constructor(client: StvClient) {
    this.#client = client;
  }

  hide(): void {
    this.#isWanted = false;
    this.#section.hidden = true;
  }

  /** Asks anew. A server that refuses or keeps no runs shows none; asking for a key is left to what the user does. */
  async refresh(): Promise<void> {
    this.#isWanted = true;
    const runs = await this.#client.listSolves({ limit: maxRuns }).then(
      ({ data }) => data,
      () => [],
    );
    this.#list.replaceChildren(...runs.map(entryOf));
    this.#section.hidden = runs.length === 0 || !this.#isWanted;
  }
}

function entryOf({ id, problem, status, answer, created }: SolveListEntry): HTMLLIElement {
  const line = problem.replaceAll(/\s+/g, ' ').trim();
  const words = line.length > maxChars ? `${line.slice(0, maxChars)}…` : line;
  const isEnded = status !== 'queued' && status !== 'running' && status !== 'parked';
  const state = isEnded ? statusWords[status] : 'Running';
  const found = answer === null ? '' : ` · ${answer}`;
  const at = new Date(created * 1000);
  return h(
    'li',
    {},
    h('a', { href: addressOf(id) }, words),
    h(
      'span',
      { class: 'muted small' },
      `${state}${found} · `,
      h(
        'time',
        { datetime: at.toISOString() },
        at.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' }),
      ),
    ),
  );
}
