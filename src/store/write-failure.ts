/** What callers are told of a write that the store could not take: whatever its cause, nothing is stored until it has been mended. */
import { StvError } from '../errors.ts';
import { isFull } from './open-database.ts';

/** PostgreSQL: `io_error`, `read_only_sql_transaction`. */
const unwritable = /^(?:SQLITE_(?:IOERR|READONLY|CANTOPEN)(?:_|$)|EIO$|EROFS$|EDQUOT$|58030$|25006$)/;

/** StvError `storage_full` for a disk that is full, read-only or failing; undefined where the store is not the trouble. */
export function writeFailure(error: unknown): StvError | undefined {
  if (isFull(error)) return storageFull('The store is full: no disk space is left.', error);
  const { code } = error as { code?: unknown };
  if (typeof code !== 'string' || !unwritable.test(code)) return undefined;
  return storageFull('The store cannot be written: it is read-only, or its disk fails.', error);
}

/** SQLite ended a transaction by itself, and the rollback after it hid why. */
export function lostCommit(error: unknown): StvError {
  return storageFull('The store cannot be written: its disk is full, or it fails.', error);
}

function storageFull(message: string, cause: unknown): StvError {
  return new StvError('storage_full', message, { cause });
}
