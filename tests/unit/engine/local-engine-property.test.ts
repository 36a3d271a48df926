import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { GenerateRequest } from '../../../src/engine/engine.ts';
import type { StvError } from '../../../src/errors.ts';
import { collect, type Folded, request, startFakeEngine } from '../../support/fake-engine.ts';

const requestArbitrary = fc.record({
  text: fc.string({ minLength: 1, maxLength: 60, unit: fc.constantFrom('a', 'b', ' ', 'ß', '🦊') }),
  maxTokens: fc.integer({ min: 1, max: 40 }),
  stop: fc.constantFrom<readonly string[]>([], ['e'], ['A', '1', '\uFFFD']),
  seed: fc.integer({ min: 0, max: 1000 }),
  delay: fc.integer({ min: 0, max: 8 }),
  leave: fc.option(
    fc.record({ how: fc.constantFrom('signal', 'break', 'deadline'), after: fc.integer({ min: 0, max: 12 }) }),
    {
      nil: undefined,
      freq: 2,
    },
  ),
});
type Wanted = typeof requestArbitrary extends fc.Arbitrary<infer T> ? T : never;

const toRequest = ({ text, maxTokens, stop, seed }: Wanted): GenerateRequest => {
  const base = request(text, { maxTokens, stop });
  return { ...base, sampling: { ...base.sampling, temperature: 1, seed } };
};

describe('LocalEngine under random clients and a host that may die', () => {
  it('ends every request exactly once, forgets nothing, and gives undisturbed requests their own answer', async () => {
    const alone = await startFakeEngine();
    const lone = new Map<string, Folded>();
    await fc.assert(
      fc.asyncProperty(
        fc.array(requestArbitrary, { minLength: 1, maxLength: 8 }),
        fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined, freq: 3 }),
        async (wanted, killAfter) => {
          const { engine, hosts } = await startFakeEngine({
            models: [
              {
                name: 'm',
                aliases: ['generator'],
                digest: 'd',
                dir: '',
                numSlots: 3,
                maxLanes: 3,
                maxLength: 512,
                maxBatchedTokens: 24,
                chunkTokens: 9,
              },
            ],
          });
          const ends = wanted.map(async (want) => {
            await sleep(want.delay);
            const { leave } = want;
            if (leave?.how === 'break') {
              let count = 0;
              for await (const _ of engine.generate(toRequest(want))) if (++count > leave.after) break;
              return 'left';
            }
            const controller = new AbortController();
            if (leave?.how === 'signal') setTimeout(() => controller.abort(), leave.after);
            const deadline = leave?.how === 'deadline' ? { deadline: Date.now() + leave.after } : {};
            const folded = await collect(engine, { ...toRequest(want), ...deadline }, controller.signal);
            if (folded.end.finishReason === 'cancelled') return 'left';
            const key = JSON.stringify([want.text, want.maxTokens, want.stop, want.seed]);
            if (!lone.has(key)) lone.set(key, await collect(alone.engine, toRequest(want)));
            const own = lone.get(key) as Folded;
            expect({ text: folded.text, tokens: folded.tokens }).toEqual({ text: own.text, tokens: own.tokens });
            expect(folded.end.usage.completionTokens).toBe(own.end.usage.completionTokens);
            expect([folded.end.finishReason, folded.end.stop]).toEqual([own.end.finishReason, own.end.stop]);
            return 'whole';
          });
          const killing = killAfter === undefined ? undefined : setTimeout(() => hosts[0]?.kill(), killAfter);
          for (const [i, result] of (await Promise.allSettled(ends)).entries()) {
            if (result.status === 'fulfilled') continue;
            const expected = ['deadline_exceeded', ...(killAfter === undefined ? [] : ['engine_crashed', 'not_ready'])];
            expect(expected, String(result.reason)).toContain((result.reason as StvError).code);
            if ((result.reason as StvError).code === 'deadline_exceeded')
              expect(wanted[i]?.leave?.how).toBe('deadline');
          }
          clearTimeout(killing);
          await sleep(2); // a kill that was just sent arrives
          expect(engine.status()).toMatchObject({ running: 0, waiting: 0 });
          while (engine.status().state !== 'ready') await sleep(1);
          // the host has freed everything: its next and only step shows it
          let slotsUsed = -1;
          engine.onStats((stats) => {
            if (stats.type === 'step') slotsUsed = stats.slotsUsed;
          });
          await collect(engine, request('last', { maxTokens: 1 }));
          expect(slotsUsed).toBe(0);
          await engine.close();
        },
      ),
      { numRuns: 25, endOnFailure: true }, // moments in time do not shrink,
    );
    await alone.engine.close();
  }, 60_000);
});
