/** The smaller parts of the loop: streams of events, token budget, reasoning, stop conditions, ranking. */
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { compareAttempts, compareLast, type RankedAttempt } from '../../../src/stv/best-attempt.ts';
import { resolveRole, withinLimit } from '../../../src/stv/call-plan.ts';
import { eventStream, linkAbort } from '../../../src/stv/event-stream.ts';
import { foldSolve } from '../../../src/stv/fold.ts';
import { createPromptRenderer } from '../../../src/stv/prompts.ts';
import { ReasoningSplitter } from '../../../src/stv/reasoning.ts';
import type { SolveEvent } from '../../../src/stv/solve-events.ts';
import {
  accepted,
  acceptedInARow,
  type ChainView,
  deadline,
  firstOf,
  maxRounds,
  type RoundHistory,
  rejectedInARow,
  scoreAtLeast,
  tokenBudget,
  votes,
} from '../../../src/stv/stop-conditions.ts';
import { TokenBudget } from '../../../src/stv/token-budget.ts';
import type { Verdict } from '../../../src/stv/verdict.ts';
import { createLoopPack } from '../../support/loop-pack.ts';

describe('eventStream', () => {
  it('gives the events in order, then the error', async () => {
    const stream = eventStream<number>(async (emit) => {
      await emit(1);
      await emit(2);
      throw new Error('broken');
    });
    const seen: number[] = [];
    await expect(
      (async () => {
        for await (const event of stream) seen.push(event);
      })(),
    ).rejects.toThrow('broken');
    expect(seen).toEqual([1, 2]);
  });

  it('makes a fast producer wait for a slow consumer, and loses nothing', async () => {
    let numEmitted = 0;
    const stream = eventStream<number>(async (emit) => {
      for (let index = 0; index < 5_000; index++) {
        numEmitted = index;
        await emit(index);
      }
    });
    await stream.next();
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(numEmitted).toBeLessThan(300);
    let last = 0;
    for await (const event of stream) {
      expect(event).toBe(last + 1);
      last = event;
    }
    expect(last).toBe(4_999);
  });

  it('aborts the work and waits for its end when the consumer leaves', async () => {
    let isEnded = false;
    const stream = eventStream<number>(async (emit, signal) => {
      for (let index = 0; !signal.aborted; index++) await emit(index);
      await new Promise((resolve) => setTimeout(resolve, 5));
      isEnded = true;
    });
    for await (const event of stream) if (event === 1_000) break;
    expect(isEnded).toBe(true);
  });

  it('hands on the reason of the parent and lets go of it at the end', async () => {
    const parent = new AbortController();
    const remove = vi.spyOn(parent.signal, 'removeEventListener');
    let reason: unknown;
    const stream = eventStream<number>(async (_, signal) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      reason = signal.reason;
    }, parent.signal);
    const next = stream.next();
    parent.abort('why');
    expect(await next).toEqual({ done: true, value: undefined });
    expect(reason).toBe('why');
    expect(remove).toHaveBeenCalled();
    expect(linkAbort(parent.signal).signal.reason).toBe('why');
  });

  it('does not start work that nobody reads', async () => {
    const work = vi.fn(async () => undefined);
    await eventStream(work).return(undefined);
    expect(work).not.toHaveBeenCalled();
  });
});

describe("a pack's own limits", () => {
  it.each([
    [32, [32, 32]],
    [64, [64, 64]],
    [8192, [64, 64]],
  ])('are within the %i tokens that a request may ask for', (limit, reported) => {
    const { defaults, ...rest } = createLoopPack();
    const bounded = withinLimit({ defaults, ...rest }, limit);
    const { generator, verifier } = bounded.defaults;
    expect([generator, verifier].map((role) => resolveRole(role, {}).maxTokens)).toEqual(reported);
    expect(bounded).toMatchObject(rest);
  });
});

