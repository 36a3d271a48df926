/**
 * What each API key has used today, and whether it may use more. Counts of a day go to the store every second, so they hold
 * across restarts and are shared by servers with one database; a crash forgets the last second. Concurrent requests are
 * counted for this process.
 */
import { StvError } from '../errors.ts';
import { type KeyLimits, type LimitName, limitOf } from './limits.ts';

export interface DayUsage {
  readonly requests: number;
  readonly tokens: number;
}

export interface QuotaStore {
  /** `day` is `YYYY-MM-DD`; zeros where nothing was counted. */
  read(key: string, day: string): Promise<DayUsage>;
  /** Adds and tells the sum, that of other servers included. */
  add(key: string, day: string, usage: DayUsage): Promise<DayUsage>;
  /** Forgets the days before `day`. */
  prune(day: string): Promise<void>;
}

/** A key as far as it is counted. */
export interface CountedKey {
  readonly id: string;
  readonly limits: KeyLimits;
}

export interface QuotaLedgerOptions {
  /** For keys that name no limit of their own. */
  readonly defaults?: KeyLimits | undefined;
  readonly store?: QuotaStore | undefined;
  /** The limits of a key that has asked for nothing since the start (runs that are taken over). */
  readonly limitsOf?: ((id: string) => KeyLimits | undefined) | undefined;
  readonly onError?: ((error: unknown) => void) | undefined;
  /** Milliseconds since the epoch. */
  readonly now?: (() => number) | undefined;
}

interface Account {
  readonly limits: KeyLimits;
  day: string;
  /** What the store has said, what it is being told, and what was counted since. */
  stored: DayUsage;
  pending: DayUsage;
  unstored: { requests: number; tokens: number };
  running: number;
  loading: Promise<void> | undefined;
  isLoaded: boolean;
}

const dayMs = 86_400_000;
const flushMs = 1_000;
/** Nobody knows when a request of another client ends. */
const concurrentRetryMs = 1_000;

export class QuotaLedger {
  readonly #options: QuotaLedgerOptions;
  readonly #accounts = new Map<string, Account>();
  readonly #now: () => number;
  #timer: NodeJS.Timeout | undefined;
  #flushing: Promise<void> | undefined;
  #prunedDay = '';

  constructor(options: QuotaLedgerOptions = {}) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /**
   * Counts a request that begins. Throws `quota_exceeded` naming the limit and its value. Call what it returns when the request
   * has ended; a second call does nothing. One that `isLight`, as it asks nothing of a model, only takes a place.
   */
  async admit(key: CountedKey, isLight = false): Promise<() => void> {
    const account = this.#accountOf(key.id, key.limits);
    await this.#load(key.id, account);
    if (!isLight) {
      this.#checkDay('requests_per_day', account);
      this.#checkDay('tokens_per_day', account);
    }
    const concurrent = this.#limit('concurrent', account);
    if (concurrent !== undefined && account.running >= concurrent) {
      throw exceeded('concurrent', concurrent, `${account.running} of its requests are going on`, concurrentRetryMs);
    }
    if (!isLight) {
      account.unstored.requests += 1;
      this.#flushSoon();
    }
    return this.#run(account);
  }

  /** Counts work that goes on after the request that began it; never refuses. */
  enter(id: string): () => void {
    return this.#run(this.#accountOf(id));
  }

  /** Throws `quota_exceeded` when the tokens of the day are used up: no further step of a request begins. */
  checkTokens(id: string): void {
    this.#checkDay('tokens_per_day', this.#accountOf(id));
  }

  /** Charges tokens, prompt and output alike. */
  spend(id: string, tokens: number): void {
    if (tokens <= 0) return;
    this.#today(this.#accountOf(id)).unstored.tokens += tokens;
    this.#flushSoon();
  }

