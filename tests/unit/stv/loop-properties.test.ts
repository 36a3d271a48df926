/** Whatever the engine does and whenever the run is cancelled: one terminal event, an exact ledger, the best attempt kept. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { compareAttempts } from '../../../src/stv/best-attempt.ts';
import { foldSolve, type SolveState } from '../../../src/stv/fold.ts';
import { solve } from '../../../src/stv/solve.ts';
import type { AcceptRule, SolveAnswer, SolveEvent, SolveRequest } from '../../../src/stv/solve-events.ts';
import { addRoleUsage, noRoleUsage, noUsage } from '../../../src/stv/usage.ts';
import { type VerifyEvent, verify } from '../../../src/stv/verify.ts';
import { createLoopPack } from '../../support/loop-pack.ts';
import { ScriptedEngine, type ScriptedGeneration, type ScriptedScore } from '../../support/scripted-engine.ts';

const failure = fc.constantFrom(
  new StvError('engine_crashed', 'Gone.'),
  new StvError('remote_unavailable', 'Away.'),
  new Error('anything'),
);

const generation: fc.Arbitrary<ScriptedGeneration> = fc.record(
  {
    text: fc
      .array(fc.constantFrom('word', 'Step 2', '\\boxed{4}', '</feedback>', 'accept', 'wrong', '\n', '5'), {
        maxLength: 20,
      })
      .map((words) => words.join(' ')),
    error: fc.option(failure, { nil: undefined, freq: 12 }),
    errorAfter: fc.nat(6),
    delayMs: fc.option(fc.constant(0), { nil: undefined, freq: 3 }),
    finishReason: fc.option(fc.constantFrom('stop' as const, 'length' as const, 'error' as const), {
      nil: undefined,
      freq: 4,
    }),
    throwsOnAbort: fc.boolean(),
    endsSilently: fc.option(fc.boolean(), { nil: undefined, freq: 20 }),
    cachedTokens: fc.nat(10),
  },
  { requiredKeys: ['text'] },
);

const probability = fc.double({ min: 0, max: 1, noNaN: true });
const score: fc.Arbitrary<ScriptedScore> = fc.record(
  {
    probabilities: fc.tuple(probability, probability, probability).map(([a, b, c]) => {
      const sum = a + b + c;
      return sum > 1 ? [a / sum, b / sum, c / sum] : [a, b, c];
    }),
    error: fc.option(failure, { nil: undefined, freq: 15 }),
    delayMs: fc.option(fc.constant(0), { nil: undefined, freq: 3 }),
  },
  { requiredKeys: ['probabilities'] },
);

const accept: fc.Arbitrary<AcceptRule> = fc.oneof(
  fc.constant({ rule: 'single' } as const),
  fc.integer({ min: 1, max: 3 }).map((k) => ({ rule: 'consecutive', k }) as const),
  fc.tuple(fc.integer({ min: 1, max: 4 }), fc.nat(2)).map(([k, more]) => ({ rule: 'votes', k, n: k + more }) as const),
  probability.map((threshold) => ({ rule: 'score', threshold }) as const),
);

const request: fc.Arbitrary<SolveRequest> = fc.record({
  id: fc.constant('slv_1'),
  problem: fc.constant('What is 2 + 2?'),
  initialAttempt: fc.option(fc.constant('It is \\boxed{5}'), { nil: undefined, freq: 3 }),
  maxRounds: fc.nat(3),
  chains: fc.integer({ min: 1, max: 3 }),
  accept,
  giveUp: fc.option(
    fc.integer({ min: 1, max: 3 }).map((rejectsInARow) => ({ rejectsInARow })),
    { nil: undefined },
  ),
  budget: fc.option(
    fc.integer({ min: 1, max: 600 }).map((tokens) => ({ tokens })),
    { nil: undefined, freq: 2 },
  ),
  onExhausted: fc.constantFrom('best' as const, 'last' as const, 'abstain' as const),
  stopChains: fc.constantFrom('first_accept' as const, 'all' as const),
  generator: fc.record({ model: fc.constant('generator'), maxTokens: fc.integer({ min: 1, max: 30 }) }),
  verifier: fc.record({ model: fc.constant('verifier'), maxTokens: fc.integer({ min: 1, max: 30 }) }),
  seed: fc.nat(),
  priority: fc.constant('interactive' as const),
});

const behaviour = fc.record({
  generations: fc.infiniteStream(generation),
  scores: fc.infiniteStream(score),
  /** Abort when so many events have come. */
  cancelAt: fc.option(fc.nat(60), { nil: undefined, freq: 2 }),
});

function createEngine(generations: Iterator<ScriptedGeneration>, scores: Iterator<ScriptedScore>): ScriptedEngine {
  return new ScriptedEngine({ generate: () => generations.next().value, score: () => scores.next().value });
}

