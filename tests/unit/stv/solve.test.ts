import { describe, expect, it } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { foldSolve, type SolveState } from '../../../src/stv/fold.ts';
import type { LoopDeps } from '../../../src/stv/loop-deps.ts';
import { type SolveOptions, solve } from '../../../src/stv/solve.ts';
import type { SolveAnswer, SolveEvent, SolveRequest } from '../../../src/stv/solve-events.ts';
import { tracesOf } from '../../../src/stv/traces.ts';
import { createLoopPack } from '../../support/loop-pack.ts';
import { type EngineScript, promptText, ScriptedEngine } from '../../support/scripted-engine.ts';
import { createSolveRequest } from '../../support/solve-request.ts';

const base = createSolveRequest();

interface Run {
  readonly engine: ScriptedEngine;
  readonly events: readonly SolveEvent[];
  readonly answer: SolveAnswer;
}

async function runSolve(
  changes: Partial<SolveRequest>,
  script: EngineScript,
  options: SolveOptions & { readonly deps?: Partial<LoopDeps>; readonly onEvent?: (event: SolveEvent) => void } = {},
): Promise<Run> {
  const engine = new ScriptedEngine(script);
  const { deps, onEvent, ...solveOptions } = options;
  const events: SolveEvent[] = [];
  for await (const event of solve({ ...base, ...changes }, { engine, pack: createLoopPack(), ...deps }, solveOptions)) {
    events.push(event);
    onEvent?.(event);
  }
  const end = events.at(-1);
  if (end?.type !== 'solve-end') throw new Error(`The last event is ${end?.type}.`);
  const { type: _, solveId, ...answer } = end;
  return { engine, events, answer: { ...answer, id: solveId } };
}

/** P(accept) by the number of the round, taken from the marker that the attempts carry. */
function scripted(scores: readonly number[], chains?: readonly (readonly number[])[]): EngineScript {
  return {
    generate: (request) => {
      const place = /-c(\d+)-r(\d+)-(a?)/.exec(request.id);
      return place?.[3] === 'a'
        ? `Try ${place[1]}.${place[2]} gives \\boxed{${place[2]}}`
        : `Look at line 1 of ${place?.[2]}.`;
    },
    score: (request) => {
      const place = /-c(\d+)-r(\d+)-/.exec(request.id);
      const list = chains?.[Number(place?.[1])] ?? scores;
      const score = list[Number(place?.[2])] ?? 0.1;
      return [score, 1 - score];
    },
  };
}

