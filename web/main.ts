/** The page: one run at a time, begun here or found under the address, followed until it ends. */
import { createClient, type EventsOptions, type SolveEvent, StvApiError } from '../src/client/client.ts';
import { Composer, type Wanted } from './composer.ts';
import { byId, h } from './dom.ts';
import { askForKey, currentKey } from './key.ts';
import { RecentRuns } from './recent-runs.ts';
import { RunPanel } from './run-panel.ts';
import {
  applyEvent,
  attemptToResume,
  emptyRun,
  phaseOf,
  type RoundView,
  type RunView,
  type StreamState,
} from './run-state.ts';
import { timedFetch } from './server-clock.ts';
import { addressOf, endText, percent, roundName, statusWords, verdictWords } from './wording.ts';

const baseUrl = new URL('.', document.baseURI).href;
const client = createClient({ baseUrl, apiKey: currentKey, fetch: timedFetch });
const composer = new Composer((wanted) => void begin(wanted));
const panel = new RunPanel();
const recent = new RecentRuns(client);
const notice = byId('notice', HTMLElement);
const announcer = byId('announcer', HTMLElement);
const note = byId('run-note', HTMLElement);
const buttons = {
  stop: byId('stop', HTMLButtonElement),
  resume: byId('resume', HTMLButtonElement),
  share: byId('share', HTMLButtonElement),
  again: byId('again', HTMLButtonElement),
  key: byId('key-button', HTMLButtonElement),
};

/** The run that the page shows, and the end of its interest in it. */
interface Shown {
  readonly run: RunView;
  readonly controller: AbortController;
  isStored: boolean;
  stream: StreamState;
  /** Seen through somebody's link: to read, not to steer. */
  readonly shareToken: string | undefined;
}

let shown: Shown | undefined;
let clock: ReturnType<typeof setInterval> | undefined;

/** Starts a run that the server keeps, so that it outlives this page; where it keeps none, one that ends with the page. */
async function begin(wanted: Wanted): Promise<void> {
  const current = show(wanted.problem);
  const { signal } = current.controller;
  history.pushState(null, '', './');
  const start = (isStored: boolean): Promise<void> => {
    const { id } = current.run;
    // a key that was refused in its middle: the run goes on, and no second one is begun
    if (id !== undefined && isStored) return join(id, undefined);
    current.isStored = isStored;
    const request = { ...wanted, store: isStored };
    return follow(current, client.solveStream(request, { signal, ...watching(current) }));
  };
  try {
    await withKey(() =>
      start(true).catch((thrown: unknown) => {
        if (current.run.start === undefined && isUnstorable(thrown)) return start(false);
        throw thrown;
      }),
    );
  } catch (thrown) {
    if (signal.aborted) return;
    if (current.run.start !== undefined) return lose(current, thrown);
    leave();
    composer.showError(messageOf(thrown), thrown instanceof StvApiError ? thrown.param : undefined);
  }
}

/** The server keeps no runs, or can keep none at the moment. */
function isUnstorable(thrown: unknown): boolean {
  return thrown instanceof StvApiError && (thrown.param === 'store' || thrown.code === 'storage_full');
}

/** Replays a run of the server and follows it. */
async function join(id: string, shareToken: string | undefined): Promise<void> {
  const current = show('', shareToken);
  const { signal } = current.controller;
  current.isStored = true;
  const events = () => client.solveEvents(id, { signal, shareToken, ...watching(current) });
  try {
    await withKey(() => follow(current, events()));
  } catch (thrown) {
    if (signal.aborted) return;
    if (current.run.start !== undefined) return lose(current, thrown);
    leave();
    history.replaceState(null, '', './');
    say(`This run cannot be shown. ${messageOf(thrown)}`);
  }
}

/** What the client tells of the run's connection. */
function watching(current: Shown): Required<Pick<EventsOptions, 'onReconnect' | 'onReconnected'>> {
  return { onReconnect: () => setStream(current, 'down'), onReconnected: () => setStream(current, 'up') };
}

function setStream(current: Shown, stream: StreamState): void {
  current.stream = stream;
  drawPhase(current);
}

function drawPhase({ run, stream }: Shown): void {
  panel.setPhase(phaseOf(run, stream, buttons.stop.disabled));
}

