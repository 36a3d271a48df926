/** What goes on from a sequence that has just ended: its cache is kept for it, and it has waited its turn once. */
import { describe, expect, it } from 'vitest';
import { Admission } from '../../../src/engine/admission.ts';
import { CoreDriver, spec } from '../../support/engine-core-driver.ts';

const prompt = (start: number): number[] => Array.from({ length: 20 }, (_, i) => start + i);

/** A long sequence, one that is continued and two that wait, on two slots; until the second one has ended. */
function untilFeedbackEnds(isContinued: boolean): CoreDriver {
  const driver = new CoreDriver({ numSlots: 2, maxLanes: 2, maxLength: 512 });
  driver.add(spec(0, [1, 2, 3], { maxTokens: 100 }));
  driver.add(spec(1, prompt(50), { maxTokens: 4, isContinued }));
  driver.step();
  for (const id of [2, 3]) driver.add(spec(id, prompt(40 * id), { maxTokens: 4 }));
  while (driver.result(1).finish === undefined) driver.step();
  return driver;
}

describe('continuations', () => {
  it('find the cache that was kept for them and go before what came after their beginning', () => {
    const driver = untilFeedbackEnds(true);
    driver.step();
    expect(driver.result(2).numStarted).toBe(0);
    const next = [...prompt(50), ...driver.result(1).tokens, 7, 8];
    driver.add(spec(4, next, { maxTokens: 0, promptRows: [], isContinuation: true }));
    driver.step();
    expect(driver.result(4)).toMatchObject({ numStarted: 1, cachedTokens: 23, numFinishes: 1 });
    expect(driver.result(2).numStarted).toBe(0);
    driver.run();
    expect([2, 3].map((id) => driver.result(id).numFinishes)).toEqual([1, 1]);
  });

  it('are not waited for where none was announced', () => {
    const driver = untilFeedbackEnds(false);
    driver.step();
    expect(driver.result(2).numStarted).toBe(1);
  });

  it('are waited for no longer than a moment', () => {
    const driver = untilFeedbackEnds(true);
    driver.nowMs += 150;
    driver.step();
    expect(driver.result(2).numStarted).toBe(0);
    driver.nowMs += 100;
    driver.step();
    expect(driver.result(2).numStarted).toBe(1);
  });

  it('are not waited for where nothing else runs, so that no step is empty', () => {
    const driver = new CoreDriver({ numSlots: 1, maxLanes: 1 });
    driver.add(spec(0, prompt(0), { maxTokens: 2, isContinued: true }));
    driver.add(spec(1, prompt(100), { maxTokens: 2 }));
    while (driver.result(0).finish === undefined) driver.step();
    driver.step();
    expect(driver.result(1).numStarted).toBe(1);
  });

  it('lose nothing to somebody who only begins like them', () => {
    const driver = new CoreDriver({ numSlots: 3, maxLanes: 3, maxLength: 512 });
    driver.add(spec(0, prompt(0), { maxTokens: 4, isContinued: true }));
    driver.run();
    driver.add(spec(1, [...prompt(0).slice(0, 12), 99, 98], { maxTokens: 1 }));
    driver.run();
    expect(driver.result(1).cachedTokens).toBe(12);
    const next = [...prompt(0), ...driver.result(0).tokens, 7, 8];
    driver.add(spec(2, next, { maxTokens: 0, isContinuation: true }));
    driver.run();
    expect(driver.result(2).cachedTokens).toBe(23);
  });

  it('leave nothing kept where the sequence was given up before it wrote anything', () => {
    const driver = new CoreDriver({ numSlots: 2, maxLanes: 2, maxLength: 512 });
    driver.add(spec(0, [1, 2, 3], { maxTokens: 100 }));
    driver.add(spec(1, prompt(50), { isContinued: true }));
    driver.abort(1);
    driver.add(spec(2, prompt(100)));
    driver.step();
    expect(driver.result(2).numStarted).toBe(1);
  });

  it('pass nobody who has waited half a minute longer', () => {
    const driver = new CoreDriver({ numSlots: 1, maxLanes: 1, maxLength: 512 });
    driver.add(spec(0, [1, 2, 3], { maxTokens: 10 }));
    driver.step();
    driver.add(spec(1, prompt(50), { maxTokens: 1 }));
    driver.nowMs += 31_000;
    driver.add(spec(2, prompt(100), { maxTokens: 1 }));
    driver.add(spec(3, prompt(150), { maxTokens: 1, isContinuation: true }));
    while (driver.result(0).finish === undefined) driver.step();
    const order: number[] = [];
    while (order.length < 3) order.push(...driver.step().map(({ id }) => id));
    expect(order).toEqual([1, 3, 2]);
  });

  it('are admitted to a full queue and counted there', () => {
    const admission = new Admission({ maxQueuedSequences: 1, maxQueuedTokens: 10 });
    admission.reserve({ sequences: 1, estimatedTokens: 10, shareKey: 'a' });
    const ticket = admission.reserve({ sequences: 1, estimatedTokens: 10, shareKey: 'a', isContinuation: true });
    expect([admission.queuedSequences, admission.queuedTokens]).toEqual([2, 20]);
    ticket.start();
    expect([admission.queuedSequences, admission.queuedTokens]).toEqual([1, 10]);
  });
});
