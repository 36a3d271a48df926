/** A run that is stored and the engine's crashes: it waits, plays the broken round again and ends as if nothing had happened. */
import { describe, expect, it } from 'vitest';
import type { EngineStatus, GenerateRequest } from '../../../src/engine/engine.ts';
import { StvError } from '../../../src/errors.ts';
import { foldSolve, type SolveState } from '../../../src/stv/fold.ts';
import { solve } from '../../../src/stv/solve.ts';
import type { SolveEvent, SolveRequest } from '../../../src/stv/solve-events.ts';
import { createLoopPack } from '../../support/loop-pack.ts';
import { ScriptedEngine, type ScriptedGeneration } from '../../support/scripted-engine.ts';

const request: SolveRequest = {
  id: 'slv_1',
  problem: 'What is 2 + 2?',
  maxRounds: 1,
  chains: 2,
  accept: { rule: 'single' },
  onExhausted: 'best',
  stopChains: 'all',
  generator: { model: 'generator' },
  verifier: { model: 'verifier' },
  seed: 1,
  priority: 'batch',
};

/** Fails the first call of each id that `when` picks, and is away from then on until it has been asked three times. */
class CrashingEngine extends ScriptedEngine {
  looks = 0;
  #isAway = false;

  constructor(when: RegExp, code: 'engine_crashed' | 'not_ready' | 'queue_full' | 'request_quarantined') {
    const failed = new Set<string>();
    super({
      generate: ({ id }: GenerateRequest): ScriptedGeneration => {
        const text = 'one two three four five';
        if (!when.test(id) || failed.has(id)) return { text };
        failed.add(id);
        this.#isAway = true;
        this.looks = 0;
        return { text, errorAfter: 2, error: new StvError(code, 'Lost.', { retryAfterMs: 50 }) };
      },
      score: () => [0.1, 0.9],
    });
  }

  override status(): EngineStatus {
    this.looks++;
    if (this.looks >= 3) this.#isAway = false;
    return { ...super.status(), state: this.#isAway ? 'restarting' : 'ready' };
  }
}

async function eventsOf(engine: ScriptedEngine, outlastsEngine: boolean): Promise<SolveEvent[]> {
  const events: SolveEvent[] = [];
  for await (const event of solve({ ...request, outlastsEngine }, { engine, pack: createLoopPack() })) {
    events.push(event);
  }
  return events;
}

describe('a run that outlasts the engine', () => {
  it.each([
    ['an attempt', /-a$/, 'engine_crashed'],
    ['a verification', /-n0/, 'engine_crashed'],
    ['a call while the engine starts', /-a$/, 'not_ready'],
    ['a call to a full queue', /-r0-a$/, 'queue_full'],
  ] as const)('goes on after %s was lost, with one end and the tokens of both tries', async (_, when, code) => {
    const engine = new CrashingEngine(when, code);
    const events = await eventsOf(engine, true);
    const state = events.reduce<SolveState | undefined>(foldSolve, undefined);
    expect(events.filter(({ type }) => type === 'solve-end')).toHaveLength(1);
    expect(state?.answer).toMatchObject({ status: 'exhausted', stopReason: 'max_rounds', error: null });
    expect(state?.answer.chains.map(({ rounds }) => rounds.length)).toEqual([2, 2]);
    expect(state?.answer.usage.totalTokens).toBe(engine.totalTokens());
  });

  it('ends with the error where it is not stored, and where trying again would not help', async () => {
    for (const [code, outlasts] of [
      ['engine_crashed', false],
      ['request_quarantined', true],
    ] as const) {
      const events = await eventsOf(new CrashingEngine(/-r0-a$/, code), outlasts);
      expect(events.at(-1)).toMatchObject({ type: 'solve-end', status: 'failed', error: { code } });
    }
  });

  it('stops waiting when it is cancelled', async () => {
    const engine = new CrashingEngine(/-a$/, 'engine_crashed');
    engine.status = () => ({ state: 'restarting', running: 0, waiting: 0, lastStepMsAgo: null, lastTokenMsAgo: null });
    const controller = new AbortController();
    const events: SolveEvent[] = [];
    const deps = { engine, pack: createLoopPack() };
    for await (const event of solve({ ...request, outlastsEngine: true }, deps, { signal: controller.signal })) {
      events.push(event);
      if (event.type === 'round-end') controller.abort(new StvError('draining', 'The server shuts down.'));
    }
    expect(events.at(-1)).toMatchObject({ status: 'cancelled', stopReason: 'shutdown' });
  });
});
