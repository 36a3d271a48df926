import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { StoreGrace } from '../../../src/cli/store-grace.ts';

const never = new Promise<void>(() => {});

beforeEach(() => {
  vi.useFakeTimers();
  const warned = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  onTestFinished(() => {
    warned.mockRestore();
    vi.useRealTimers();
  });
});

/** Milliseconds after which each is given up, one after another. */
async function waits(grace: StoreGrace, works: readonly (() => Promise<void>)[]): Promise<number[]> {
  const found: number[] = [];
  for (const work of works) {
    const startedAt = performance.now();
    const ended = grace.orGiveUp(work());
    await vi.runAllTimersAsync();
    await ended;
    found.push(performance.now() - startedAt);
  }
  return found;
}

describe('the time that a database gets at the end', () => {
  it.each<[what: string, works: readonly (() => Promise<void>)[], waited: readonly number[]]>([
    ['is one for all', [() => never, () => never, () => never], [10_000, 0, 0]],
    ['is used up by what succeeds, too', [() => after(4000), () => never, () => never], [4000, 6000, 0]],
    ['is left by what fails at once', [() => Promise.reject(new Error('gone')), () => never], [0, 10_000]],
  ])('%s', async (_, works, waited) => {
    expect(await waits(new StoreGrace(), works)).toEqual(waited);
  });
});

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
