import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { SolveEvent } from '../../../src/client/client.ts';
import {
  applyEvent,
  attemptToResume,
  emptyRun,
  markedPieces,
  type Phase,
  phaseOf,
  type RunView,
  type StreamState,
  tokensOf,
} from '../../../web/run-state.ts';
import { serverNow, timedFetch } from '../../../web/server-clock.ts';

const usage = (total_tokens: number) => ({ total_tokens });

/** Events by name and by the fields that the page reads. */
function run(...events: readonly (readonly [SolveEvent['event'], object])[]): RunView {
  const state = emptyRun();
  const start = ['solve-start', { limits: { chains: 1 } }] as const;
  for (const [index, [event, data]] of [start, ...events].entries()) {
    applyEvent(state, { event, id: index + 1, data: { solve_id: 'slv_1', chain: 0, round: 0, ...data } } as SolveEvent);
  }
  return state;
}

describe('the state of a run on the page', () => {
  it('a round that repeats takes the place of its first try and of all after it, and keeps what it has cost', () => {
    const state = run(
      ['round-start', { carried: null }],
      ['attempt-delta', { text: 'old' }],
      ['attempt-end', { attempt: 'old', answer: null, usage: usage(5) }],
      ['round-start', { carried: usage(5) }],
      ['attempt-delta', { text: 'new' }],
    );
    expect(state.chains[0]?.map(({ attempt, tokens }) => [attempt, tokens])).toEqual([['new', 5]]);
  });

  it('the end of an attempt is its text, whatever the deltas were; the end of a round is its cost', () => {
    const state = run(
      ['round-start', { carried: null }],
      ['attempt-delta', { text: '<think>hm</think> 4' }],
      ['attempt-end', { attempt: '4', answer: '4', usage: usage(5) }],
      ['verification-start', {}],
      ['verification-delta', { vote: 1, text: 'b' }],
      ['verification-delta', { vote: 0, text: 'a' }],
      ['verification-delta', { vote: 1, text: 'c' }],
      ['verification-end', { usage: usage(7) }],
    );
    const [round] = state.chains[0] ?? [];
    expect([round?.attempt, round?.answer, round?.tokens]).toEqual(['4', '4', 12]);
    expect(round?.verifications[0]?.texts).toEqual(['a', 'bc']);
    applyEvent(state, {
      event: 'round-end',
      id: 99,
      data: { chain: 0, round: 0, accepted: true, best: { chain: 0, round: 0 }, usage: usage(13) },
    } as SolveEvent);
    expect(tokensOf(state)).toBe(13);
    expect(round?.isAccepted).toBe(true);
  });

  it('is taken up at the best attempt, else at the last whole one, never at half of one', () => {
    const first = [
      ['round-start', { carried: null }],
      ['attempt-end', { attempt: 'first', answer: null, usage: usage(1) }],
    ] as const;
    const second = [
      ['round-start', { round: 1, carried: null }],
      ['attempt-end', { round: 1, attempt: 'second', answer: null, usage: usage(1) }],
    ] as const;
    const half = [
      ['round-start', { round: 2, carried: null }],
      ['attempt-delta', { round: 2, text: 'half of the thi' }],
    ] as const;
    const best = ['round-end', { accepted: false, best: { chain: 0, round: 0 }, usage: usage(2) }] as const;
    expect(attemptToResume(run())).toBeUndefined();
    expect(attemptToResume(run(...first, ...second, ...half))?.attempt).toBe('second');
    expect(attemptToResume(run(...first, best, ...second, ...half))?.attempt).toBe('first');
  });

  it('cuts the wrong step out by UTF-16 units, and not at all where the span does not fit', () => {
    const attempt = '𝑥 = 1\nso 𝑥 = 2\nend';
    const error = { step: 2, start: 7, end: 16, quote: '' };
    const { before, wrong, after } = markedPieces(attempt, error);
    expect(before + wrong + after).toBe(attempt);
    expect(wrong).toBe(attempt.slice(7, 16));
    expect(markedPieces(attempt, { ...error, end: 99 }).wrong).toBe('');
    expect(markedPieces(attempt, null)).toEqual({ before: attempt, wrong: '', after: '' });
  });
});

describe('how the page stands to its run', () => {
  const ended = run(['solve-end', {}]);
  it.each<[state: RunView, stream: StreamState, isStopping: boolean, phase: Phase]>([
    [emptyRun(), 'up', false, 'connecting'],
    [emptyRun(), 'down', false, 'reconnecting'],
    [run(), 'up', false, 'live'],
    [run(), 'up', true, 'stopping'],
    [run(), 'down', false, 'reconnecting'],
    [run(), 'down', true, 'reconnecting'],
    [run(), 'lost', false, 'lost'],
    [ended, 'up', true, 'ended'],
    [ended, 'lost', false, 'ended'],
  ])('%#: stream %s, stopping %s', (state, stream, isStopping, phase) => {
    expect(phaseOf(state, stream, isStopping)).toBe(phase);
  });
});

describe("the server's clock on the page", () => {
  it('is that of the last answer that tells it, however wrong the one of the machine is', async () => {
    vi.useFakeTimers({ now: Date.parse('2030-01-01T00:00:00Z') });
    const answers = [{ date: 'Tue, 01 Jan 2030 00:10:00 GMT' }, {}, { date: 'no time' }];
    const fetch = vi
      .spyOn(globalThis, 'fetch')
      .mockImplementation(async () => new Response('', { headers: answers.shift() ?? {} }));
    onTestFinished(() => {
      vi.useRealTimers();
      fetch.mockRestore();
    });
    expect(serverNow()).toBe(Date.now());
    for (const _ of [...answers]) await timedFetch('/');
    vi.advanceTimersByTime(5000);
    expect(new Date(serverNow()).toISOString()).toBe('2030-01-01T00:10:05.000Z');
  });
});
