/** A small request of the loop, for tests that care about one part of it. */
import type { SolveRequest } from '../../src/stv/solve-events.ts';

export function createSolveRequest(changes: Partial<SolveRequest> = {}): SolveRequest {
  return {
    id: 'slv_1',
    problem: 'What is 2 + 2?',
    maxRounds: 3,
    chains: 1,
    accept: { rule: 'single' },
    onExhausted: 'best',
    stopChains: 'first_accept',
    generator: { model: 'generator' },
    verifier: { model: 'verifier' },
    seed: 1,
    priority: 'interactive',
    ...changes,
  };
}