describe('TokenBudget', () => {
  const signal = new AbortController().signal;

  it('gives what is free, within the demand', async () => {
    const budget = new TokenBudget(100, 10);
    const first = await budget.reserve({ atLeast: 10, atMost: 60 }, signal);
    expect(first?.tokens).toBe(60);
    const second = await budget.reserve({ atLeast: 10, atMost: 60 }, signal);
    expect(second?.tokens).toBe(30);
    expect(second?.extend(1)).toBe(false);
    first?.charge(20);
    first?.release();
    first?.release();
    expect(second?.extend(40)).toBe(true);
    expect(budget.left).toBe(70);
    expect(budget.spent).toBe(30);
  });

  it('waits while others may give tokens back, in order, and knows when there is no hope', async () => {
    const budget = new TokenBudget(100);
    const first = await budget.reserve({ atLeast: 1, atMost: 80 }, signal);
    const order: string[] = [];
    const large = budget.reserve({ atLeast: 90, atMost: 90 }, signal).then((got) => order.push(`large ${got?.tokens}`));
    const small = budget.reserve({ atLeast: 10, atMost: 10 }, signal).then((got) => order.push(`small ${got?.tokens}`));
    first?.charge(40);
    first?.release();
    await Promise.all([large, small]);
    expect(order).toEqual(['large undefined', 'small 10']);
  });

  it('leaves the queue when aborted', async () => {
    const budget = new TokenBudget(10);
    const held = await budget.reserve({ atLeast: 10, atMost: 10 }, signal);
    const controller = new AbortController();
    const waiting = budget.reserve({ atLeast: 5, atMost: 5 }, controller.signal);
    const behind = budget.reserve({ atLeast: 5, atMost: 5 }, signal);
    controller.abort();
    expect(await waiting).toBeUndefined();
    held?.release();
    expect((await behind)?.tokens).toBe(5);
    expect(await budget.reserve({ atLeast: 1, atMost: 1 }, controller.signal)).toBeUndefined();
  });

  it('never hands out more than there is, and leaves nobody waiting', async () => {
    const demand = fc.record({
      atLeast: fc.nat(60),
      more: fc.nat(60),
      spends: fc.double({ min: 0, max: 1, noNaN: true }),
      pauses: fc.nat(3),
    });
    await fc.assert(
      fc.asyncProperty(fc.nat(200), fc.array(demand, { maxLength: 12 }), async (limit, demands) => {
        const budget = new TokenBudget(limit);
        let held = 0;
        await Promise.all(
          demands.map(async ({ atLeast, more, spends, pauses }) => {
            const reservation = await budget.reserve({ atLeast, atMost: atLeast + more }, signal);
            if (reservation === undefined) return;
            const granted = reservation.tokens;
            held += granted;
            expect(granted).toBeGreaterThanOrEqual(atLeast);
            expect(budget.spent + held).toBeLessThanOrEqual(limit);
            for (let pause = 0; pause < pauses; pause++) await Promise.resolve();
            const spent = Math.floor(granted * spends);
            held -= granted;
            reservation.charge(spent);
            reservation.release();
          }),
        );
        expect(budget.spent).toBeLessThanOrEqual(limit);
      }),
    );
  });
});

describe('ReasoningSplitter', () => {
  const format = { open: '<think>', close: '</think>' };
  it.each<[string, string, string, string | undefined]>([
    ['<think>a</think>\n\nb', '', 'b', 'a'],
    ['  <think>a</think>b', '', 'b', 'a'],
    ['b', '', 'b', undefined],
    ['<thin', '', '<thin', undefined],
    ['<think>never closed', '', '', 'never closed'],
    ['a</think>b', '<think>\n', 'b', 'a'],
    ['b <think>x</think>', '', 'b <think>x</think>', undefined],
    ['<think></think>', '', '', ''],
    ['', '', '', undefined],
  ])('parts %j behind %j, however it is cut', (text, prefix, content, reasoning) => {
    fc.assert(
      fc.property(fc.array(fc.nat(text.length), { maxLength: 6 }), (cuts) => {
        const places = [0, ...cuts.toSorted((a, b) => a - b), text.length];
        const splitter = new ReasoningSplitter(format, prefix);
        let streamed = '';
        for (const [index, place] of places.entries())
          streamed += splitter.push(text.slice(places[index - 1] ?? 0, place));
        streamed += splitter.flush();
        expect(splitter.parts).toEqual({ content, reasoning });
        expect(streamed).toBe(content);
      }),
    );
  });

  it('begins inside where the chat template has opened it', () => {
    const splitter = new ReasoningSplitter({ ...format, isOpened: true });
    expect(splitter.push('a</think>b')).toBe('b');
    expect(splitter.flush()).toBe('');
    expect(splitter.parts).toEqual({ content: 'b', reasoning: 'a' });
  });

  it('does nothing for a pack without reasoning', () => {
    const splitter = new ReasoningSplitter(undefined);
    expect(splitter.push('<think>a</think>b')).toBe('<think>a</think>b');
    expect(splitter.flush()).toBe('');
  });
});

