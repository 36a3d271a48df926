import { describe, expect, it, vi } from 'vitest';
import { type DayUsage, QuotaLedger, type QuotaStore } from '../../src/quotas/quota-ledger.ts';

const key = { id: 'k', limits: { requests_per_day: 5, tokens_per_day: 100 } };
const nothing: DayUsage = { requests: 0, tokens: 0 };

function ledgerWith(add: QuotaStore['add']): QuotaLedger {
  return new QuotaLedger({ store: { read: async () => nothing, add, prune: async () => undefined }, now: () => 0 });
}

async function numAdmitted(ledger: QuotaLedger, tries: number): Promise<number> {
  let count = 0;
  for (let index = 0; index < tries; index++) {
    await ledger.admit(key).then(
      () => (count += 1),
      () => undefined,
    );
  }
  return count;
}

describe('a quota whose store is slow', () => {
  it('counts what is being written', async () => {
    const ledger = ledgerWith(() => new Promise(() => undefined));
    expect(await numAdmitted(ledger, 3)).toBe(3);
    ledger.spend('k', 60);
    void ledger.flush();
    expect(await numAdmitted(ledger, 10)).toBe(2);
    ledger.spend('k', 40);
    expect(ledger.tokensLeft('k')).toMatchObject({ remaining: 0 });
  });

  it('writes each request once, the last ones too', async () => {
    const written: DayUsage[] = [];
    let sum = nothing;
    const ledger = ledgerWith(async (_key, _day, usage) => {
      written.push(usage);
      await new Promise((resolve) => setImmediate(resolve));
      sum = { requests: sum.requests + usage.requests, tokens: sum.tokens + usage.tokens };
      return sum;
    });
    await numAdmitted(ledger, 2);
    const first = ledger.flush();
    await numAdmitted(ledger, 2);
    await Promise.all([first, ledger.flush()]);
    expect(written.map(({ requests }) => requests)).toEqual([2, 2]);
    expect(await numAdmitted(ledger, 4)).toBe(1);
  });

  it('tries again what could not be written', async () => {
    const add = vi
      .fn<QuotaStore['add']>()
      .mockRejectedValueOnce(new Error('disk'))
      .mockImplementation(async (_k, _d, u) => u);
    const ledger = ledgerWith(add);
    await numAdmitted(ledger, 3);
    await ledger.flush();
    expect(await numAdmitted(ledger, 4)).toBe(2);
    await ledger.flush();
    expect(add.mock.calls.map(([, , usage]) => usage.requests)).toEqual([3, 5]);
  });
});
