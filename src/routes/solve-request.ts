/** From the body of `POST /solve` (or `x_solve`) to the loop's request: names, defaults, and the bound of what multiplies. */

import type { FastifyRequest } from 'fastify';
import { StvError } from '../errors.ts';
import type { RunOwner } from '../runs/run-registry.ts';
import type { SolveRequest } from '../stv/solve-events.ts';
import type { Limits } from './schemas.ts';
import { maxCalls, type SolveBody } from './schemas-solve.ts';
import { samplingOf } from './wire-in.ts';

/** Votes of one verification, as far as the rule asks for several at once. */
function votesOf(accept: SolveRequest['accept']): number {
  return accept.rule === 'votes' ? accept.n : 1;
}

/** Throws `invalid_value` where the run would ask for more generations than any may. */
function checkCalls(chains: number, maxRounds: number, accept: SolveRequest['accept']): void {
  const votes = accept.rule === 'consecutive' ? accept.k : votesOf(accept);
  const product = chains * (maxRounds + 1) * (1 + votes);
  if (product <= maxCalls) return;
  const name = accept.rule === 'votes' ? 'accept.n' : 'accept.k';
  const verifications = accept.rule === 'votes' || accept.rule === 'consecutive' ? `1 + \`${name}\`` : '2';
  throw new StvError(
    'invalid_value',
    `\`chains\` x (\`max_rounds\` + 1) x (${verifications}) must be at most ${maxCalls}, got ${chains} x ${maxRounds + 1} x ${1 + votes} = ${product}.`,
    { param: 'max_rounds' },
  );
}

/** Throws `invalid_value` where the fields contradict each other or multiply past the limit. */
export function toSolveRequest(body: SolveBody, id: string, limits: Limits): SolveRequest {
  const accept = body.accept ?? { rule: 'single' };
  if (accept.rule === 'votes' && accept.k > accept.n) {
    throw new StvError('invalid_value', `\`accept.k\` must be at most \`accept.n\`, got ${accept.k} of ${accept.n}.`, {
      param: 'accept.k',
    });
  }
  const chains = body.chains ?? 1;
  const product = votesOf(accept) * chains;
  if (product > limits.maxSequences) {
    throw new StvError(
      'invalid_value',
      `Votes times \`chains\` must be at most ${limits.maxSequences}, got ${votesOf(accept)} x ${chains} = ${product}.`,
      { param: 'chains' },
    );
  }
  const maxRounds = body.max_rounds ?? 8;
  checkCalls(chains, maxRounds, accept);
  return {
    id,
    problem: body.problem,
    initialAttempt: body.initial_attempt,
    maxRounds,
    chains,
    accept,
    giveUp: body.give_up === undefined ? undefined : { rejectsInARow: body.give_up.rejects_in_a_row },
    budget: body.budget,
    onExhausted: body.on_exhausted ?? 'best',
    stopChains: body.stop_chains ?? 'first_accept',
    generator: { model: body.generator?.model ?? 'generator', ...samplingOf(body.generator ?? {}) },
    verifier: { model: body.verifier?.model ?? 'verifier', ...samplingOf(body.verifier ?? {}) },
    seed: body.seed,
    metadata: body.metadata,
    ...(body.logprobs === true ? { logprobs: true } : {}),
    priority: body.background === true ? 'batch' : 'interactive',
  };
}

/** The trace context of a request that has one, to be put beside the request of a run. */
export function traceContextOf(request: FastifyRequest): Pick<SolveRequest, 'traceparent'> {
  const { traceparent } = request.headers;
  return typeof traceparent === 'string' && traceparent.length <= 128 ? { traceparent } : {};
}

export function ownerOf(request: FastifyRequest): RunOwner {
  return { id: request.apiKey.id, isAdmin: request.apiKey.scopes.has('admin') };
}

const acceptableKey = /^[\x21-\x7e]{1,255}$/;

/** The `Idempotency-Key` header; throws `invalid_value` where it is no plain token. */
export function idempotencyKeyOf(request: FastifyRequest): string | undefined {
  const key = request.headers['idempotency-key'];
  if (key === undefined) return undefined;
  if (typeof key === 'string' && acceptableKey.test(key)) return key;
  throw new StvError('invalid_value', 'The header Idempotency-Key must hold 1 to 255 visible ASCII characters.', {
    param: 'Idempotency-Key',
  });
}
