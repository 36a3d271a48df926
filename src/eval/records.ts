/**
 * The results of an evaluation on disk: JSON Lines, the settings first, then one line for each problem and batch of chains.
 * A run that was broken off goes on in the same file; a line that was cut off is dropped.
 */
import { appendFileSync, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { StvError } from '../errors.ts';
import type { EvalSettings, ProblemRecord } from './record-types.ts';

export interface RecordFile {
  readonly done: readonly ProblemRecord[];
  append(record: ProblemRecord): void;
}

/** Opens or begins a file. Throws `config_invalid` where it belongs to other settings. */
export function openRecords(file: string, settings: EvalSettings): RecordFile {
  const header = JSON.stringify({ settings });
  const append = (record: ProblemRecord): void => appendFileSync(file, `${JSON.stringify(record)}\n`);
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
  const complete = text.slice(0, text.lastIndexOf('\n') + 1);
  if (complete === '') {
    writeFileSync(file, `${header}\n`);
    return { done: [], append };
  }
  if (complete.length < text.length) truncateSync(file, Buffer.byteLength(complete));
  const [first, ...rest] = complete.split('\n').filter((line) => line !== '');
  if (first !== header) {
    throw new StvError(
      'config_invalid',
      `${file} holds results of other settings or problems; name another file with --out, or remove it.`,
    );
  }
  return { done: rest.map((line) => JSON.parse(line) as ProblemRecord), append };
}