function checkAnswer(answer: SolveAnswer, engine: ScriptedEngine, asked: SolveRequest): void {
  // ledger: rounds = total = what the engine counted
  const rounds = answer.chains.flatMap((chain) => chain.rounds);
  const sum = rounds.reduce((total, { usage }) => addRoleUsage(total, usage), noRoleUsage);
  expect(sum).toEqual(answer.usage);
  expect(answer.usage.generator.totalTokens).toBe(engine.totalTokens('generator'));
  expect(answer.usage.verifier.totalTokens).toBe(engine.totalTokens('verifier'));
  expect(answer.usage.totalTokens).toBe(engine.totalTokens());
  // a call that breaks off without an `end` never tells how much of its prompt was cached
  const cached = engine.ledger.reduce((total, { usage }) => total + usage.cachedTokens, 0);
  const { generator, verifier } = answer.usage;
  const reported = generator.promptTokensDetails.cachedTokens + verifier.promptTokensDetails.cachedTokens;
  expect(reported).toBeLessThanOrEqual(cached);
  if (asked.budget?.tokens !== undefined) expect(engine.totalTokens()).toBeLessThanOrEqual(asked.budget.tokens);

  // best attempt
  const attempts = answer.chains
    .flatMap(({ chain, rounds: list }) => list.map((round) => ({ ...round, chain })))
    .filter(({ attempt }) => attempt !== null);
  if (answer.status === 'abstained') expect(answer.solution).toBeNull();
  else expect(answer.solution !== null).toBe(attempts.length > 0);
  if (answer.solution !== null && !(answer.status === 'exhausted' && asked.onExhausted === 'last')) {
    const chosen = attempts.find(({ chain, round }) => chain === answer.chain && round === answer.round);
    expect(chosen?.attempt).toBe(answer.solution);
    if (chosen !== undefined)
      for (const other of attempts) expect(compareAttempts(chosen, other)).toBeLessThanOrEqual(0);
  }
  const isAnyAccepted = attempts.some(({ accepted }) => accepted);
  if (answer.status === 'accepted') expect(isAnyAccepted).toBe(true);
  if (isAnyAccepted && asked.stopChains === 'first_accept') expect(answer.status).toBe('accepted');
  for (const { accepted, verdict } of attempts) if (verdict === 'undetermined') expect(accepted).toBe(false);

  // limits
  for (const { chain, rounds: list, status } of answer.chains) {
    expect(list.length).toBeLessThanOrEqual(asked.maxRounds + 1);
    expect(list.map(({ round }) => round)).toEqual(list.map((_, index) => index));
    if (status === 'accepted') expect(list.at(-1)?.accepted, `chain ${chain}`).toBe(true);
  }
  expect(answer.error === null).toBe(answer.status !== 'failed');
  if (asked.initialAttempt !== undefined && answer.chains.every(({ rounds: list }) => list.length <= 1)) {
    expect(answer.usage.generator).toEqual(noUsage);
  }
}

function checkEvents(events: readonly SolveEvent[]): void {
  expect(events[0]?.type).toBe('solve-start');
  expect(events.filter(({ type }) => type === 'solve-end')).toHaveLength(1);
  expect(events.at(-1)?.type).toBe('solve-end');
  expect(events.map(({ id }) => id)).toEqual(events.map((_, index) => index + 1));
  const open = new Set<string>();
  for (const event of events) {
    if (event.type === 'round-start') {
      expect(open.has(`${event.chain}`)).toBe(false);
      open.add(`${event.chain}`);
    } else if (event.type === 'round-end') expect(open.delete(`${event.chain}`)).toBe(true);
  }
  expect(open.size).toBe(0);
}

function stateOf(events: readonly SolveEvent[]): SolveState | undefined {
  return events.reduce<SolveState | undefined>(foldSolve, undefined);
}