const A = 'accept' as const;
const R = 'reject' as const;
const U = 'undetermined' as const;

/** Rounds from the verdicts of their verifications. */
function view(rounds: readonly (readonly Verdict[])[], changes: Partial<ChainView> = {}): ChainView {
  const history = rounds.map(
    (verdicts): RoundHistory =>
      verdicts.map((verdict) => ({ verdict, score: verdict === A ? 0.9 : 0.3, rawScore: 0, votes: [verdict] })),
  );
  return { rounds: history, nowMs: 1_000, tokensLeft: 50, ...changes };
}

describe('stop conditions', () => {
  it.each([
    ['accepted', accepted(), [[R], [A]], 'accepted'],
    ['accepted, not yet', accepted(), [[A], [R]], undefined],
    ['accepted, nothing done', accepted(), [], undefined],
    ['accepted, undetermined', accepted(), [[U]], undefined],
    ['in a row', acceptedInARow(2), [[R], [A, A]], 'accepted'],
    ['in a row, of two rounds', acceptedInARow(2), [[A], [A]], undefined],
    ['in a row, broken', acceptedInARow(2), [[A, R, A]], undefined],
    ['rejected in a row', rejectedInARow(2), [[A], [R], [U]], 'rejects_in_a_row'],
    ['rejected in a row, broken', rejectedInARow(2), [[R], [A]], undefined],
    ['rejected in a row, too few', rejectedInARow(2), [[R]], undefined],
    ['rounds', maxRounds(1), [[R], [R]], 'max_rounds'],
    ['rounds left', maxRounds(1), [[R]], undefined],
    ['no refinement', maxRounds(0), [[R]], 'max_rounds'],
    ['score', scoreAtLeast(0.9), [[A]], 'accepted'],
    ['score too low', scoreAtLeast(0.91), [[A]], undefined],
    ['score of a reject', scoreAtLeast(0.2), [[R]], 'accepted'],
    ['score of an undetermined verdict', scoreAtLeast(0.2), [[U]], undefined],
    ['deadline', deadline(1_000), [], 'deadline'],
    ['deadline to come', deadline(1_001), [], undefined],
    ['tokens left', tokenBudget(), [], undefined],
  ] as const)('%s', (_, condition, rounds, reason) => expect(condition(view(rounds))).toBe(reason));

  it('counts votes of the last verification', () => {
    const round = (...cast: Verdict[]): ChainView =>
      view([], { rounds: [[{ verdict: R, score: 0, rawScore: 0, votes: cast }]] });
    expect(votes(2, 3)(round(A, R, A))).toBe('accepted');
    expect(votes(2, 3)(round(A, R, R))).toBeUndefined();
    expect(votes(2, 3)(round(A, R, R, A))).toBeUndefined();
    expect(votes(1, 1)(view([]))).toBeUndefined();
  });

  it('stops without tokens, and takes the first reason of several', () => {
    expect(tokenBudget()(view([], { tokensLeft: 0 }))).toBe('token_budget');
    expect(firstOf(accepted(), maxRounds(0))(view([[A]]))).toBe('accepted');
    expect(firstOf(accepted(), maxRounds(0))(view([[R]]))).toBe('max_rounds');
    expect(firstOf()(view([[R]]))).toBeUndefined();
  });
});

describe('best attempt', () => {
  const attempt = (chain: number, round: number, score: number | null, isAccepted = false): RankedAttempt => ({
    chain,
    round,
    score,
    accepted: isAccepted,
  });
  it.each([
    ['accepted before a higher score', attempt(0, 0, 0.1, true), attempt(0, 1, 0.9)],
    ['the higher score', attempt(0, 0, 0.9), attempt(0, 1, 0.8)],
    ['verified before unverified', attempt(0, 0, 0), attempt(0, 1, null)],
    ['the later round of equal scores', attempt(1, 2, 0.5), attempt(0, 1, 0.5)],
    ['the lower chain of equal rounds', attempt(0, 1, 0.5), attempt(1, 1, 0.5)],
  ])('%s', (_, better, worse) => {
    expect(compareAttempts(better, worse)).toBeLessThan(0);
    expect(compareAttempts(worse, better)).toBeGreaterThan(0);
  });

  it('takes the last round for `last`, and the better one there', () => {
    expect(compareLast(attempt(1, 3, 0.1), attempt(0, 2, 0.9, true))).toBeLessThan(0);
    expect(compareLast(attempt(1, 3, 0.2), attempt(0, 3, 0.1))).toBeLessThan(0);
  });
});

