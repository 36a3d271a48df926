// Clients of every kind that keep a server busy and note how each request ended.
import { endedOnce, post, words } from './client.mjs';
import { sleep } from './report.mjs';

const lesson = 'A pen costs 3 euros and a book costs 5 euros. How much do two pens and one book cost together?';

/** Requests of both roles and of every phase: short and long prompts, votes, scores, loops. */
export const requestKinds = [
  {
    name: 'chat',
    kind: 'openai',
    route: '/v1/chat/completions',
    body: (n) => ({
      model: 'generator',
      messages: [{ role: 'user', content: words(n, 24) }],
      max_tokens: 40,
      ignore_eos: true,
    }),
  },
  {
    name: 'long prompt',
    kind: 'openai',
    route: '/v1/completions',
    body: (n) => ({ model: 'generator', prompt: words(n, 500), max_tokens: 4, ignore_eos: true }),
  },
  {
    name: 'votes',
    kind: 'named',
    route: '/verify',
    body: (n) => ({
      problem: `${lesson} ${words(n, 10)}`,
      solution: '2 * 3 + 5 = 11',
      votes: 3,
      max_tokens: 24,
      early_stop: false,
    }),
  },
  {
    name: 'score',
    kind: 'json',
    route: '/verify',
    body: (n) => ({ problem: `${lesson} ${words(n, 40)}`, solution: '2 * 3 + 5 = 11', mode: 'score' }),
  },
  {
    name: 'solve',
    kind: 'named',
    route: '/solve',
    body: (n) => ({
      problem: `${lesson} ${words(n, 10)}`,
      max_rounds: 1,
      accept: { rule: 'consecutive', k: 2 },
      generator: { max_tokens: 24 },
      verifier: { max_tokens: 16 },
    }),
  },
];

/** Where a request stands, from what its client has seen. */
function phaseOf({ name }, result) {
  const last = result.events.at(-1)?.event;
  if (result.openedAt === undefined || (result.firstTokenAt === undefined && last !== 'verification-start'))
    return 'waiting or prefill';
  if (name === 'votes') return 'voting';
  if (name !== 'solve') return 'decode';
  if (last === 'attempt-delta' || last === 'attempt-start') return 'decode';
  return last?.startsWith('verification') ? 'voting' : 'between rounds';
}

export class MixedLoad {
  /** Finished requests, oldest first: `{spec, result}`. */
  done = [];
  #open = new Set();
  #isOver = false;
  #next;
  #workers;

  /** `clients` of them side by side, each with one request at a time; a refusal is repeated after its retry-after. */
  constructor(url, { clients, seed = 1, keep = () => true, kinds = requestKinds, headers = {} }) {
    this.#next = seed * 1_000_000;
    this.#workers = Array.from({ length: clients }, (_, client) => this.#work(url, client, kinds, keep, headers));
  }

  /** Requests under way, with the phase of each. */
  open() {
    return [...this.#open].map((entry) => ({ ...entry, phase: phaseOf(entry.spec, entry.result) }));
  }

  async stop() {
    this.#isOver = true;
    await Promise.all(this.#workers);
  }

  async #work(url, client, kinds, keep, headers) {
    for (let turn = client; !this.#isOver; turn += 1) {
      const spec = kinds[turn % kinds.length];
      const entry = { spec, result: { events: [] } };
      this.#open.add(entry);
      const ended = post(url, spec.route, spec.body(this.#next++), {
        kind: spec.kind,
        headers,
        onOpen: (result) => {
          entry.result = result;
        },
      });
      entry.ended = ended;
      const result = await ended;
      this.#open.delete(entry);
      if (keep(result)) this.done.push({ spec, result });
      if (result.end === 'refused') await sleep(Math.min(1000, Number(result.headers['retry-after-ms'] ?? 200)));
      else if (result.end === 'broken') await sleep(100);
    }
  }
}

/** How many of these ended otherwise than once. */
export function notEndedOnce(done) {
  return done.filter(({ spec, result }) => !endedOnce(result, spec.kind));
}
