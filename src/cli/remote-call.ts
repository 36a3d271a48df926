/** What `stv verify` and `stv solve` share: where the server is, where texts come from, what the exit code says. */
import { readFileSync } from 'node:fs';
import { text as readAll } from 'node:stream/consumers';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { createClient, StvApiError, type StvClient, StvConnectionError } from '../client/client.ts';
import { StvError } from '../errors.ts';

/** Exit codes of the commands that ask a server. */
export const exitCodes = { accepted: 0, notAccepted: 1, usage: 2, server: 3, interrupted: 130 } as const;

export const exitCodeHelp = `
Exit codes: 0 accepted, 1 not accepted, 2 the request is wrong or names what is unknown, 3 the server cannot be reached or fails,
130 interrupted.`;

export interface RemoteOptions {
  readonly url: string;
  readonly json?: boolean;
}

export function addRemoteFlags(command: Command): Command {
  return command
    .addOption(urlOption())
    .option('--json', 'print the JSON answer on stdout')
    .addHelpText('after', `\nThe API key comes from the environment: STV_API_KEY.${exitCodeHelp}`);
}

export function urlOption(): Option {
  return new Option('--url <url>', 'where the server is')
    .env('STV_URL')
    .default('http://127.0.0.1:8000')
    .argParser(serverUrl);
}

function serverUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw new InvalidArgumentError('It must be an address that begins with http:// or https://.');
  }
  if (url.username === '' && url.password === '') return text;
  // an InvalidArgumentError would be shown with the address, and so with the password
  throw new StvError(
    'config_invalid',
    "The server's address must not hold a user or a password; the API key comes from the environment: STV_API_KEY.",
  );
}

/** The command line is wrong in a way that the parser could not see. */
export class UsageError extends Error {}

export interface TextSource {
  /** As the user spells it, for messages. */
  readonly name: string;
  readonly given: string | undefined;
  readonly file: string | undefined;
  /** Standard input is read when neither is given and it is not a terminal. */
  readonly fromStdin?: boolean;
}

/** A text of the command line, of a file (`-` is standard input) or of a pipe; undefined where there is none. */
export async function readText({ name, given, file, fromStdin }: TextSource): Promise<string | undefined> {
  if (given !== undefined && file !== undefined) throw new UsageError(`Give ${name} as a text or as a file, not both.`);
  if (given !== undefined) return given;
  if (file === '-') return trimmed(await readAll(process.stdin));
  if (file !== undefined) {
    try {
      return trimmed(readFileSync(file, 'utf8'));
    } catch (cause) {
      throw new UsageError(`The file ${file} for ${name} cannot be read: ${(cause as Error).message}.`, { cause });
    }
  }
  if (fromStdin !== true || process.stdin.isTTY) return undefined;
  const piped = trimmed(await readAll(process.stdin));
  // an empty pipe is what programs without a terminal are started with
  return piped === '' ? undefined : piped;
}

/** Editors and shells end a text with a line break that is no part of it. */
function trimmed(text: string): string {
  return text.replace(/\r?\n$/, '');
}

/** Runs a call against the server; Ctrl-C ends it. Resolves with the exit code. */
export async function withServer(
  options: RemoteOptions,
  call: (client: StvClient, signal: AbortSignal) => Promise<number>,
): Promise<number> {
  const controller = new AbortController();
  const interrupt = (): void => controller.abort(new Error('interrupted'));
  process.once('SIGINT', interrupt);
  process.once('SIGTERM', interrupt);
  try {
    const apiKey = process.env['STV_API_KEY'];
    if (apiKey !== undefined) checkKey(apiKey);
    const client = createClient({ baseUrl: options.url, apiKey });
    return await call(client, controller.signal);
  } catch (thrown) {
    if (controller.signal.aborted) return exitCodes.interrupted;
    return report(thrown);
  } finally {
    process.off('SIGINT', interrupt);
    process.off('SIGTERM', interrupt);
  }
}

function checkKey(key: string): void {
  try {
    new Headers({ authorization: `Bearer ${key}` });
  } catch {
    // the cause quotes the key
    throw new UsageError('STV_API_KEY holds a character that cannot be sent.');
  }
}

/** The same request would fail at any time: what it names is wrong, unknown or over. */
const usageErrors: ReadonlySet<string> = new Set(['invalid_request_error', 'not_found_error', 'conflict_error']);

function report(thrown: unknown): number {
  if (thrown instanceof UsageError) {
    process.stderr.write(`${thrown.message}\n`);
    return exitCodes.usage;
  }
  if (thrown instanceof StvApiError) {
    const where = thrown.requestId === undefined ? '' : ` (request ${thrown.requestId})`;
    process.stderr.write(`${thrown.message}${where}\n`);
    if (thrown.status === 401) process.stderr.write('Put the key into the environment variable STV_API_KEY.\n');
    return usageErrors.has(thrown.type) ? exitCodes.usage : exitCodes.server;
  }
  if (thrown instanceof StvConnectionError) {
    process.stderr.write(`${thrown.message}\n`);
    return exitCodes.server;
  }
  throw thrown;
}
