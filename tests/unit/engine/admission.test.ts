import { describe, expect, it } from 'vitest';
import { Admission } from '../../../src/engine/admission.ts';
import { CrashLedger, requestHash } from '../../../src/engine/crash-ledger.ts';
import { checkSamplingParams, DEFAULT_SAMPLING, SAMPLING_BOUNDS } from '../../../src/engine/sampling-params.ts';
import type { StvError } from '../../../src/errors.ts';

function errorOf(action: () => unknown): StvError {
  try {
    action();
  } catch (thrown) {
    return thrown as StvError;
  }
  throw new Error('It did not throw.');
}

describe('Admission', () => {
  const one = { sequences: 1, estimatedTokens: 10 };

  it('counts sequences and tokens until they start, whatever is called twice', () => {
    const admission = new Admission({ maxQueuedSequences: 2, maxQueuedTokens: 1000 });
    const first = admission.reserve(one);
    const second = admission.reserve(one);
    expect(errorOf(() => admission.reserve(one))).toMatchObject({ code: 'queue_full' });
    first.setTokens(100);
    expect([admission.queuedSequences, admission.queuedTokens]).toEqual([2, 110]);
    first.start();
    first.start();
    first.release();
    first.setTokens(5000);
    expect([admission.queuedSequences, admission.queuedTokens]).toEqual([1, 10]);
    second.release();
    second.release();
    expect([admission.queuedSequences, admission.queuedTokens]).toEqual([0, 0]);
  });

  it('tells whether there is room without taking any, by share key too', () => {
    const admission = new Admission({ maxQueuedSequences: 4, maxQueuedTokens: 1000 });
    for (let times = 0; times < 10; times += 1) admission.check(one);
    for (let times = 0; times < 2; times += 1) admission.reserve({ ...one, shareKey: 'a' });
    expect(errorOf(() => admission.check({ ...one, shareKey: 'a' }))).toMatchObject({ code: 'queue_full' });
    admission.check({ ...one, shareKey: 'b' });
    expect([admission.queuedSequences, admission.queuedTokens]).toEqual([2, 20]);
  });

  it('tells a key whose share is full how many places are free, and the limit, also for programs', () => {
    const admission = new Admission({ maxQueuedSequences: 10, maxQueuedTokens: 1000 });
    for (let times = 0; times < 3; times += 1) admission.reserve({ ...one, shareKey: 'a' });
    for (let times = 0; times < 4; times += 1) admission.reserve(one);
    const error = errorOf(() => admission.reserve({ ...one, shareKey: 'a' }));
    expect(error).toMatchObject({ code: 'queue_full', limit: { name: 'maxQueuedSequences', value: 10 } });
    expect(error.message).toMatch(/3 of its sequences wait.* 3 of the 10 of maxQueuedSequences/);
    admission.reserve(one);
    expect(errorOf(() => admission.reserve({ ...one, shareKey: 'a' })).message).toMatch(/ 2 of the 10 /);
  });

  it('refuses by tokens, but never the only request', () => {
    const admission = new Admission({ maxQueuedSequences: 10, maxQueuedTokens: 50 });
    const ticket = admission.reserve({ sequences: 1, estimatedTokens: 80 });
    const error = errorOf(() => admission.reserve(one));
    expect(error).toMatchObject({ code: 'queue_full' });
    expect(error.message).toMatch(/80 .*50/);
    ticket.release();
    admission.reserve(one);
  });

  it('computes the time to come back from the rate at which the queue moved', () => {
    let now = 0;
    const admission = new Admission({ maxQueuedSequences: 4, maxQueuedTokens: 1_000_000 }, () => now);
    expect(errorOf(() => admission.reserve({ sequences: 5, estimatedTokens: 1 })).retryAfterMs).toBe(1000);
    for (let i = 0; i < 20; i++) {
      admission.reserve(one).start();
      now += 2000; // one every two seconds
    }
    const held = Array.from({ length: 4 }, () => admission.reserve(one));
    expect(errorOf(() => admission.reserve(one)).retryAfterMs).toBe(2000);
    // three places, after the one that has just been promised
    expect(errorOf(() => admission.reserve({ sequences: 3, estimatedTokens: 1 })).retryAfterMs).toBe(8000);
    for (const ticket of held) ticket.release();
    const again = Array.from({ length: 4 }, () => admission.reserve(one));
    expect(errorOf(() => admission.reserve(one)).retryAfterMs, 'nobody is left who could come back').toBe(2000);
    for (const ticket of again) ticket.release();
  });
});

