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

/**
 * Opens or begins a file. Throws `config_invalid` where it belongs to other settings, and leaves it as it is; also, as `append` does, where
 * it cannot be read or written.
 */
export function openRecords(file: string, settings: EvalSettings): RecordFile {
  return onFile(file, () => open(file, settings));
}

function open(file: string, settings: EvalSettings): RecordFile {
  const header = JSON.stringify({ settings });
  const append = (record: ProblemRecord): void =>
    onFile(file, () => appendFileSync(file, `${JSON.stringify(record)}\n`));
  const bytes = existsSync(file) ? readFileSync(file) : Buffer.alloc(0);
  const start = Buffer.from(`${header}\n`);
  if (start.subarray(0, bytes.length).equals(bytes)) {
    // nothing, or a header that was broken off
    writeFileSync(file, start);
    return { done: [], append };
  }
  const text = bytes.toString();
  const complete = text.slice(0, text.lastIndexOf('\n') + 1);
  const [first, ...rest] = complete.split('\n').filter((line) => line !== '');
  if (first !== header) {
    throw new StvError(
      'config_invalid',
      `${file} does not hold results of these settings, these problems and the pack that is served; name another file with --out, or remove it.`,
    );
  }
  // the file is its own: a half-written line is nobody's loss
  if (complete.length < text.length) truncateSync(file, Buffer.byteLength(complete));
  return { done: rest.map((line) => JSON.parse(line) as ProblemRecord), append };
}

/** The pack that the results of a file belong to; null where there is none, or none that can be read. */
export function packOfRecords(file: string): string | null {
  try {
    const [first = ''] = readFileSync(file, 'utf8').split('\n', 1);
    return (JSON.parse(first) as { readonly settings: Partial<EvalSettings> }).settings.pack ?? null;
  } catch {
    return null;
  }
}

function onFile<T>(file: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (cause instanceof StvError) throw cause;
    throw new StvError('config_invalid', `${file} cannot be read or written: ${(cause as Error).message}.`, { cause });
  }
}
