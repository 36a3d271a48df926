/** Erasing runs: one by name, or the oldest ended ones beyond the limits, a page at a time. Keeps the count of their bytes. */
import type { Transaction } from 'kysely';
import type { Database } from './schema.ts';

/** Runs that one transaction of a sweep erases. */
export const sweepPageSize = 100;

/** Removes runs with all that belongs to them; returns how many there were. */
export async function eraseAll(trx: Transaction<Database>, ids: readonly string[]): Promise<number> {
  if (ids.length === 0) return 0;
  for (const table of ['events', 'labels', 'traces'] as const) {
    await trx.deleteFrom(table).where('run_id', 'in', ids).execute();
  }
  const rows = await trx.deleteFrom('runs').where('id', 'in', ids).returning(['bytes', 'ended']).execute();
  await addEndedBytes(trx, -rows.reduce((sum, { bytes, ended }) => sum + (ended === null ? 0 : bytes), 0));
  return rows.length;
}

/** Erases the oldest ended runs that are too old or too much, one page at most; returns how many. */
export async function sweepPage(
  trx: Transaction<Database>,
  { maxAgeMs, maxBytes, now }: { maxAgeMs: number; maxBytes: number; now: number },
): Promise<number> {
  const { value: total } = await trx
    .selectFrom('counters')
    .select('value')
    .where('name', '=', 'ended_bytes')
    .executeTakeFirstOrThrow();
  const oldest = await trx
    .selectFrom('runs')
    .select(['id', 'ended', 'bytes'])
    .where('ended', 'is not', null)
    .orderBy('ended')
    .orderBy('id')
    .limit(sweepPageSize)
    .execute();
  let kept = total;
  const old = oldest.filter(({ ended, bytes }) => {
    const isOld = kept > maxBytes || (ended ?? now) < now - maxAgeMs;
    if (isOld) kept -= bytes;
    return isOld;
  });
  return eraseAll(
    trx,
    old.map(({ id }) => id),
  );
}

export async function addEndedBytes(trx: Transaction<Database>, bytes: number): Promise<void> {
  if (bytes === 0) return;
  await trx
    .updateTable('counters')
    .set((row) => ({ value: row('value', '+', bytes) }))
    .where('name', '=', 'ended_bytes')
    .execute();
}
