/** The bundled pack as a newcomer meets it: no network, an empty data folder, and a verifier that says what is wrong. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { postJson, readJson } from '../support/json-request.ts';
import { freshFolder, type RunningServer, startServer } from '../support/start-server.ts';

const problem = 'Solve 5x - 7 = 2x + 8.';
const right = '3x - 7 = 8\n3x = 15\nx = 5';
// 7 is taken away instead of added
const wrong = '3x - 7 = 8\n3x = 1\nx = 1/3';

let server: RunningServer;

beforeAll(async () => {
  server = await startServer({ pack: '', args: ['--offline'], dataDir: freshFolder() });
});

afterAll(async () => {
  expect(await server.stop()).toBe(0);
});

const post = (route: string, body: unknown): Promise<Response> => postJson(server.url + route, body);

describe('the bundled pack', () => {
  it('is served without a network', () => {
    expect(server.output().stdout).toContain('stv-mini');
  });

  it('accepts a right solution', async () => {
    const answer = await readJson(
      await post('/verify', { problem, solution: right, votes: 15, early_stop: false, seed: 1 }),
    );
    expect(answer).toMatchObject({ verdict: 'accept', first_error: null });
  });

  it('rejects a wrong one and says which step it doubts, without the answer', async () => {
    const answer = await readJson(
      await post('/verify', { problem, solution: wrong, votes: 15, early_stop: false, seed: 1 }),
    );
    expect(answer['verdict']).toBe('reject');
    expect(answer['feedback']).toMatch(/^(Step \d: (.+, )?ok\n)*Step \d: .*(?<!ok)$/);
    expect(answer['first_error'].quote).toMatch(/=/);
    expect(answer['feedback']).not.toMatch(/x = 5\b/);
  });

  it('sees that a problem is not its own', async () => {
    const answer = await readJson(
      await post('/verify', { problem: 'What is the capital of France?', solution: 'Paris', votes: 5, seed: 1 }),
    );
    expect(answer['verdict']).not.toBe('accept');
  });

  it("repairs a student's attempt in the loop: a rejection first, then a right solution that is accepted", async () => {
    const end = await readJson(
      await post('/solve', { problem, initial_attempt: wrong, chains: 8, stop_chains: 'all', max_rounds: 6, seed: 1 }),
    );
    const chains = end['chains'] as { rounds: Record<string, any>[] }[];
    const repaired = chains.filter(({ rounds }) => {
      const last = rounds.at(-1);
      return rounds[0]?.['verdict'] === 'reject' && last?.['verdict'] === 'accept' && last['answer'] === '5';
    });
    expect(repaired.length, JSON.stringify(chains)).toBeGreaterThan(0);
  });
});