describe('foldSolve', () => {
  const start = {
    type: 'solve-start',
    id: 1,
    solveId: 'slv_1',
    created: 1,
    models: { generator: 'g', verifier: 'v' },
    problem: 'p',
    initialAttempt: null,
    limits: {
      maxRounds: 1,
      chains: 1,
      accept: { rule: 'single' },
      giveUp: null,
      budget: { tokens: null, seconds: null },
      onExhausted: 'best',
      stopChains: 'all',
    },
    generator: { temperature: 1, topP: 1, topK: 0, minP: 0, maxTokens: 1 },
    verifier: { temperature: 1, topP: 1, topK: 0, minP: 0, maxTokens: 1 },
    seed: 1,
    metadata: { Some_Key: 'as it is' },
  } as const satisfies SolveEvent;
  const delta = { type: 'attempt-delta', solveId: 'slv_1', chain: 0, round: 0, text: 'x' } as const;

  it('changes nothing for deltas, and never the state it is given', () => {
    const state = Object.freeze(foldSolve(undefined, start));
    const next = foldSolve(state, { ...delta, id: 2 });
    expect(next.answer).toBe(state.answer);
    expect(next.lastEventId).toBe(2);
    expect(state.lastEventId).toBe(1);
    expect(state.answer).toMatchObject({ status: 'running', metadata: { Some_Key: 'as it is' } });
  });

  it.each<[string, readonly SolveEvent[]]>([
    ['no start', [{ ...delta, id: 1 }]],
    ['two starts', [start, { ...start, id: 2 }]],
    ['a gap', [start, { ...delta, id: 3 }]],
    ['an event twice', [start, { ...delta, id: 1 }]],
    [
      'a round out of order',
      [start, { type: 'round-start', solveId: 'slv_1', id: 2, chain: 0, round: 1, carried: null }],
    ],
    [
      'a chain that is none',
      [start, { type: 'round-start', solveId: 'slv_1', id: 2, chain: 5, round: 0, carried: null }],
    ],
    [
      'an attempt outside of a round',
      [start, { type: 'attempt-start', solveId: 'slv_1', id: 2, chain: 0, round: 0, seed: 1, promptHash: '' }],
    ],
  ])('refuses %s', (_, events) => {
    expect(() => events.reduce<ReturnType<typeof foldSolve> | undefined>(foldSolve, undefined)).toThrow(StvError);
  });
});

describe('createPromptRenderer', () => {
  it('names the pack and the prompt that is broken', () => {
    const { prompts } = createLoopPack();
    const pack = createLoopPack({
      prompts: { ...prompts, verify: { messages: [{ role: 'user', template: '{% if %}' }] } },
    });
    expect(() => createPromptRenderer(pack, {})).toThrow(/Pack test, prompt `verify`/);
  });

  it('writes the prefix of a prompt at the head of the answer', () => {
    const { prompts } = createLoopPack();
    const pack = createLoopPack({
      prompts: { ...prompts, attempt: { ...prompts.attempt, assistantPrefix: 'Step 1:' } },
    });
    expect(createPromptRenderer(pack, {}).attempt('p').prefix).toBe('Step 1:');
  });

  it('goes through the same texts once', () => {
    const prompts = createPromptRenderer(createLoopPack(), {});
    const texts = { problem: 'p', solution: 's' };
    const first = prompts.verify(texts);
    expect(prompts.verify({ ...texts })).toBe(first);
    const other = prompts.verify({ ...texts, solution: 't' });
    expect(other.messages[0]?.content).toContain('SOLUTION t');
    expect(prompts.verify(texts)).toEqual(first);
  });

  it('refuses texts of more lines than the context has tokens, blank ones not counted', () => {
    const prompts = createPromptRenderer(createLoopPack(), { generator: 9, verifier: 5 });
    const lines = (count: number): string => 'a\n \n'.repeat(count);
    expect(() => prompts.verify({ problem: 'p', solution: lines(4) })).not.toThrow();
    expect(() => prompts.verify({ problem: 'p', solution: lines(5) })).toThrow(
      expect.objectContaining({
        code: 'context_length_exceeded',
        message: expect.stringMatching(/6 lines.* holds 5 /),
      }),
    );
    expect(() => prompts.attempt(lines(9))).not.toThrow();
    expect(() => prompts.attempt(lines(10))).toThrow(/10 lines/);
  });
});
