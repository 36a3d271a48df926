/** `stv traces export`: finished rounds of a server's stored runs as JSON Lines, to stdout or a file that can be gone on with. */
import { closeSync, openSync, readSync, statSync, writeSync } from 'node:fs';
import { createTransport, type Send } from '../client/transport.ts';
import { StvError } from '../errors.ts';

export interface ExportOptions {
  readonly url: string;
  /** Default the environment's STV_API_KEY. */
  readonly apiKey?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Leave out what lies before this trace, and the trace itself. */
  readonly after: string | undefined;
  /** With the references and answers that callers gave. */
  readonly withLabels: boolean;
  /** Appended to; goes on after its last trace where `after` is not given. Absent = stdout. */
  readonly out: string | undefined;
}

const pageSize = 1000;
/** A trace holds three texts; this is more than the longest line can be with the default limits. */
const tailBytes = 64 * 1024 * 1024;

/** Returns the number of traces written. Throws `config_invalid` for a file that holds something else. */
export async function exportTraces(options: ExportOptions): Promise<number> {
  const { signal } = options;
  const send = createTransport({ baseUrl: options.url, apiKey: options.apiKey ?? process.env['STV_API_KEY'] });
  let after = options.after ?? (options.out === undefined ? undefined : lastTraceOf(options.out));
  const file = options.out === undefined ? undefined : openToAppend(options.out);
  let count = 0;
  try {
    for (;;) {
      const lines = await readPage(send, after, options.withLabels, signal);
      if (lines.length === 0) return count;
      // a page in one piece: what a broken connection cut off is never written
      const text = `${lines.join('\n')}\n`;
      if (file === undefined) await print(text);
      else writeAll(file, text);
      count += lines.length;
      after = traceIdOf(lines.at(-1) ?? '');
    }
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

async function readPage(
  send: Send,
  after: string | undefined,
  withLabels: boolean,
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const query = new URLSearchParams({ limit: String(pageSize) });
  if (after !== undefined) query.set('after', after);
  if (withLabels) query.set('labels', 'true');
  const response = await send({ method: 'GET', path: `/traces?${query}`, signal, isRepeatable: true });
  return (await response.text()).split('\n').filter((line) => line !== '');
}

function openToAppend(file: string): number {
  try {
    return openSync(file, 'a');
  } catch (cause) {
    throw new StvError('config_invalid', `${file} cannot be written: ${(cause as Error).message}.`, { cause });
  }
}

function print(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => (error == null ? resolve() : reject(error)));
  });
}

function writeAll(file: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
}

/** The last trace of a file; undefined where there is no file or nothing in it. */
function lastTraceOf(file: string): string | undefined {
  let size: number;
  try {
    size = statSync(file).size;
  } catch {
    return undefined;
  }
  if (size === 0) return undefined;
  const handle = openSync(file, 'r');
  const tail = Buffer.alloc(Math.min(size, tailBytes));
  readSync(handle, tail, 0, tail.length, size - tail.length);
  closeSync(handle);
  const text = tail.toString('utf8');
  const id = text.endsWith('\n') ? traceIdOf(text.trimEnd().split('\n').at(-1) ?? '') : undefined;
  if (id !== undefined) return id;
  throw new StvError('config_invalid', `${file} does not end with a whole trace, so it cannot be gone on with.`);
}

function traceIdOf(line: string): string | undefined {
  try {
    const { trace_id: id } = JSON.parse(line) as { readonly trace_id?: unknown };
    return typeof id === 'string' ? id : undefined;
  } catch {
    return undefined;
  }
}