describe('Admission, refusing many', () => {
  const one = { sequences: 1, estimatedTokens: 10 };

  /** A full queue that has moved at one sequence every half second. */
  function fullQueue(shareKey?: string) {
    const clock = { now: 0 };
    const admission = new Admission({ maxQueuedSequences: 4, maxQueuedTokens: 1_000_000 }, () => clock.now);
    for (let i = 0; i < 20; i++) {
      admission.reserve(one).start();
      clock.now += 500;
    }
    const refusal = (key = shareKey): number =>
      errorOf(() => admission.reserve({ ...one, shareKey: key })).retryAfterMs as number;
    for (let i = 0; i < (shareKey === undefined ? 4 : 2); i++) admission.reserve({ ...one, shareKey });
    return { admission, clock, refusal };
  }

  it('gives each a time of its own, as fast as places become free', () => {
    const { clock, refusal } = fullQueue();
    expect([refusal(), refusal(), refusal(), refusal()]).toEqual([500, 1000, 1500, 2000]);
    clock.now += 400;
    // 2000 less 400, and one more place at the rate by now: 20 in 10.4 s
    expect(refusal()).toBe(2120);
  });

  it('spreads them over half a minute at most', () => {
    const { refusal } = fullQueue();
    const times = Array.from({ length: 500 }, () => refusal());
    expect(Math.max(...times)).toBe(30_000);
    // 60 up to the end, then 31 in each half
    expect(times.filter((time) => time === 20_000)).toHaveLength(15);
  });

  it('tells times of the present burst after a pause, not of the time in which nobody asked', () => {
    const clock = { now: 0 };
    const admission = new Admission({ maxQueuedSequences: 4, maxQueuedTokens: 1_000_000 }, () => clock.now);
    const refusal = (): number => errorOf(() => admission.reserve(one)).retryAfterMs as number;
    for (let i = 0; i < 20; i++) admission.reserve(one).start();
    clock.now += 3_600_000;
    const burst = Array.from({ length: 4 }, () => admission.reserve(one));
    expect([refusal(), refusal()], 'nothing is known yet').toEqual([1000, 1000]);
    for (const ticket of burst) {
      clock.now += 200;
      ticket.start();
      admission.reserve(one);
    }
    clock.now += 1000; // 4 in 1600 ms
    expect([refusal(), refusal()]).toEqual([400, 800]);
  });

  it('does not let one key wait for what another was told', () => {
    const { admission, refusal } = fullQueue('a');
    expect([refusal(), refusal(), refusal()]).toEqual([500, 1000, 1500]);
    admission.reserve({ ...one, shareKey: 'b' });
    expect(refusal('b')).toBe(500);
  });
});

describe('CrashLedger', () => {
  const prompt = Int32Array.from([1, 2, 3]);

  it('quarantines after two crashes, acquits, and forgives with time', () => {
    let now = 0;
    const ledger = new CrashLedger({ now: () => now, forgiveAfterMs: 100 });
    const hash = requestHash(0, prompt);
    expect(requestHash(1, prompt)).not.toBe(hash);
    expect(requestHash(0, Int32Array.from([1, 2, 3, 4]).subarray(0, 3))).toBe(hash);
    ledger.blame([hash, hash]);
    expect([ledger.isSuspect(hash), ledger.isQuarantined(hash)]).toEqual([true, false]);
    ledger.acquit(hash);
    expect(ledger.isSuspect(hash)).toBe(false);
    ledger.blame([hash]);
    ledger.blame([hash]);
    expect(ledger.isQuarantined(hash)).toBe(true);
    now = 101;
    expect(ledger.isQuarantined(hash)).toBe(false);
  });

  it('keeps a bounded number of entries', () => {
    const ledger = new CrashLedger();
    ledger.blame(Array.from({ length: 1500 }, (_, i) => `request ${i}`));
    expect(ledger.isSuspect('request 0')).toBe(false);
    expect(ledger.isSuspect('request 1499')).toBe(true);
  });
});

describe('checkSamplingParams', () => {
  it('takes the bounds and names the first field beyond them', () => {
    checkSamplingParams(DEFAULT_SAMPLING);
    for (const [name, { minimum, maximum }] of Object.entries(SAMPLING_BOUNDS)) {
      for (const value of [minimum, maximum]) checkSamplingParams({ ...DEFAULT_SAMPLING, [name]: value });
      for (const value of [minimum - 1, maximum + 1, Number.NaN]) {
        const error = errorOf(() => checkSamplingParams({ ...DEFAULT_SAMPLING, [name]: value }));
        expect(error).toMatchObject({ code: 'invalid_value', param: name });
        expect(error.message).toContain(String(value));
      }
    }
    expect(errorOf(() => checkSamplingParams({ ...DEFAULT_SAMPLING, topK: 1.5 }))).toMatchObject({ param: 'topK' });
    for (const bias of [
      new Map([[-1, 0]]),
      new Map([[1, 101]]),
      new Map(Array.from({ length: 1025 }, (_, i) => [i, 1])),
    ]) {
      const error = errorOf(() => checkSamplingParams({ ...DEFAULT_SAMPLING, logitBias: bias }));
      expect(error).toMatchObject({ param: 'logitBias' });
    }
  });
});