async function follow(current: Shown, events: AsyncIterable<SolveEvent>): Promise<void> {
  for await (const event of events) {
    if (shown !== current) return;
    const round = applyEvent(current.run, event);
    if (event.event === 'solve-start') started(current);
    panel.touch(round);
    announce(event, round);
  }
  ended(current);
}

function started(current: Shown): void {
  const { run, isStored, shareToken } = current;
  setStream(current, 'up');
  if (isStored && run.id !== undefined) {
    const fragment = shareToken === undefined ? '' : `#token=${encodeURIComponent(shareToken)}`;
    history.replaceState(null, '', `${addressOf(run.id)}${fragment}`);
  }
  const isOwn = shareToken === undefined;
  buttons.stop.hidden = !isOwn;
  buttons.share.hidden = !isOwn || !isStored;
  const earlier = run.start?.metadata?.['continues'];
  const notes: (Node | string)[] = [
    ...(earlier === undefined ? [] : ['Goes on from ', earlierRun(earlier, isOwn && isStored), '. ']),
    ...(isStored ? [] : ['This server keeps no runs: leaving the page ends this one. ']),
    ...(isOwn ? [] : ['You are reading a shared run.']),
  ];
  note.hidden = notes.length === 0;
  note.replaceChildren(...notes);
}

/** A link where the run can be opened: a share link opens one run only. */
function earlierRun(id: string, isReachable: boolean): Node | string {
  return isReachable ? h('a', { href: addressOf(id) }, 'an earlier run') : 'an earlier run';
}

function ended(current: Shown): void {
  clearInterval(clock);
  panel.setPhase('ended');
  buttons.stop.hidden = true;
  const { end } = current.run;
  const isOwn = current.shareToken === undefined;
  buttons.resume.hidden = !isOwn || end === undefined || end.status === 'accepted';
  buttons.resume.textContent = end?.status === 'cancelled' ? 'Resume' : 'Go on from here';
}

function lose(current: Shown, thrown: unknown): void {
  clearInterval(clock);
  setStream(current, 'lost');
  buttons.stop.hidden = true;
  buttons.resume.hidden = current.shareToken !== undefined;
  buttons.resume.textContent = 'Resume';
  say(messageOf(thrown));
}

async function stop(): Promise<void> {
  const current = shown;
  const id = current?.run.id;
  if (current === undefined || id === undefined) return;
  buttons.stop.disabled = true;
  panel.setPhase('stopping');
  try {
    await withKey(() => client.cancelSolve(id));
  } catch (thrown) {
    if (shown !== current) return;
    buttons.stop.disabled = false;
    drawPhase(current);
    // it may have ended in between
    if (current.run.end === undefined) say(messageOf(thrown));
  }
}

/** A run that has ended cannot go on; a new one with the same wishes takes up its best attempt. */
async function resume(): Promise<void> {
  const current = shown;
  const start = current?.run.start;
  if (current === undefined || start === undefined) return;
  // the stream was lost but the run may still be going on
  if (current.run.end === undefined && current.isStored) return join(start.solve_id, undefined);
  const from = attemptToResume(current.run);
  const { limits } = start;
  const budget = {
    ...(limits.budget.tokens === null ? {} : { tokens: limits.budget.tokens }),
    ...(limits.budget.seconds === null ? {} : { seconds: limits.budget.seconds }),
  };
  await begin({
    problem: start.problem,
    max_rounds: limits.max_rounds,
    chains: limits.chains,
    accept: limits.accept,
    ...(limits.give_up === null ? {} : { give_up: limits.give_up }),
    on_exhausted: limits.on_exhausted,
    stop_chains: limits.stop_chains,
    generator: start.generator,
    verifier: start.verifier,
    ...(Object.keys(budget).length === 0 ? {} : { budget }),
    ...(from === undefined ? {} : { initial_attempt: from.attempt }),
    metadata: { continues: start.solve_id },
  });
}

async function share(): Promise<void> {
  const id = shown?.run.id;
  if (id === undefined) return;
  try {
    const { token } = await withKey(() => client.shareSolve(id));
    const link = new URL(`?run=${encodeURIComponent(id)}#token=${encodeURIComponent(token)}`, document.baseURI).href;
    // clipboards need a secure page
    const isCopied = await navigator.clipboard?.writeText(link).then(
      () => true,
      () => false,
    );
    if (isCopied === true) say('The link is copied. Whoever has it can read this run, and nothing else.', 6000);
    else window.prompt('Whoever has this link can read this run, and nothing else:', link);
  } catch (thrown) {
    say(messageOf(thrown));
  }
}

