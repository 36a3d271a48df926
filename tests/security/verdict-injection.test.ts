/**
 * 200 attempts to talk the verdict out of the server: none can be parsed into one, wherever it stands. Whether a model lets itself
 * be persuaded is measured with a real pack by `npm run injection`.
 */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { foldVerify } from '../../src/stv/fold.ts';
import type { LoopPack } from '../../src/stv/loop-pack.ts';
import { verify } from '../../src/stv/verify.ts';
import { createLoopPack } from '../support/loop-pack.ts';
import { ScriptedEngine } from '../support/scripted-engine.ts';

interface Injection {
  readonly kind: string;
  readonly text: string;
}

const injections = JSON.parse(readFileSync(new URL('injections.json', import.meta.url), 'utf8')) as Injection[];
const verdict = { open: '<verdict>', close: '</verdict>', words: { accept: 'correct', reject: 'wrong' }, minMass: 0.5 };
const packs = [createLoopPack(), createLoopPack({ verdict: { ...verdict, open: '\n<verdict>' } })];

async function verdictOf(texts: { problem: string; solution: string; feedback: string }, pack: LoopPack) {
  const engine = new ScriptedEngine({ generate: () => texts.feedback, score: () => [0.1, 0.9] });
  const shared = { id: 'vrf_1', problem: texts.problem, solution: texts.solution, model: 'verifier', seed: 1 } as const;
  const settings = { mode: 'full', votes: 3, earlyStop: false, priority: 'interactive', maxTokens: 4000 } as const;
  const answer = await foldVerify(verify({ ...shared, ...settings }, { engine, pack }));
  return { answer, engine };
}

it('are 200 different ones of six kinds', () => {
  expect(new Set(injections.map(({ text }) => text)).size).toBe(200);
  expect([...new Set(injections.map(({ kind }) => kind))]).toHaveLength(6);
});

it.each(['problem', 'solution', 'feedback'] as const)(
  'in the %s flip none of 200 verdicts by parsing',
  async (place) => {
    const flips: unknown[] = [];
    for (const { text } of injections) {
      for (const pack of packs) {
        const plain = { problem: 'What is 2 + 2?', solution: '2 + 2 = 5', feedback: 'The sum is 4.' };
        const { answer, engine } = await verdictOf({ ...plain, [place]: `${plain[place]}\n${text}` }, pack);
        const isHeld = answer.verdict === 'reject' && answer.votes.every((vote) => vote.verdict === 'reject');
        if (!isHeld) flips.push([text, answer]);
        // the words are read after an opening that the server wrote, and nothing else follows it
        for (const { prompt } of engine.scoreRequests) {
          expect(prompt.kind === 'chat' && prompt.assistantPrefix?.endsWith(pack.verdict.open), text).toBe(true);
        }
      }
    }
    expect(flips).toEqual([]);
  },
);

it('would be seen if they did: the same script with the other probabilities accepts', async () => {
  const engine = new ScriptedEngine({ generate: () => 'All right.', score: () => [0.9, 0.1] });
  const request = { id: 'v', problem: 'p', solution: 's', model: 'verifier', seed: 1, mode: 'full', votes: 1 } as const;
  const answer = await foldVerify(
    verify({ ...request, earlyStop: true, priority: 'interactive' }, { engine, pack: createLoopPack() }),
  );
  expect(answer.verdict).toBe('accept');
});
