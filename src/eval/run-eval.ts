/** Sends the problems of an evaluation through a running server, some at a time, and keeps what comes back. */
import { createHash } from 'node:crypto';
import { StvApiError, type StvClient, StvConnectionError } from '../client/client.ts';
import type { Solve, SolveRequest } from '../client/contract.ts';
import { deriveSeed } from '../stv/seeds.ts';
import type { EvalProblem } from './problems.ts';
import type { EvalSettings, ProblemRecord, RoundRecord } from './record-types.ts';
import type { RecordFile } from './records.ts';

export interface RunOptions {
  readonly settings: EvalSettings;
  /** Problems under way at the same time. */
  readonly concurrency: number;
  /** Keep the runs with their labels at the server, for `GET /traces`. */
  readonly isStored: boolean;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

export interface Failure {
  readonly id: string;
  readonly error: Error;
}

/** Chains of one request: enough to fill a batch, few enough for the bounds of any server. */
const chainsPerCall = 16;
/** After so many failures of the server in a row, none of them about a problem, it is taken for gone. */
const maxFailuresInARow = 5;

interface Job {
  readonly problem: EvalProblem;
  readonly batch: number;
  readonly chains: number;
}

/**
 * Does what `records` lacks. Problems that fail are left out of the records, so that the next run does them again. Throws
 * only the reason of the abort, the error of the last of several failures of the server in a row, that of records that cannot be kept, and,
 * where there is no result at all, that of a server that was never reached; what is under way then is broken off.
 */
export async function runEval(
  problems: readonly EvalProblem[],
  client: StvClient,
  records: RecordFile,
  options: RunOptions,
): Promise<{ readonly records: readonly ProblemRecord[]; readonly failures: readonly Failure[] }> {
  const known = new Set(records.done.map(({ id, batch }) => `${batch} ${id}`));
  const jobs = problems.flatMap((problem) => jobsOf(problem, options.settings.chains));
  const open = jobs.filter(({ problem, batch }) => !known.has(`${batch} ${problem.id}`));
  const made: ProblemRecord[] = [];
  const failures: Failure[] = [];
  const broken = new AbortController();
  const signal = options.signal === undefined ? broken.signal : AbortSignal.any([options.signal, broken.signal]);
  let inARow = 0;
  let next = 0;
  const giveUp = (why: unknown): never => {
    broken.abort(why);
    throw why;
  };
  const keep = (record: ProblemRecord): ProblemRecord => {
    try {
      records.append(record);
      return record;
    } catch (thrown) {
      return giveUp(thrown); // what comes next could not be kept either
    }
  };
  const work = async (): Promise<void> => {
    for (;;) {
      const job = open[next++];
      if (job === undefined) return;
      signal.throwIfAborted();
      try {
        const record = toRecord(job, await client.solve(requestOf(job, options), { signal }));
        inARow = 0;
        made.push(keep(record));
      } catch (thrown) {
        signal.throwIfAborted();
        failures.push({ id: job.problem.id, error: thrown as Error });
        inARow = isOfServer(thrown) ? inARow + 1 : 0;
        if (inARow >= maxFailuresInARow) giveUp(thrown);
      }
      options.onProgress?.(jobs.length - open.length + made.length + failures.length, jobs.length);
    }
  };
  await Promise.all(Array.from({ length: Math.min(options.concurrency, open.length) }, work));
  const all = [...records.done, ...made];
  const last = failures.at(-1);
  if (all.length === 0 && last !== undefined && failures.every(({ error }) => error instanceof StvConnectionError)) {
    throw last.error;
  }
  return { records: all, failures };
}

/** Whether another problem would have met the same. */
function isOfServer(error: unknown): boolean {
  if (error instanceof StvConnectionError) return true;
  const status = error instanceof StvApiError ? error.status : undefined;
  return status !== undefined && (status === 401 || status === 403 || status === 429 || status >= 500);
}

function jobsOf(problem: EvalProblem, chains: number): Job[] {
  return Array.from({ length: Math.ceil(chains / chainsPerCall) }, (_, batch) => ({
    problem,
    batch,
    chains: Math.min(chainsPerCall, chains - batch * chainsPerCall),
  }));
}

/** Throws where the run failed, so that the problem is done again. */
function toRecord({ problem, batch }: Job, answer: Solve): ProblemRecord {
  if (answer.status === 'cancelled') throw new Error(`The run ${answer.id} was cancelled at the server.`);
  const failure = failureOf(answer);
  if (failure !== undefined) throw new Error(failure);
  return {
    id: problem.id,
    batch,
    models: answer.models,
    chains: answer.chains.map(({ status, rounds }) => ({
      status,
      // a round that was broken off before its attempt was written is nothing to grade
      rounds: rounds.flatMap((round) => (round.attempt === null ? [] : [toRound(round, round.attempt)])),
    })),
  };
}

/**
 * Why one of the chains, or all, are not what the models make of the problem. Attempts too long to be verified or refined are: the same
 * another time, and graded as they stand.
 */
function failureOf({ error, chains }: Solve): string | undefined {
  const outgrown = 'context_length_exceeded';
  const broken = chains.find((chain) => (chain.error?.code ?? outgrown) !== outgrown)?.error;
  const hasAttempt = chains.some(({ rounds }) => rounds.some(({ attempt }) => attempt !== null));
  return (broken ?? (hasAttempt ? undefined : error))?.message;
}

function toRound(round: Solve['chains'][number]['rounds'][number], attempt: string): RoundRecord {
  return {
    attempt,
    answer: round.answer,
    finish_reason: round.finish_reason,
    verdict: round.verdict,
    score: round.score,
    raw_score: round.raw_score,
    accepted: round.accepted,
    feedback: round.feedback,
    first_error: round.first_error?.step ?? null,
    generator_tokens: round.usage.generator.total_tokens,
    verifier_tokens: round.usage.verifier.total_tokens,
  };
}

function requestOf({ problem, batch, chains }: Job, { settings, isStored }: RunOptions): SolveRequest {
  const { reference, answer, attempt } = problem;
  return {
    problem: problem.problem,
    chains,
    max_rounds: settings.max_rounds,
    accept: settings.accept as NonNullable<SolveRequest['accept']>,
    on_exhausted: 'last',
    stop_chains: 'all',
    generator: settings.generator,
    verifier: settings.verifier,
    seed: problemSeed(settings.seed, problem.id, batch),
    ...(attempt === undefined ? {} : { initial_attempt: attempt }),
    ...(isStored ? { store: true, label: { answer, ...(reference === undefined ? {} : { reference }) } } : {}),
  };
}

/** Unsigned 32-bit; the same for a problem wherever it stands in the file. */
function problemSeed(seed: number, id: string, batch: number): number {
  const word = createHash('sha256').update(id).digest().readUInt32LE(0);
  return deriveSeed(seed, { chain: word, round: batch, role: 'generator', vote: 0 });
}

/** What a results file belongs to. */
export function digestProblems(problems: readonly EvalProblem[]): string {
  const texts = problems.map(({ id, problem, attempt }) => [id, problem, attempt ?? null]);
  return `sha256:${createHash('sha256').update(JSON.stringify(texts)).digest('hex')}`;
}
