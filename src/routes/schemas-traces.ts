/** `GET /traces`: the query, and one line of the answer. */
import { Type } from 'typebox';
import { created, nullable, oneOf, strictObject } from './schemas.ts';
import { Round } from './schemas-solve.ts';

export const tracesQuery = strictObject({
  after: Type.Optional(
    Type.String({ pattern: '^trc_[0-9]{16}$', description: '`trace_id` of the last trace that you have' }),
  ),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
  labels: Type.Optional(
    Type.Boolean({ description: 'Add the `label` of runs that have one: the caller’s reference and answer' }),
  ),
});

export const Trace = strictObject(
  {
    trace_id: Type.String({ description: 'Grows in the order in which rounds were stored' }),
    solve_id: Type.String(),
    chain: Type.Integer({ minimum: 0 }),
    created,
    problem: Type.String(),
    previous_attempt: nullable(Type.String()),
    previous_feedback: nullable(Type.String()),
    metadata: nullable(Type.Record(Type.String(), Type.String())),
    versions: nullable(
      strictObject(
        { server: Type.String(), pack: Type.String() },
        { description: 'What wrote the round; null for one that is older than this field' },
      ),
    ),
    ...Round.properties,
    models: strictObject({ generator: Type.String(), verifier: Type.String() }),
    label: Type.Optional(
      strictObject({ reference: Type.Optional(Type.String()), answer: Type.Optional(Type.String()) }),
    ),
    object: oneOf(['trace']),
  },
  {
    title: 'Trace',
    description: 'One finished round of a stored run: the last state, the attempt and its verification',
  },
);
