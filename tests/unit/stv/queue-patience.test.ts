import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { QueuePatience } from '../../../src/stv/queue-patience.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

it('asks again within a second, whatever time clients outside are told', async () => {
  const patience = new QueuePatience(true);
  let calls = 0;
  const answer = patience.call(new AbortController().signal, async () => {
    calls += 1;
    if (calls < 4) throw new StvError('queue_full', 'Busy.', { retryAfterMs: 30_000 });
    return calls;
  });
  await vi.advanceTimersByTimeAsync(3000);
  await expect(answer).resolves.toBe(4);
});

it('asks for room only while a refusal would end the request', async () => {
  const refuse = vi.fn(() => {
    throw new StvError('queue_full', 'Busy.');
  });
  const { signal } = new AbortController();
  const patience = new QueuePatience();
  expect(() => patience.ask(refuse)).toThrow('Busy.');
  await patience.call(signal, async () => {
    patience.ask(refuse); // beside a call that is open
  });
  patience.ask(refuse); // after one that was served
  new QueuePatience(true).ask(refuse); // accepted for good
  expect(refuse).toHaveBeenCalledTimes(1);
});