describe('solve', () => {
  it('attempts, verifies and refines until a verdict accepts', async () => {
    const { answer, events, engine } = await runSolve({}, scripted([0.2, 0.3, 0.9]));
    expect(events.map(({ type }) => type).filter((type) => !type.endsWith('delta'))).toEqual([
      'solve-start',
      ...Array.from({ length: 3 }, () => [
        'round-start',
        'attempt-start',
        'attempt-end',
        'verification-start',
        'verification-end',
        'round-end',
      ]).flat(),
      'solve-end',
    ]);
    expect(answer).toMatchObject({
      id: 'slv_1',
      object: 'solve',
      status: 'accepted',
      stopReason: 'accepted',
      solution: 'Try 0.2 gives \\boxed{2}',
      answer: '2',
      chain: 0,
      round: 2,
      chains: [{ chain: 0, status: 'accepted', stopReason: 'accepted' }],
    });
    expect(answer.score).toBeCloseTo(0.9);
    expect(answer.usage.totalTokens).toBe(engine.totalTokens());
    expect(answer.usage.generator.totalTokens).toBe(engine.totalTokens('generator'));
  });

  it('shows a prompt the problem, the last attempt and the last feedback, and nothing older', async () => {
    const { engine } = await runSolve({}, scripted([0.2, 0.3, 0.4, 0.5]));
    const refinements = engine.generateRequests.filter(({ id }) => id.endsWith('-a')).slice(1);
    expect(refinements.map(({ prompt }) => promptText(prompt))).toEqual(
      [0, 1, 2].map(
        (round) =>
          `PROBLEM What is 2 + 2?\nTry 0.${round} gives \\boxed{${round}}\nFEEDBACK (reject) Look at line 1 of ${round}.\n`,
      ),
    );
    expect(refinements.map(({ prediction }) => prediction)).toEqual(
      [0, 1, 2].map((round) => `Try 0.${round} gives \\boxed{${round}}`),
    );
  });

  it.each([
    ['best', 'exhausted', 1],
    ['last', 'exhausted', 3],
    ['abstain', 'abstained', null],
  ] as const)('on exhaustion with `%s` ends as %s', async (onExhausted, status, round) => {
    const { answer } = await runSolve({ onExhausted }, scripted([0.2, 0.4, 0.3, 0.1]));
    expect(answer).toMatchObject({ status, stopReason: 'max_rounds', round });
    expect(answer.solution === null).toBe(round === null);
    expect(answer.chains[0]?.rounds).toHaveLength(4);
  });

  it('verifies an attempt of the caller first, at no cost of the generator', async () => {
    const { answer, engine } = await runSolve({ initialAttempt: 'It is \\boxed{4}', maxRounds: 0 }, scripted([0.9]));
    expect(answer).toMatchObject({ status: 'accepted', solution: 'It is \\boxed{4}', answer: '4' });
    expect(answer.usage.generator.totalTokens).toBe(0);
    expect(engine.totalTokens('generator')).toBe(0);
  });

  it('goes on after an undetermined verdict as after a reject', async () => {
    const { answer } = await runSolve(
      {},
      { ...scripted([]), score: ({ id }) => (id.includes('-r0-') ? [0.45, 0.05, 0.5] : [0.9, 0.1]) },
    );
    expect(answer.chains[0]?.rounds.map(({ verdict }) => verdict)).toEqual(['undetermined', 'accept']);
  });

  it('gives up after rejects in a row', async () => {
    const { answer } = await runSolve({ giveUp: { rejectsInARow: 2 }, maxRounds: 9 }, scripted([]));
    expect(answer).toMatchObject({
      status: 'exhausted',
      stopReason: 'rejects_in_a_row',
      chains: [{ status: 'gave_up' }],
    });
    expect(answer.chains[0]?.rounds).toHaveLength(2);
  });

  it('cancels the other chains at the first accept, or lets them end', async () => {
    const chains = [
      [0.1, 0.1, 0.1, 0.1],
      [0.1, 0.9],
    ];
    const first = await runSolve({ chains: 2 }, scripted([], chains));
    expect(first.answer.chains.map(({ status }) => status)).toEqual(['cancelled', 'accepted']);
    expect(first.answer).toMatchObject({ status: 'accepted', chain: 1, round: 1 });
    expect(first.answer.usage.totalTokens).toBe(first.engine.totalTokens());
    const all = await runSolve({ chains: 2, stopChains: 'all' }, scripted([], chains));
    expect(all.answer.chains.map(({ status }) => status)).toEqual(['exhausted', 'accepted']);
    expect(all.answer.chains.map(({ rounds }) => rounds.length)).toEqual([4, 2]);
  });

  it('verifies the same attempt again under `consecutive`', async () => {
    const verdicts = [0.9, 0.2, 0.9, 0.8, 0.7];
    const { answer, engine } = await runSolve(
      { accept: { rule: 'consecutive', k: 3 } },
      { ...scripted([]), score: (_, count) => [verdicts[count] ?? 0, 1 - (verdicts[count] ?? 0)] },
    );
    expect(answer.status).toBe('accepted');
    expect(answer.chains[0]?.rounds.map(({ verdict, accepted }) => [verdict, accepted])).toEqual([
      ['reject', false],
      ['accept', true],
    ]);
    expect(answer.chains[0]?.rounds[0]?.score).toBeCloseTo(0.55);
    const seeds = answer.chains[0]?.rounds[1]?.seeds.votes;
    expect(new Set(seeds).size).toBe(3);
    expect(engine.scoreRequests).toHaveLength(5);
  });

  it('counts votes under `votes` and stops as soon as they decide', async () => {
    const { answer } = await runSolve(
      { accept: { rule: 'votes', k: 3, n: 5 } },
      { ...scripted([]), score: ({ id }) => (/-v[14]-s/.test(id) ? [0.1, 0.9] : [0.9, 0.1]) },
    );
    expect(answer.status).toBe('accepted');
    expect(answer.chains[0]?.rounds[0]?.votes.map(({ verdict }) => verdict)).toEqual([
      'accept',
      'reject',
      'accept',
      'accept',
    ]);
  });

  it('takes the threshold of `score`, and never an undetermined verdict', async () => {
    const { answer } = await runSolve({ accept: { rule: 'score', threshold: 0.8 } }, scripted([0.7, 0.85]));
    expect(answer).toMatchObject({ status: 'accepted', round: 1 });
    const unsure = await runSolve(
      { accept: { rule: 'score', threshold: 0.3 }, maxRounds: 0 },
      { ...scripted([]), score: () => [0.4, 0.1, 0.5] },
    );
    expect(unsure.answer.status).toBe('exhausted');
  });

  it('never exceeds the token budget and returns what it has', async () => {
    for (let tokens = 1; tokens <= 400; tokens += 13) {
      const { answer, engine } = await runSolve({ budget: { tokens }, chains: 3, maxRounds: 9 }, scripted([]));
      expect(engine.totalTokens()).toBeLessThanOrEqual(tokens);
      expect(answer.usage.totalTokens).toBe(engine.totalTokens());
      expect(answer).toMatchObject({ status: 'exhausted', stopReason: 'token_budget' });
      const hasAttempt = answer.chains.some(({ rounds }) => rounds.some(({ attempt }) => attempt !== null));
      expect(answer.solution !== null).toBe(hasAttempt);
    }
  });

  it('stops at the deadline in the middle of a generation', async () => {
    const { answer, engine } = await runSolve(
      { budget: { seconds: 0.05 } },
      { ...scripted([]), generate: () => ({ text: 'word '.repeat(60), delayMs: 20 }) },
    );
    expect(answer).toMatchObject({ status: 'exhausted', stopReason: 'deadline', solution: null });
    expect(answer.usage.totalTokens).toBe(engine.totalTokens());
    expect(engine.numOpen).toBe(0);
    expect(answer.timings.totalMs).toBeLessThan(1_000);
  });

  it.each([
    [undefined, 'cancelled'],
    [new StvError('draining', 'The server is going down.'), 'shutdown'],
  ])('ends as cancelled when the signal is aborted (%s)', async (reason, stopReason) => {
    const controller = new AbortController();
    const { answer, engine } = await runSolve({ chains: 2 }, scripted([]), {
      signal: controller.signal,
      onEvent: ({ type }) => {
        if (type === 'verification-delta') controller.abort(reason);
      },
    });
    expect(answer).toMatchObject({ status: 'cancelled', stopReason });
    expect(answer.solution).toMatch(/^Try/);
    expect(answer.usage.totalTokens).toBe(engine.totalTokens());
  });

  it('ends as failed when every chain fails, with what came before', async () => {
    const crash = new StvError('engine_crashed', 'The engine process has ended.');
    const script = scripted([0.3]);
    const { answer, engine } = await runSolve(
      { chains: 2 },
      {
        ...script,
        generate: (request, count) =>
          request.id.includes('-r1-')
            ? { text: 'some words', error: crash, errorAfter: 1 }
            : (script.generate?.(request, count) ?? ''),
      },
    );
    expect(answer).toMatchObject({
      status: 'failed',
      stopReason: 'engine_error',
      error: { code: 'engine_crashed', message: 'The engine process has ended.', param: null },
      round: 0,
    });
    expect(answer.usage.totalTokens).toBe(engine.totalTokens());
  });

  it('does not pass on the message of an error that is not ours', async () => {
    const { answer } = await runSolve({}, { generate: () => ({ text: 'x', error: new Error('secret of the user') }) });
    expect(answer.error).toMatchObject({ code: 'internal' });
    expect(JSON.stringify(answer)).not.toContain('secret');
  });

  it('throws before the first event when a model is unknown', async () => {
    await expect(runSolve({ verifier: { model: 'nobody' } }, {})).rejects.toMatchObject({
      code: 'model_not_found',
      param: 'verifier.model',
    });
  });

  it('goes on from the finished rounds of an interrupted run with every event once', async () => {
    const script = scripted([0.1, 0.2, 0.3, 0.4]);
    const whole = await runSolve({ chains: 2 }, script);
    for (let cut = 1; cut < whole.events.length; cut += 7) {
      const seen = whole.events.slice(0, cut);
      const state = seen.reduce<SolveState | undefined>(foldSolve, undefined);
      const rest = await runSolve({ chains: 2 }, script, { resume: state });
      const ids = [...seen, ...rest.events].map(({ id }) => id);
      expect(ids).toEqual(ids.map((_, index) => index + 1));
      expect(rest.answer.solution).toBe(whole.answer.solution);
      expect(rest.answer.chains.map(({ rounds }) => rounds.map(({ attempt }) => attempt))).toEqual(
        whole.answer.chains.map(({ rounds }) => rounds.map(({ attempt }) => attempt)),
      );
      const folded = [...seen, ...rest.events].reduce<SolveState | undefined>(foldSolve, undefined);
      expect(folded?.answer).toEqual(rest.answer);
    }
  });

  it('goes on with the models and the sampling that it began with, or ends where they are not served', async () => {
    const script = scripted([0.1, 0.2, 0.3, 0.4]);
    const whole = await runSolve({}, script);
    const state = whole.events.slice(0, 9).reduce<SolveState | undefined>(foldSolve, undefined) as SolveState;
    const sampling = { ...state.start.generator, temperature: 0.125 };
    const resumed = await runSolve({}, script, {
      resume: { ...state, start: { ...state.start, generator: sampling } },
    });
    const asked = resumed.engine.generateRequests;
    expect(asked.filter(({ id }) => id.endsWith('-a')).map(({ sampling }) => sampling.temperature)).toContain(0.125);
    expect(new Set(asked.map(({ model }) => model))).toEqual(new Set(Object.values(state.start.models)));

    const models = { ...state.start.models, verifier: 'verifier@sha256:gone' };
    const resume = { ...state, start: { ...state.start, models } };
    expect((await runSolve({}, script, { resume })).answer.status, 'the name of the request is served').toBe(
      'exhausted',
    );
    const gone = { verifier: { model: 'verifier@sha256:gone' } };
    const failed = await runSolve(gone, script, { resume });
    expect(failed.events.map(({ type }) => type)).toEqual(['solve-end']);
    expect(failed.answer).toMatchObject({ status: 'failed', error: { code: 'model_not_found' } });
    const cancelled = await runSolve(gone, script, { resume, signal: AbortSignal.abort() });
    expect(cancelled.answer).toMatchObject({ status: 'cancelled', error: null });
  });

  it('says of each round what wrote it, where a run goes on with other models', async () => {
    const script = scripted([0.1, 0.2, 0.3, 0.4]);
    const { events } = await runSolve({}, script);
    const firstRound = events.slice(0, events.findIndex(({ type }) => type === 'round-end') + 1);
    const begun = firstRound.reduce<SolveState | undefined>(foldSolve, undefined) as SolveState;
    const now = begun.start.models;
    const gone = { ...now, verifier: 'verifier@sha256:gone' };
    const resume = { ...begun, start: { ...begun.start, models: gone } };
    const rest = await runSolve({}, script, { resume });
    const [first, ...others] = rest.answer.chains[0]?.rounds ?? [];
    expect(first?.models).toBeUndefined();
    expect(others.map(({ models }) => models)).toEqual(others.map(() => now));
    const traces = tracesOf(resume, rest.events, null);
    expect(traces.map(({ round, models }) => [round, models])).toEqual(others.map(({ round }) => [round, now]));
    expect(tracesOf(undefined, firstRound, null)[0]?.models).toEqual(now);
  });

  it('refuses to resume a run that has ended', async () => {
    const { events } = await runSolve({}, scripted([0.9]));
    const state = events.reduce<SolveState | undefined>(foldSolve, undefined);
    await expect(runSolve({}, {}, { resume: state })).rejects.toMatchObject({ code: 'conflict' });
  });

  it('waits for its turn when the queue is full in mid-run, and is refused when it has nothing yet', async () => {
    const full = new StvError('queue_full', 'The queue is full.', { retryAfterMs: 1 });
    const script = scripted([0.2, 0.9]);
    let numRefused = 0;
    const waiting = await runSolve(
      {},
      {
        ...script,
        generate: (request, count) => {
          if (!request.id.includes('-r1-') || numRefused >= 3) return script.generate?.(request, count) ?? '';
          numRefused++;
          return { text: '', error: full };
        },
      },
    );
    expect(numRefused).toBe(3);
    expect(waiting.answer).toMatchObject({ status: 'accepted', round: 1 });
    expect(waiting.answer.usage.totalTokens).toBe(waiting.engine.totalTokens());
    const refused = await runSolve({}, { generate: () => ({ text: '', error: full }) });
    expect(refused.answer).toMatchObject({ status: 'failed', error: { code: 'queue_full' } });
    expect(refused.engine.generateRequests).toHaveLength(1);
  });

  it('frees the engine when the consumer leaves', async () => {
    const engine = new ScriptedEngine(scripted([]));
    for await (const event of solve({ ...base, chains: 4 }, { engine, pack: createLoopPack() })) {
      if (event.type === 'attempt-delta') break;
    }
    expect(engine.numOpen).toBe(0);
  });
});
