/** `stv eval`: problems with answers through a running server; figures on stdout, results, report and plot in files. */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { type StvClient, StvConnectionError } from '../client/client.ts';
import { StvError } from '../errors.ts';
import { gradeAll } from '../eval/outcomes.ts';
import { plotReport } from '../eval/plot.ts';
import { parseProblems } from '../eval/problems.ts';
import type { EvalSettings } from '../eval/record-types.ts';
import { openRecords, packOfRecords } from '../eval/records.ts';
import { formatReport, makeReport } from '../eval/report.ts';
import { digestProblems, runEval } from '../eval/run-eval.ts';
import { createProgressLine } from './progress.ts';

export interface EvalOptions {
  readonly chains: number;
  readonly maxRounds: number;
  readonly accept: Readonly<Record<string, unknown>>;
  readonly seed: number;
  readonly concurrency: number;
  readonly generator: Readonly<Record<string, unknown>>;
  readonly verifier: Readonly<Record<string, unknown>>;
  readonly resamples: number;
  readonly isStored: boolean;
  /** Results; gone on with where the file is there. */
  readonly out: string;
  readonly report: string | undefined;
  readonly plot: string | undefined;
  readonly isJson: boolean;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Exit code 0: every problem has its result; 1: some failed. Throws `config_invalid` for what is wrong with the files, and the error
 * of a server that is not there.
 */
export async function evaluate(file: string, client: StvClient, options: EvalOptions): Promise<number> {
  const problems = parseProblems(readText(file), file);
  for (const target of [options.report, options.plot]) if (target !== undefined) checkFolderOf(target);
  const settings: EvalSettings = {
    chains: options.chains,
    max_rounds: options.maxRounds,
    accept: options.accept,
    seed: options.seed,
    generator: options.generator,
    verifier: options.verifier,
    problems: digestProblems(problems),
    pack: await packOf(client, options),
  };
  const results = openRecords(options.out, settings);
  const progress = createProgressLine();
  const { records, failures } = await runEval(problems, client, results, {
    settings,
    concurrency: options.concurrency,
    isStored: options.isStored,
    signal: options.signal,
    onProgress: (done, total) => progress.update('Evaluating', done, total, 'items'),
  }).finally(() => progress.finish());
  for (const { id, error } of failures) process.stderr.write(`Problem ${id} failed: ${error.message}\n`);

  const graded = gradeAll(problems, records);
  if (graded.length === 0) {
    process.stderr.write('No problem has a result.\n');
    return 1;
  }
  const report = makeReport(graded, records, {
    settings,
    numProblems: problems.length,
    resamples: options.resamples,
  });
  const json = `${JSON.stringify(report, null, 2)}\n`;
  process.stdout.write(options.isJson ? json : formatReport(report));
  if (options.report !== undefined) writeText(options.report, json);
  if (options.plot !== undefined) writeText(options.plot, plotReport(report));
  return failures.length === 0 ? 0 : 1;
}

/** Of the server; where nobody answers that of the results so far, which can be reported all the same. */
async function packOf(client: StvClient, { out, signal }: EvalOptions): Promise<string | null> {
  try {
    const { data } = await client.models({ signal });
    return data.find(({ id }) => id === 'solve')?.loop_digest ?? null;
  } catch (thrown) {
    if (thrown instanceof StvConnectionError) return packOfRecords(out);
    throw thrown;
  }
}

/** Before anything is asked: an evaluation can take hours. */
function checkFolderOf(file: string): void {
  if (statSync(path.dirname(file), { throwIfNoEntry: false })?.isDirectory()) return;
  throw new StvError('config_invalid', `${file} cannot be written: there is no folder ${path.dirname(file)}.`);
}

function writeText(file: string, text: string): void {
  try {
    writeFileSync(file, text);
  } catch (cause) {
    throw new StvError('config_invalid', `${file} cannot be written: ${(cause as Error).message}.`, { cause });
  }
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw new StvError('config_invalid', `${file} cannot be read: ${(cause as Error).message}.`, { cause });
  }
}
