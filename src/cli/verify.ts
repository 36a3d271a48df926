/** `stv verify`: asks a running server to verify one solution. Feedback on stderr as it comes, the result on stdout. */
import type { Command } from 'commander';
import type { Verification } from '../client/client.ts';
import { integer } from './flag-values.ts';
import { createLiveText, forStdout } from './live-text.ts';
import { addRemoteFlags, exitCodes, type RemoteOptions, readText, UsageError, withServer } from './remote-call.ts';

interface VerifyOptions extends RemoteOptions {
  readonly file?: string;
  readonly solution?: string;
  readonly solutionFile?: string;
  readonly referenceFile?: string;
  readonly votes?: number;
  readonly seed?: number;
  readonly scoreOnly?: boolean;
}

/** Adds the command; `done` gets its exit code. */
export function addVerify(program: Command, done: (exitCode: number) => void): void {
  addRemoteFlags(program.command('verify'))
    .description('Verify a solution with a running server')
    .argument('[problem]', 'the problem; or --file')
    .option('-f, --file <file>', 'file with the problem; - is standard input')
    .option('-s, --solution <text>', 'the solution to judge')
    .option('--solution-file <file>', 'file with the solution; without either it comes from standard input')
    .option('--reference-file <file>', 'file with a reference solution')
    .option('--votes <n>', 'votes to cast', integer(1))
    .option('--score-only', 'the probability alone, without feedback')
    .option('--seed <n>', 'seed of the sampling', integer(0))
    .action(async (problem: string | undefined, options: VerifyOptions) => done(await verify(problem, options)));
}

function verify(given: string | undefined, options: VerifyOptions): Promise<number> {
  return withServer(options, async (client, signal) => {
    if (options.file === '-' && options.solution === undefined && options.solutionFile === undefined) {
      throw new UsageError('Standard input holds one text: give the problem or the solution in another way.');
    }
    const problem = await readText({ name: 'the problem', given, file: options.file });
    if (problem === undefined) throw new UsageError('A problem is needed: as argument or with --file.');
    const solution = await readText({
      name: 'the solution',
      given: options.solution,
      file: options.solutionFile,
      fromStdin: true,
    });
    if (solution === undefined) {
      throw new UsageError('A solution is needed: with --solution, --solution-file or on standard input.');
    }
    const reference = await readText({ name: 'the reference', given: undefined, file: options.referenceFile });
    const live = createLiveText();
    const events = client.verifyStream(
      {
        problem,
        solution,
        ...(reference === undefined ? {} : { reference }),
        ...(options.votes === undefined ? {} : { votes: options.votes }),
        ...(options.seed === undefined ? {} : { seed: options.seed }),
        ...(options.scoreOnly === true ? { mode: 'score' as const } : {}),
      },
      { signal },
    );
    const isLive = (options.votes ?? 1) === 1;
    let result: Verification | undefined;
    for await (const { event, data } of events) {
      if (event === 'verification-delta' && isLive) live.piece(data.text);
      // the texts of several votes come mixed, so each is shown whole
      if (event === 'vote-end' && !isLive) live.line(`Vote ${data.vote + 1}: ${data.feedback}`);
      if (event === 'vote-end') live.verdict({ ...data, first_error: null });
      if (event === 'verification-end') result = data;
    }
    return print(result as Verification, options);
  });
}

function print(result: Verification, { json }: VerifyOptions): number {
  if (json === true) {
    process.stdout.write(`${JSON.stringify(result)}\n`);
  } else {
    process.stdout.write(`${result.verdict} ${result.score.toFixed(3)}\n`);
    const error = result.first_error;
    if (error !== null) process.stdout.write(`step ${error.step}: ${forStdout(error.quote)}\n`);
  }
  return result.verdict === 'accept' ? exitCodes.accepted : exitCodes.notAccepted;
}
