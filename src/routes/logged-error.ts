/**
 * What of an error may stand in a log. Messages of foreign errors may quote a request, so only the messages of our own errors are
 * written; of all others the name, the code and where they were thrown.
 */
import { StvError } from '../errors.ts';

interface LoggedError {
  readonly type: string;
  readonly code?: string | number;
  /** Empty where nobody vouches for its words. */
  readonly message: string;
  readonly stack: string;
  readonly cause?: LoggedError;
  readonly [field: string]: unknown;
}

const MAX_FRAMES = 30;
const MAX_CAUSES = 4;
/** Names and codes are words of programs; whatever else stands in their place could be text. */
const WORD = /^[A-Za-z][\w.-]{0,63}$/;
/** As V8 writes a frame: a place in a file, or one inside the engine itself. */
const FRAME = /^ {4}at .*(?::\d+:\d+\)?|\((?:<anonymous>|native)\))$/;

/** For the logger, as its serializer of errors. */
export function loggedError(thrown: unknown, depth = 0): LoggedError {
  if (!(thrown instanceof Error)) return { type: typeof thrown, message: '', stack: '' };
  const { code } = thrown as { code?: unknown };
  const isCode = typeof code === 'number' || (typeof code === 'string' && WORD.test(code));
  return {
    type: WORD.test(thrown.name) ? thrown.name : 'Error',
    ...(isCode ? { code } : {}),
    message: hasOwnWords(thrown) ? thrown.message : '',
    stack: framesOf(thrown),
    ...(thrown.cause === undefined || depth === MAX_CAUSES ? {} : { cause: loggedError(thrown.cause, depth + 1) }),
  };
}

/**
 * Options of the logger: no error reaches a line in another form, whoever writes it. An error that is logged without words of its own
 * would lend the line its message.
 */
export const withoutTexts = {
  serializers: { err: (thrown: unknown) => loggedError(thrown) },
  hooks: {
    logMethod(this: unknown, args: unknown[], write: (...args: unknown[]) => void): void {
      const [first, words, ...more] = args;
      const err = first instanceof Error ? first : (first as { err?: unknown } | null | undefined)?.err;
      if (err === undefined) write.apply(this, args);
      else write.apply(this, [first instanceof Error ? { err } : first, words ?? 'failed', ...more]);
    },
  },
};

/** False for foreign errors and for those of ours that took over a foreign message: `toStvError` does, mostly as `internal`. */
function hasOwnWords(error: Error): boolean {
  if (!(error instanceof StvError) || error.code === 'internal') return false;
  return !(error.cause instanceof Error && !(error.cause instanceof StvError) && error.cause.message === error.message);
}

/** The frames at the end of the stack; what stands before the first of them is the message, line by line. */
function framesOf({ stack, message }: Error): string {
  if (typeof stack !== 'string') return '';
  const start = stack.indexOf(message);
  const lines = (start < 0 ? stack : stack.slice(start + message.length)).split('\n');
  let first = lines.length;
  while (first > 0 && FRAME.test(lines[first - 1] ?? '')) first--;
  return lines.slice(first, first + MAX_FRAMES).join('\n');
}
