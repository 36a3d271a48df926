/** The problems of an evaluation: one JSON object a line. */
import { StvError } from '../errors.ts';

export interface EvalProblem {
  /** The file's own, else its line number. */
  readonly id: string;
  readonly problem: string;
  readonly answer: string;
  readonly reference: string | undefined;
  readonly group: string | undefined;
  /** `hard`, `hardest` or any other name; measured where absent. */
  readonly bin: string | undefined;
  /** An attempt to begin with, in place of a generated one. */
  readonly attempt: string | undefined;
  /** Number of the first wrong step of `attempt`, from 1; null for a right one; undefined where nobody has looked. */
  readonly firstError: number | null | undefined;
}

/** Throws `config_invalid` that names the line. Empty lines are skipped; fields of other programs are left alone. */
export function parseProblems(text: string, file: string): EvalProblem[] {
  const problems: EvalProblem[] = [];
  const ids = new Set<string>();
  text.split('\n').forEach((line, index) => {
    if (line.trim() === '') return;
    const where = `${file}, line ${index + 1}`;
    const problem = toProblem(parseLine(line, where), where, String(index + 1));
    if (ids.has(problem.id)) throw invalid(`${where}: the id ${problem.id} is there twice.`);
    ids.add(problem.id);
    problems.push(problem);
  });
  if (problems.length === 0) throw invalid(`${file} holds no problem.`);
  return problems;
}

function parseLine(line: string, where: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // the same complaint
  }
  throw invalid(`${where}: must be one JSON object.`);
}

function toProblem(row: Readonly<Record<string, unknown>>, where: string, fallbackId: string): EvalProblem {
  const optional = (name: string): string | undefined => {
    const value = row[name];
    if (value === undefined || value === null) return undefined;
    if (typeof value === 'number') return String(value);
    if (typeof value === 'string' && value.trim() !== '') return value;
    throw invalid(`${where}: \`${name}\` must be a text that is not empty.`);
  };
  const required = (name: string): string => {
    const value = optional(name);
    if (value === undefined) throw invalid(`${where}: the field \`${name}\` is required.`);
    return value;
  };
  const firstError = row['first_error'];
  if (firstError !== undefined && firstError !== null && !(Number.isInteger(firstError) && Number(firstError) >= 1)) {
    throw invalid(`${where}: \`first_error\` must be the number of a step from 1, or null.`);
  }
  return {
    id: optional('id') ?? fallbackId,
    problem: required('problem'),
    answer: required('answer'),
    reference: optional('reference'),
    group: optional('group'),
    bin: optional('bin')?.toLowerCase(),
    attempt: optional('attempt'),
    firstError: firstError as number | null | undefined,
  };
}

function invalid(message: string): StvError {
  return new StvError('config_invalid', message);
}