  /** What is left of the tokens of the day; undefined without a limit. */
  tokensLeft(id: string): { readonly limit: number; readonly remaining: number; readonly resetMs: number } | undefined {
    const account = this.#accountOf(id);
    const limit = this.#limit('tokens_per_day', account);
    if (limit === undefined) return undefined;
    const remaining = Math.max(0, limit - this.#used(account).tokens);
    return { limit, remaining, resetMs: this.#untilTomorrow() };
  }

  /** Writes what was counted; errors go to `onError` and are tried again. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    while (this.#flushing !== undefined) await this.#flushing;
    const { store } = this.#options;
    if (store === undefined) return;
    this.#flushing = this.#writeAll(store).finally(() => {
      this.#flushing = undefined;
    });
    await this.#flushing;
    if ([...this.#accounts.values()].some(({ unstored }) => !isNothing(unstored))) this.#flushSoon();
  }

  async #writeAll(store: QuotaStore): Promise<void> {
    const { onError } = this.#options;
    for (const [id, account] of this.#accounts) {
      if (isNothing(account.unstored)) continue;
      const { day, unstored: pending } = account;
      account.pending = pending;
      account.unstored = nothing();
      try {
        const sum = await store.add(id, day, pending);
        if (account.day === day) account.stored = sum;
      } catch (error) {
        if (account.day === day) account.unstored = sumOf(account.unstored, pending);
        onError?.(error);
      } finally {
        account.pending = nothing();
      }
    }
    const day = this.#dayNow();
    if (this.#prunedDay !== day) {
      this.#prunedDay = day;
      await store.prune(day).catch((error: unknown) => onError?.(error));
    }
  }

  #run(account: Account): () => void {
    account.running += 1;
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      account.running -= 1;
    };
  }

  #checkDay(name: 'requests_per_day' | 'tokens_per_day', account: Account): void {
    const limit = this.#limit(name, account);
    if (limit === undefined) return;
    const used = this.#used(account)[name === 'requests_per_day' ? 'requests' : 'tokens'];
    if (used < limit) return;
    throw exceeded(name, limit, `${used} are used, and the day ends at midnight UTC`, this.#untilTomorrow());
  }

  #limit(name: LimitName, account: Account): number | undefined {
    return limitOf(name, account.limits, this.#options.defaults ?? {});
  }

  #used(account: Account): DayUsage {
    const { stored, pending, unstored } = this.#today(account);
    return sumOf(sumOf(stored, pending), unstored);
  }

  #accountOf(id: string, limits?: KeyLimits): Account {
    let account = this.#accounts.get(id);
    if (account === undefined) {
      account = {
        limits: limits ?? this.#options.limitsOf?.(id) ?? {},
        day: this.#dayNow(),
        stored: nothing(),
        pending: nothing(),
        unstored: nothing(),
        running: 0,
        loading: undefined,
        isLoaded: this.#options.store === undefined,
      };
      this.#accounts.set(id, account);
    }
    return account;
  }

  #today(account: Account): Account {
    const day = this.#dayNow();
    // a clock that is set back does not give the day's quota again
    if (day > account.day) {
      account.day = day;
      account.stored = nothing();
      account.pending = nothing();
      account.unstored = nothing();
    }
    return account;
  }

  /** Once for each key; a store that fails leaves the counts of this process. */
  async #load(id: string, account: Account): Promise<void> {
    const { store, onError } = this.#options;
    if (account.isLoaded || store === undefined) return;
    account.loading ??= store
      .read(id, account.day)
      .then((usage) => {
        account.stored = usage;
        account.isLoaded = true;
      })
      .catch((error: unknown) => onError?.(error))
      .finally(() => {
        account.loading = undefined;
      });
    await account.loading;
  }

  #flushSoon(): void {
    if (this.#options.store === undefined || this.#timer !== undefined || this.#flushing !== undefined) return;
    this.#timer = setTimeout(() => void this.flush(), flushMs);
    this.#timer.unref();
  }

  #dayNow(): string {
    return new Date(this.#now()).toISOString().slice(0, 10);
  }

  #untilTomorrow(): number {
    return dayMs - (this.#now() % dayMs);
  }
}

function nothing(): { requests: number; tokens: number } {
  return { requests: 0, tokens: 0 };
}

function isNothing({ requests, tokens }: DayUsage): boolean {
  return requests === 0 && tokens === 0;
}

function sumOf(a: DayUsage, b: DayUsage): { requests: number; tokens: number } {
  return { requests: a.requests + b.requests, tokens: a.tokens + b.tokens };
}

/** The refusal for a limit; the client can read name and value without reading the sentence. */
export function exceeded(name: string, value: number, state: string, retryAfterMs: number): StvError {
  const message = `The API key has reached its limit ${name} of ${value}: ${state}.`;
  return new StvError('quota_exceeded', message, { retryAfterMs, limit: { name, value } });
}