describe('solve, with any engine and any moment of cancellation', () => {
  it('ends once, counts exactly, stays within the budget and keeps the best attempt', {
    timeout: 120_000,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(request, behaviour, async (asked, { generations, scores, cancelAt }) => {
        const engine = createEngine(generations, scores);
        const controller = new AbortController();
        const events: SolveEvent[] = [];
        const stream = solve(asked, { engine, pack: createLoopPack() }, { signal: controller.signal });
        if (cancelAt === 0) controller.abort();
        for await (const event of stream) {
          events.push(event);
          if (events.length === cancelAt) controller.abort();
        }
        checkEvents(events);
        const answer = stateOf(events)?.answer;
        if (answer === undefined || answer.status === 'running') throw new Error('The fold has no answer.');
        checkAnswer(answer, engine, asked);
        expect(engine.numOpen).toBe(0);
      }),
      { numRuns: 300 },
    );
  });

  it('leaves no call running when the consumer leaves', { timeout: 60_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(
        request,
        behaviour,
        fc.integer({ min: 1, max: 60 }),
        async (asked, { generations, scores }, leaveAt) => {
          const engine = createEngine(generations, scores);
          let count = 0;
          for await (const _ of solve(asked, { engine, pack: createLoopPack() })) if (++count === leaveAt) break;
          expect(engine.numOpen).toBe(0);
          const numRequests = engine.generateRequests.length + engine.scoreRequests.length;
          await new Promise((resolve) => setImmediate(resolve));
          expect(engine.generateRequests.length + engine.scoreRequests.length).toBe(numRequests);
        },
      ),
      { numRuns: 100 },
    );
  });

  it('resumes from any event with exact accounts and every id once', { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(
        request,
        behaviour,
        fc.integer({ min: 1, max: 40 }),
        async (asked, { generations, scores }, cutAt) => {
          const engine = createEngine(generations, scores);
          const seen: SolveEvent[] = [];
          for await (const event of solve(asked, { engine, pack: createLoopPack() })) {
            seen.push(event);
            if (seen.length === cutAt) break;
          }
          const state = stateOf(seen);
          if (state === undefined || state.answer.status !== 'running') return;
          const again = createEngine(generations, scores);
          const all = [...seen];
          for await (const event of solve(asked, { engine: again, pack: createLoopPack() }, { resume: state }))
            all.push(event);
          expect(all.map(({ id }) => id)).toEqual(all.map((_, index) => index + 1));
          expect(all.filter(({ type }) => type === 'solve-end')).toHaveLength(1);
          const answer = stateOf(all)?.answer;
          const known = state.answer.usage.totalTokens;
          expect(answer?.usage.totalTokens).toBe(known + again.totalTokens());
          if (asked.budget?.tokens !== undefined) {
            expect(known + again.totalTokens()).toBeLessThanOrEqual(asked.budget.tokens);
          }
          // tokens that were spent once stay in the account, also those of a round that begins again
          let folded: SolveState | undefined;
          let spent = 0;
          for (const event of all) {
            folded = foldSolve(folded, event);
            expect(folded.answer.usage.totalTokens).toBeGreaterThanOrEqual(spent);
            spent = folded.answer.usage.totalTokens;
          }
          const rounds = answer?.chains.flatMap((chain) => chain.rounds) ?? [];
          expect(rounds.reduce((sum, { usage }) => addRoleUsage(sum, usage), noRoleUsage)).toEqual(answer?.usage);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('does the same twice when nothing is left to chance', { timeout: 60_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(request, fc.nat(), async (asked, salt) => {
        // a chain's answers depend on its requests alone; only budgets and first_accept couple chains
        const plain = { ...asked, budget: undefined, stopChains: 'all' as const };
        const run = async (): Promise<string> => {
          const engine = new ScriptedEngine({
            generate: ({ sampling }) => `seed ${sampling.seed} ${salt} \\boxed{${sampling.seed % 7}}`,
            score: ({ id }) => [((id.length * 7 + salt) % 10) / 10, 1 - ((id.length * 7 + salt) % 10) / 10],
          });
          const events: SolveEvent[] = [];
          for await (const event of solve(plain, { engine, pack: createLoopPack(), now: () => 0 })) events.push(event);
          return JSON.stringify(stateOf(events)?.answer);
        };
        expect(await run()).toBe(await run());
      }),
      { numRuns: 60 },
    );
  });
});

describe('verify, with any engine and any moment of cancellation', () => {
  it('ends once, counts exactly and leaves nothing running', { timeout: 60_000 }, async () => {
    const asked = fc.record({
      votes: fc.integer({ min: 1, max: 6 }),
      earlyStop: fc.boolean(),
      maxTokens: fc.integer({ min: 1, max: 20 }),
    });
    await fc.assert(
      fc.asyncProperty(asked, behaviour, async (changes, { generations, scores, cancelAt }) => {
        const engine = createEngine(generations, scores);
        const controller = new AbortController();
        const events: VerifyEvent[] = [];
        const stream = verify(
          {
            id: 'vrf_1',
            problem: 'p',
            solution: 'a\nb\nc',
            mode: 'full',
            model: 'verifier',
            seed: 1,
            priority: 'interactive',
            ...changes,
          },
          { engine, pack: createLoopPack() },
          { signal: controller.signal },
        );
        let thrown: unknown;
        try {
          for await (const event of stream) {
            events.push(event);
            if (events.length === cancelAt) controller.abort();
          }
        } catch (error) {
          thrown = error;
        }
        expect(engine.numOpen).toBe(0);
        const end = events.at(-1);
        expect(end?.type === 'verification-end').toBe(thrown === undefined);
        if (end?.type !== 'verification-end') return;
        expect(end.usage.totalTokens).toBe(engine.totalTokens());
        const counted = events.flatMap((event) => (event.type === 'vote-end' ? [event.vote] : []));
        expect(counted).toEqual(end.votes.map((_, vote) => vote));
        expect(end.votes.length).toBeLessThanOrEqual(changes.votes);
        if (!changes.earlyStop) expect(end.votes).toHaveLength(changes.votes);
        for (const [vote, { feedback }] of end.votes.entries()) {
          const deltas = events.flatMap((event) =>
            event.type === 'verification-delta' && event.vote === vote ? [event.text] : [],
          );
          expect(deltas.join('')).toBe(feedback);
        }
      }),
      { numRuns: 200 },
    );
  });
});