function show(problem: string, shareToken?: string): Shown {
  shown?.controller.abort();
  const controller = new AbortController();
  const current: Shown = { run: emptyRun(), controller, isStored: false, stream: 'up', shareToken };
  shown = current;
  say(undefined);
  composer.show(false);
  recent.hide();
  panel.show(current.run, problem);
  panel.focus();
  buttons.stop.hidden = true;
  buttons.stop.disabled = false;
  buttons.resume.hidden = true;
  buttons.share.hidden = true;
  note.hidden = true;
  clearInterval(clock);
  clock = setInterval(() => panel.tick(), 1000);
  return current;
}

/** Back to the form. A stored run goes on without the page. */
function leave(): void {
  shown?.controller.abort();
  shown = undefined;
  clearInterval(clock);
  panel.hide();
  composer.show(true);
  void recent.refresh();
}

/** Asks for a key when the server wants one, and tries again with it. */
async function withKey<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (thrown) {
      const isRefused = thrown instanceof StvApiError && thrown.status === 401;
      if (!isRefused) throw thrown;
      const reason = currentKey() === undefined ? 'This server asks for a key' : 'The server does not know this key';
      if (!(await askForKey(reason))) throw thrown;
    }
  }
}

/** Tells readers that cannot see the page what has come out, once a round; a token at a time would be noise. */
function announce({ event, data }: SolveEvent, round: RoundView | undefined): void {
  if (event === 'verification-end' && round !== undefined) {
    const chain = (shown?.run.chains.length ?? 1) > 1 ? `Chain ${round.chain + 1}, ` : '';
    const step = data.first_error === null ? '' : `, first wrong step: step ${data.first_error.step}`;
    const { label } = verdictWords[data.verdict];
    announcer.textContent = `${chain}${roundName(round)}: ${label}, probability ${percent(data.score)}${step}.`;
  }
  if (event === 'solve-end') {
    const answer = data.answer === null ? '' : ` Answer: ${data.answer}.`;
    announcer.textContent = `${statusWords[data.status]}. ${endText(data)}${answer}`;
  }
}

function say(message: string | undefined, forMs?: number): void {
  notice.hidden = message === undefined;
  notice.textContent = message ?? '';
  if (forMs !== undefined) {
    setTimeout(() => {
      if (notice.textContent === message) notice.hidden = true;
    }, forMs);
  }
}

function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** Shows what the address names: a run, or the form. */
function route(): void {
  const id = new URLSearchParams(location.search).get('run');
  const token = new URLSearchParams(location.hash.slice(1)).get('token') ?? undefined;
  if (id === null) {
    leave();
    say(undefined);
  } else {
    void join(id, token);
  }
}

/** Until the models are there the page says so; requests wait for them as far as the client tries again. */
async function watchReadiness(): Promise<void> {
  const asking = createClient({ baseUrl, maxRetries: 0 });
  let told = '';
  for (;;) {
    const reason = await asking.ready().then(
      () => undefined,
      (thrown: unknown) =>
        thrown instanceof StvApiError
          ? 'The server is getting ready: its models are not loaded yet.'
          : messageOf(thrown),
    );
    // what else was said meanwhile stays
    const isOwn = notice.hidden || notice.textContent === told;
    if (isOwn) say(reason);
    if (reason === undefined) return;
    told = reason;
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

buttons.stop.addEventListener('click', () => void stop());
buttons.resume.addEventListener('click', () => void resume());
buttons.share.addEventListener('click', () => void share());
buttons.key.addEventListener('click', () => void askForKey('Use another key'));
buttons.again.addEventListener('click', () => {
  history.pushState(null, '', './');
  route();
  composer.focus();
});
byId('skip', HTMLAnchorElement).addEventListener('click', (event) => {
  // as an address of its own it would be another run, or none
  event.preventDefault();
  byId('main', HTMLElement).focus();
});
window.addEventListener('popstate', route);
buttons.key.hidden = currentKey() === undefined;
route();
void watchReadiness();
