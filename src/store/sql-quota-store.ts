/** Usage of the API keys by day, in SQL. */
import type { Kysely } from 'kysely';
import type { DayUsage, QuotaStore } from '../quotas/quota-ledger.ts';
import type { Database } from './schema.ts';

export class SqlQuotaStore implements QuotaStore {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  async read(key: string, day: string): Promise<DayUsage> {
    const row = await this.#db
      .selectFrom('quotas')
      .select(['requests', 'tokens'])
      .where('key', '=', key)
      .where('day', '=', day)
      .executeTakeFirst();
    return row ?? { requests: 0, tokens: 0 };
  }

  async add(key: string, day: string, { requests, tokens }: DayUsage): Promise<DayUsage> {
    return this.#db
      .insertInto('quotas')
      .values({ key, day, requests, tokens })
      .onConflict((conflict) =>
        conflict.columns(['key', 'day']).doUpdateSet((eb) => ({
          requests: eb('quotas.requests', '+', requests),
          tokens: eb('quotas.tokens', '+', tokens),
        })),
      )
      .returning(['requests', 'tokens'])
      .executeTakeFirstOrThrow();
  }

  async prune(day: string): Promise<void> {
    await this.#db.deleteFrom('quotas').where('day', '<', day).execute();
  }
}
