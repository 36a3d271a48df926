/** `stv solve`: runs the loop on a server. Rounds on stderr as they happen, the solution on stdout. */
import { type Command, Option } from 'commander';
import type { Solve, SolveEvent, SolveRequest } from '../client/client.ts';
import { acceptRule, integer, number } from './flag-values.ts';
import { createLiveText, forStdout, type LiveText } from './live-text.ts';
import { addRemoteFlags, exitCodes, type RemoteOptions, readText, UsageError, withServer } from './remote-call.ts';

interface SolveOptions extends RemoteOptions {
  readonly file?: string;
  readonly attempt?: string;
  readonly attemptFile?: string;
  readonly maxRounds?: number;
  readonly chains?: number;
  readonly accept?: SolveRequest['accept'];
  readonly giveUp?: number;
  readonly tokens?: number;
  readonly seconds?: number;
  readonly onExhausted?: 'best' | 'last' | 'abstain';
  readonly seed?: number;
  readonly store?: boolean;
  readonly follow?: string;
}

/** Adds the command; `done` gets its exit code. */
export function addSolve(program: Command, done: (exitCode: number) => void): void {
  addRemoteFlags(program.command('solve'))
    .description('Solve a problem with a running server, round by round')
    .argument('[problem]', 'the problem; or --file, or standard input')
    .option('-f, --file <file>', 'file with the problem; - is standard input')
    .option('-a, --attempt <text>', 'begin by verifying this attempt')
    .option('--attempt-file <file>', 'file with the attempt to begin with')
    .option('--max-rounds <n>', 'refinements after the first attempt', integer(0))
    .option('--chains <n>', 'independent chains', integer(1))
    .option('--accept <rule>', 'single, consecutive:K, votes:K/N or score:THRESHOLD', acceptRule)
    .option('--give-up <n>', 'give a chain up after so many rejects in a row', integer(1))
    .option('--tokens <n>', 'token budget of the run', integer(1))
    .option('--seconds <n>', 'time budget of the run', number(0.001))
    .addOption(
      new Option('--on-exhausted <what>', 'what to give when nothing was accepted').choices([
        'best',
        'last',
        'abstain',
      ]),
    )
    .option('--seed <n>', 'seed of the run', integer(0))
    .option('--store', 'keep the run on the server: it outlives lost connections and can be followed again')
    .option('--follow <id>', 'show a stored run from its beginning and follow it instead of starting one')
    .action(async (problem: string | undefined, options: SolveOptions) => done(await solve(problem, options)));
}

function solve(given: string | undefined, options: SolveOptions): Promise<number> {
  return withServer(options, async (client, signal) => {
    const live = createLiveText();
    const onReconnect = (): void => live.line('The connection was lost; taking the run up again.');
    let id: string | undefined;
    const watch = async (events: AsyncIterable<SolveEvent>): Promise<number> => {
      let end: Solve | undefined;
      const shown: Shown = { numChains: 1, vote: undefined };
      for await (const event of events) {
        if (event.event === 'solve-start') {
          id = event.data.solve_id;
          shown.numChains = event.data.limits.chains;
        }
        show(event, live, shown);
        if (event.event === 'solve-end') {
          const { solve_id: _, ...answer } = event.data;
          end = answer;
        }
      }
      return print(end as Solve, options, live);
    };
    if (options.follow !== undefined) {
      return watch(client.solveEvents(options.follow, { signal, onReconnect }));
    }
    const request = await readRequest(given, options);
    try {
      return await watch(client.solveStream(request, { signal, onReconnect }));
    } finally {
      // only a run that is not stored ends with its connection
      if (signal.aborted && options.store === true && id !== undefined) {
        live.line(`The run goes on at the server: stv solve --follow ${id}`);
      }
    }
  });
}

async function readRequest(given: string | undefined, options: SolveOptions): Promise<SolveRequest> {
  const problem = await readText({ name: 'the problem', given, file: options.file, fromStdin: true });
  if (problem === undefined || problem.trim() === '') {
    throw new UsageError('A problem is needed: as argument, with --file or on standard input.');
  }
  const attempt = await readText({ name: 'the attempt', given: options.attempt, file: options.attemptFile });
  const { tokens, seconds } = options;
  const budget = { ...(tokens === undefined ? {} : { tokens }), ...(seconds === undefined ? {} : { seconds }) };
  return {
    problem,
    ...(attempt === undefined ? {} : { initial_attempt: attempt }),
    ...(options.maxRounds === undefined ? {} : { max_rounds: options.maxRounds }),
    ...(options.chains === undefined ? {} : { chains: options.chains }),
    ...(options.accept === undefined ? {} : { accept: options.accept }),
    ...(options.giveUp === undefined ? {} : { give_up: { rejects_in_a_row: options.giveUp } }),
    ...(Object.keys(budget).length === 0 ? {} : { budget }),
    ...(options.onExhausted === undefined ? {} : { on_exhausted: options.onExhausted }),
    ...(options.seed === undefined ? {} : { seed: options.seed }),
    ...(options.store === true ? { store: true } : {}),
  };
}

interface Shown {
  numChains: number;
  /** Whose words are shown of the verification that goes on: votes are numbered across those of a round. */
  vote: number | undefined;
}

/** One chain is shown word by word; of several, each finished text, because their words come mixed. */
function show(event: SolveEvent, live: LiveText, shown: Shown): void {
  const isSingle = shown.numChains === 1;
  const { event: name, data } = event;
  const place = 'round' in data && name !== 'solve-end' ? placeOf(data.chain, data.round, isSingle) : '';
  switch (name) {
    case 'solve-start':
      live.heading(`${data.solve_id}  seed ${data.seed}`);
      break;
    case 'attempt-start':
      if (isSingle) live.heading(`${place}: attempt`);
      break;
    case 'attempt-delta':
      if (isSingle) live.piece(data.text);
      break;
    case 'attempt-end':
      // of what was generated every piece has been shown; an attempt of the caller cost nothing and has none
      if (isSingle && data.usage.total_tokens > 0) break;
      if (!isSingle) live.heading(`${place}: attempt`);
      live.piece(data.attempt);
      break;
    case 'verification-start':
      shown.vote = undefined;
      if (isSingle) live.heading(`${place}: verification`);
      break;
    case 'verification-delta':
      shown.vote ??= data.vote;
      if (isSingle && data.vote === shown.vote) live.piece(data.text);
      break;
    case 'verification-end':
      if (!isSingle) {
        live.heading(`${place}: verification`);
        live.piece(data.feedback);
      }
      live.verdict(data);
      break;
    default:
      break;
  }
}

function placeOf(chain: number, round: number, isSingle: boolean): string {
  return isSingle ? `Round ${round}` : `Chain ${chain}, round ${round}`;
}

function print(answer: Solve, { json }: SolveOptions, live: LiveText): number {
  const why = answer.stop_reason === null || answer.stop_reason === answer.status ? '' : ` (${answer.stop_reason})`;
  const score = answer.score === null ? '' : `, P(accept) ${answer.score.toFixed(3)}`;
  live.heading(`${answer.status}${why}${score}, ${answer.usage.total_tokens} tokens`);
  if (answer.error !== null) live.line(answer.error.message);
  if (json === true) process.stdout.write(`${JSON.stringify(answer)}\n`);
  else if (answer.solution !== null) process.stdout.write(`${forStdout(answer.solution)}\n`);
  if (answer.status === 'accepted') return exitCodes.accepted;
  return answer.status === 'failed' ? exitCodes.server : exitCodes.notAccepted;
}
