/**
 * Makes what was deleted unreadable on the disk of SQLite. `secure_delete` overwrites it in the pages; the write-ahead log holds
 * older copies of those pages until it has been carried over and cut off. PostgreSQL keeps dead rows until its VACUUM.
 */
import { type Kysely, SqliteAdapter, sql } from 'kysely';
import type { Database } from './schema.ts';

/** A reader in another process may hold the log; waiting for it blocks this process, so the next erasure tries again. */
const patienceMs = 100;

export class ErasedTexts {
  readonly #db: Kysely<Database>;
  readonly #isSqlite: boolean;
  #mayBeInLog = false;

  constructor(db: Kysely<Database>) {
    this.#db = db;
    this.#isSqlite = db.getExecutor().adapter instanceof SqliteAdapter;
  }

  /** Call after what was erased is committed. Never throws for a log that is held or a disk that is full. */
  async wipe(numErased: number): Promise<void> {
    if (!this.#isSqlite || (numErased === 0 && !this.#mayBeInLog)) return;
    this.#mayBeInLog = true;
    await this.#db.connection().execute(async (connection) => {
      const [before] = (await sql<{ timeout: number }>`pragma busy_timeout`.execute(connection)).rows;
      await sql.raw(`pragma busy_timeout = ${patienceMs}`).execute(connection);
      try {
        const { rows } = await sql<{ busy: number }>`pragma wal_checkpoint(truncate)`.execute(connection);
        this.#mayBeInLog = rows[0]?.busy !== 0;
      } catch {
        // the erasure itself is done; the log is tried again
      } finally {
        await sql.raw(`pragma busy_timeout = ${before?.timeout ?? 5000}`).execute(connection);
      }
    });
  }
}
