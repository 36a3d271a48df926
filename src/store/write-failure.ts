/**
 * What callers are told of a store that fails: that it cannot take any more until somebody has mended it, or that it is away for the
 * moment.
 */
import { StvError } from '../errors.ts';
import { isFull } from './open-database.ts';

/** PostgreSQL: `io_error`, `read_only_sql_transaction`. */
const unwritable = /^(?:SQLITE_(?:IOERR|READONLY|CANTOPEN)(?:_|$)|EIO$|EROFS$|EDQUOT$|58030$|25006$)/;

/** No connection, or one that was lost; of PostgreSQL: `connection_exception`, a shutdown, a deadlock, a transaction to be repeated. */
const away =
  /^(?:ECONN(?:REFUSED|RESET|ABORTED)|EPIPE|ETIMEDOUT|E(?:HOST|NET)UNREACH|EAI_AGAIN|08...|57P0[123]|40001|40P01)$/;
/** Of the pool and the driver, which give these no code. */
const awayMessage =
  /^(?:timeout exceeded when trying to connect|Connection terminated|Client has encountered a connection error)/;

/**
 * StvError `storage_full` for a disk that is full, read-only or failing, as `readFailure` for a store that is away; undefined where the
 * store is not the trouble.
 */
export function writeFailure(error: unknown): StvError | undefined {
  if (isFull(error)) return storageFull('The store is full: no disk space is left.', error);
  const { code } = error as { code?: unknown };
  if (typeof code !== 'string' || !unwritable.test(code)) return readFailure(error);
  return storageFull('The store cannot be written: it is read-only, or its disk fails.', error);
}

/** StvError `not_ready` for a store that is away for the moment; undefined for anything else. */
export function readFailure(error: unknown): StvError | undefined {
  const { code, message, syscall } = error as { code?: unknown; message?: unknown; syscall?: unknown };
  const hasCode = typeof code === 'string' && away.test(code);
  // a database on a socket takes the file with it
  const isGone = code === 'ENOENT' && syscall === 'connect';
  if (!hasCode && !isGone && !awayMessage.test(String(message))) return undefined;
  return new StvError('not_ready', 'The store does not answer at the moment.', { cause: error, retryAfterMs: 2000 });
}

/** What was read, or why it cannot be. */
export async function reading<T>(query: Promise<T>): Promise<T> {
  try {
    return await query;
  } catch (thrown) {
    throw readFailure(thrown) ?? thrown;
  }
}

/** SQLite ended a transaction by itself, and the rollback after it hid why. */
export function lostCommit(error: unknown): StvError {
  return storageFull('The store cannot be written: its disk is full, or it fails.', error);
}

function storageFull(message: string, cause: unknown): StvError {
  return new StvError('storage_full', message, { cause });
}
