import { describe, expect, it } from 'vitest';
import { maxCalls } from '../../src/routes/schemas-solve.ts';
import { toSolveRequest } from '../../src/routes/solve-request.ts';
import { buildApp } from './build-app.ts';
import { post } from './contract.ts';

const limits = { maxTextLength: 65_536, maxOutputTokens: 8192, maxSequences: 256 };

describe('the calls of one run', () => {
  it.each([
    [{ chains: 64 }],
    [{ max_rounds: 100 }],
    [{ accept: { rule: 'votes', k: 1, n: 64 } }],
    [{ accept: { rule: 'consecutive', k: 64 } }],
    [{ chains: 64, max_rounds: 100 }],
    [{ chains: 4, accept: { rule: 'votes', k: 33, n: 64 } }],
    [{ chains: 2, max_rounds: 100, accept: { rule: 'consecutive', k: 64 } }],
  ] as const)('%j are within every bound of the fields, and taken', (options) => {
    expect(toSolveRequest({ problem: 'p', ...options }, 'slv_1', limits)).toMatchObject({ problem: 'p' });
  });

  it.each([
    [{ chains: 64, max_rounds: 99, accept: { rule: 'consecutive', k: 64 } }, 'accept.k', '64 x 100 x 65 = 416000'],
    [{ chains: 4, max_rounds: 63, accept: { rule: 'votes', k: 1, n: 64 } }, 'accept.n', '4 x 64 x 65 = 16640'],
  ] as const)('%j are refused before anything is begun', async (options, field, product) => {
    const { app, engine, runs } = await buildApp();
    const chat = { model: 'solve', messages: [{ role: 'user', content: 'p' }], x_solve: options };
    for (const [url, body, at] of [
      ['/solve', { problem: 'p', ...options }, ''],
      ['/v1/chat/completions', chat, 'x_solve.'],
    ] as const) {
      const answer = await post(app, url, body);
      expect(answer.statusCode, answer.body).toBe(400);
      const { error } = answer.json();
      expect(error).toMatchObject({ code: 'invalid_value', type: 'invalid_request_error' });
      expect(error.param).toBe(`${at}max_rounds`);
      for (const name of ['chains', 'max_rounds', field]) expect(error.message).toContain(`\`${at}${name}\``);
      for (const part of [`at most ${maxCalls}`, product]) {
        expect(error.message).toContain(part);
      }
    }
    expect(engine.requests).toEqual([]);
    expect(runs.numLive).toBe(0);
  });
});
