/** Opens the database that a location names, with its dialect and settings, migrated to the newest schema. */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { Kysely, Migrator, PostgresDialect, SqliteDialect, sql } from 'kysely';
import Sqlite from 'libsql';
import { StvError } from '../errors.ts';
import { type Database, migrations } from './schema.ts';

/** PostgreSQL's 64-bit integers arrive as text; all of ours are below 2^53. */
const int8Oid = 20;

/**
 * `postgres://…` opens PostgreSQL, anything else is the path of an SQLite file (its folder is made). Throws StvError
 * `config_invalid` when it cannot be opened and `storage_full` when the disk is.
 */
export async function openDatabase(location: string): Promise<Kysely<Database>> {
  const isPostgres = /^postgres(ql)?:\/\//.test(location);
  try {
    return await migrate(isPostgres ? await openPostgres(location) : await openSqlite(location));
  } catch (error) {
    // a connection string may hold a password
    const name = isPostgres ? 'The PostgreSQL database' : `The store ${location}`;
    throw isFull(error)
      ? new StvError('storage_full', `${name} cannot be written: the disk is full.`, { cause: error })
      : new StvError('config_invalid', `${name} cannot be opened: ${(error as Error).message}`, { cause: error });
  }
}

export function isFull(error: unknown): boolean {
  const { code } = error as { code?: string };
  return code === 'SQLITE_FULL' || code === 'ENOSPC' || code === '53100';
}

async function openSqlite(file: string): Promise<Kysely<Database>> {
  mkdirSync(path.dirname(file), { recursive: true });
  const database = new Sqlite(file);
  const db = new Kysely<Database>({ dialect: new SqliteDialect({ database }) });
  const pragmas = [
    'journal_mode = wal',
    // WAL with NORMAL keeps every committed transaction through a crash of the process; a power cut may lose the last ones,
    // never the file
    'synchronous = normal',
    'foreign_keys = on',
    'busy_timeout = 5000',
    // an erased run must not be readable in the free pages of the file
    'secure_delete = on',
  ];
  for (const pragma of pragmas) {
    await sql.raw(`pragma ${pragma}`).execute(db);
  }
  return db;
}

async function openPostgres(connectionString: string): Promise<Kysely<Database>> {
  const { default: pg } = await import('pg');
  const types = new pg.TypeOverrides();
  types.setTypeParser(int8Oid, Number);
  const pool = new pg.Pool({
    connectionString,
    types,
    max: 8,
    // a database that does not answer must not be waited for without end, at the start and at the shutdown least of all
    connectionTimeoutMillis: 10_000,
    query_timeout: 120_000,
    keepAlive: true,
  });
  // A connection that the database closes fails its query and is replaced; unheard, its event would end this process.
  pool.on('error', () => {});
  pool.on('connect', (client) => client.on('error', () => {}));
  return new Kysely<Database>({ dialect: new PostgresDialect({ pool }) });
}

async function migrate(db: Kysely<Database>): Promise<Kysely<Database>> {
  const migrator = new Migrator({ db, provider: { getMigrations: async () => ({ ...migrations }) } });
  const { error } = await migrator.migrateToLatest();
  if (error !== undefined) {
    await db.destroy();
    throw error;
  }
  return db;
}
