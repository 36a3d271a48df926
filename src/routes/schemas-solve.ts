/** `POST /solve` and the routes of a run: body, answer, state, events. */
import { type Static, type TSchema, Type } from 'typebox';
import {
  created,
  ErrorAnswer,
  ErrorObject,
  eventOf,
  FinishReason,
  type Limits,
  nullable,
  oneOf,
  samplingFields,
  seedField,
  streamField,
  strictObject,
  Timings,
  text,
  Usage,
  Verdict,
} from './schemas.ts';
import { FirstError, SampledTokens, Vote } from './schemas-verify.ts';

const acceptRule = Type.Union(
  [
    strictObject({ rule: Type.Literal('single') }),
    strictObject({ rule: Type.Literal('consecutive'), k: Type.Integer({ minimum: 1, maximum: 64 }) }),
    strictObject({
      rule: Type.Literal('votes'),
      k: Type.Integer({ minimum: 1, maximum: 64 }),
      n: Type.Integer({ minimum: 1, maximum: 64 }),
    }),
    strictObject({ rule: Type.Literal('score'), threshold: Type.Number({ minimum: 0, maximum: 1 }) }),
  ],
  {
    description:
      '{"rule": "single"}, {"rule": "consecutive", "k"}, {"rule": "votes", "k", "n"} or {"rule": "score", "threshold"}',
  },
);

/**
 * Generations that one run may ask for: chains x rounds x (an attempt and its verifications). Leaves room for every factor at its
 * own maximum, and for all chains with all rounds; not for all factors at once.
 */
export const maxCalls = 16_384;

function roleOptions(limits: Limits, role: string) {
  return Type.Optional(
    strictObject(
      { model: Type.Optional(Type.String({ minLength: 1, maxLength: 256 })), ...samplingFields(limits) },
      { description: `Model and sampling of the ${role}; the pack's where absent` },
    ),
  );
}

/** Options of the loop that both `POST /solve` and `x_solve` of chat completions take. */
export function solveOptions(limits: Limits) {
  return {
    initial_attempt: Type.Optional(text(limits, 'Begin by verifying this instead of generating')),
    max_rounds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 100,
        description: `Refinements after the first attempt; default 8. chains x (max_rounds + 1) x (1 + votes, or k in a row) is at most ${maxCalls}`,
      }),
    ),
    chains: Type.Optional(
      Type.Integer({ minimum: 1, maximum: Math.min(64, limits.maxSequences), description: 'Default 1' }),
    ),
    accept: Type.Optional(acceptRule),
    give_up: Type.Optional(strictObject({ rejects_in_a_row: Type.Integer({ minimum: 1, maximum: 101 }) })),
    budget: Type.Optional(
      strictObject({
        tokens: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000_000 })),
        seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 604_800 })),
      }),
    ),
    on_exhausted: Type.Optional(oneOf(['best', 'last', 'abstain'], 'Default `best`')),
    stop_chains: Type.Optional(oneOf(['first_accept', 'all'], 'Default `first_accept`')),
    generator: roleOptions(limits, 'generator'),
    verifier: roleOptions(limits, 'verifier'),
    label: Type.Optional(
      strictObject(
        {
          reference: Type.Optional(text(limits, 'A reference solution')),
          answer: Type.Optional(text(limits, 'The right final answer')),
        },
        { description: 'Never shown to a model; kept apart with a stored run' },
      ),
    ),
    seed: Type.Optional(seedField),
    metadata: Type.Optional(
      Type.Record(Type.String(), Type.String({ maxLength: 512 }), {
        maxProperties: 16,
        propertyNames: { type: 'string', minLength: 1, maxLength: 64 },
      }),
    ),
    store: Type.Optional(Type.Boolean({ description: 'Keep the run; default false' })),
    logprobs: Type.Optional(
      Type.Boolean({
        description:
          'Keep the sampled tokens with their log-probabilities in rounds and traces, for training; default false',
      }),
    ),
  };
}

export function solveBody(limits: Limits) {
  return strictObject(
    {
      problem: text(limits, 'The problem to solve'),
      ...solveOptions(limits),
      background: Type.Optional(Type.Boolean({ description: 'Answer 202 at once (implies `store`); default false' })),
      stream: streamField,
    },
    { title: 'SolveRequest' },
  );
}
export type SolveBody = Static<ReturnType<typeof solveBody>>;

const score = Type.Number({ minimum: 0, maximum: 1 });
const index = Type.Integer({ minimum: 0 });

export const SolveStatus = oneOf(['accepted', 'exhausted', 'abstained', 'cancelled', 'failed']);
export const LiveStatus = oneOf([
  'queued',
  'running',
  'parked',
  'accepted',
  'exhausted',
  'abstained',
  'cancelled',
  'failed',
]);
const ChainStatus = oneOf(['accepted', 'exhausted', 'gave_up', 'cancelled', 'failed']);
const LiveChainStatus = oneOf(['running', 'accepted', 'exhausted', 'gave_up', 'cancelled', 'failed']);
const StopReason = oneOf([
  'accepted',
  'max_rounds',
  'rejects_in_a_row',
  'token_budget',
  'deadline',
  'cancelled',
  'engine_error',
  'shutdown',
]);

const RoleUsage = strictObject({ generator: Usage, verifier: Usage, total_tokens: index }, { title: 'RoleUsage' });

const count = Type.Integer({ minimum: 0 });
const callTimings = strictObject({ queue_ms: Type.Number(), prefill_ms: Type.Number(), decode_ms: Type.Number() });
const hash = nullable(Type.String());

const models = strictObject({ generator: Type.String(), verifier: Type.String() });
const otherModels = Type.Optional({ ...models, description: 'Where a run went on with others than it began with' });

export const Round = strictObject(
  {
    round: index,
    models: otherModels,
    attempt: nullable(Type.String()),
    answer: nullable(Type.String()),
    finish_reason: nullable(FinishReason),
    logprobs: Type.Optional(SampledTokens),
    verdict: nullable(Verdict),
    score: nullable(score),
    raw_score: nullable(score),
    accepted: Type.Boolean(),
    feedback: nullable(Type.String()),
    first_error: nullable(FirstError),
    votes: Type.Array(Vote),
    seeds: strictObject({ attempt: nullable(seedField), votes: Type.Array(seedField) }),
    prompt_hashes: strictObject({ attempt: hash, verification: hash }),
    usage: RoleUsage,
    timings: callTimings,
  },
  { title: 'Round', description: 'What is missing in a round that is under way or was broken off is null' },
);

function chain(status: ReturnType<typeof oneOf>, title: string) {
  return strictObject(
    {
      chain: index,
      status,
      stop_reason: nullable(StopReason),
      error: nullable(ErrorObject),
      rounds: Type.Array(Round),
    },
    { title },
  );
}

const metadata = nullable(Type.Record(Type.String(), Type.String()));

function answer(title: string, status: ReturnType<typeof oneOf>, isLive: boolean) {
  const whenKnown = <S extends TSchema>(schema: S) => (isLive ? nullable(schema) : schema);
  return strictObject(
    {
      id: Type.String(),
      object: oneOf(['solve']),
      created,
      models: whenKnown(models),
      status,
      stop_reason: nullable(StopReason),
      solution: nullable(Type.String({ description: 'The best attempt so far' })),
      answer: nullable(Type.String()),
      score: nullable(score),
      chain: nullable(index),
      round: nullable(index),
      chains: Type.Array(isLive ? chain(LiveChainStatus, 'LiveChain') : chain(ChainStatus, 'Chain')),
      usage: RoleUsage,
      seed: whenKnown(seedField),
      metadata,
      timings: Timings,
      error: nullable(ErrorObject),
    },
    { title },
  );
}

export const Solve = answer('Solve', SolveStatus, false);
export const SolveState = answer('SolveState', LiveStatus, true);

const resolvedSampling = strictObject({
  temperature: Type.Number(),
  top_p: Type.Number(),
  top_k: Type.Number(),
  min_p: Type.Number(),
  max_tokens: count,
});

const solveId = { solve_id: Type.String() };
const ids = { ...solveId, chain: index, round: index };

export const SolveEvent = Type.Union(
  [
    eventOf('solve', 'solve-start', {
      ...solveId,
      created,
      models,
      problem: Type.String(),
      initial_attempt: nullable(Type.String()),
      limits: strictObject({
        max_rounds: count,
        chains: count,
        accept: acceptRule,
        give_up: nullable(strictObject({ rejects_in_a_row: count })),
        budget: strictObject({ tokens: nullable(count), seconds: nullable(Type.Number()) }),
        on_exhausted: oneOf(['best', 'last', 'abstain']),
        stop_chains: oneOf(['first_accept', 'all']),
      }),
      generator: resolvedSampling,
      verifier: resolvedSampling,
      seed: seedField,
      metadata,
    }),
    eventOf('solve', 'round-start', { ...ids, carried: nullable(RoleUsage), models: otherModels }),
    eventOf('solve', 'attempt-start', { ...ids, seed: nullable(seedField), prompt_hash: hash }),
    eventOf('solve', 'attempt-delta', { ...ids, text: Type.String() }),
    eventOf('solve', 'attempt-end', {
      ...ids,
      attempt: Type.String(),
      answer: nullable(Type.String()),
      finish_reason: FinishReason,
      logprobs: Type.Optional(SampledTokens),
      usage: Usage,
      timings: callTimings,
    }),
    eventOf('solve', 'verification-start', { ...ids, prompt_hash: Type.String() }),
    eventOf('solve', 'verification-delta', { ...ids, vote: index, text: Type.String() }),
    eventOf('solve', 'verification-end', {
      ...ids,
      verdict: Verdict,
      score,
      raw_score: score,
      agreement: score,
      feedback: Type.String(),
      first_error: nullable(FirstError),
      votes: Type.Array(Vote),
      usage: Usage,
      timings: callTimings,
    }),
    eventOf('solve', 'round-end', {
      ...ids,
      finished: Type.Boolean(),
      accepted: Type.Boolean(),
      best: nullable(strictObject({ chain: index, round: index })),
      usage: RoleUsage,
      timings: callTimings,
      elapsed_ms: Type.Number(),
    }),
    strictObject({ ...solveId, ...Solve.properties }, { title: 'SolveSolveEndEvent' }),
    ErrorAnswer,
  ],
  {
    description:
      'Events with growing ids. After `solve-start` the terminal event is always `solve-end` (data: the JSON answer); `error` ends a stream in which nothing had started.',
  },
);

/** Ids of others are unknown; what no database takes as text never gets to one. */
const runId = Type.String({ minLength: 1, maxLength: 64, pattern: '^[!-~]+$' });

/** For the contract: their values are checked where they are read, since a refusal names a header as a client writes it. */
export const solveHeaders = Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({
      description:
        '1 to 255 visible ASCII characters; for 24 hours the same key and body find the same run, unless it failed; of runs that are not stored the last 512 are remembered',
    }),
  ),
});
export const replayHeaders = Type.Object({
  'last-event-id': Type.Optional(Type.String({ description: 'The id of the last event that the client has' })),
});

export const solveParams = strictObject({ id: runId });

export const shareQuery = strictObject({
  token: Type.Optional(Type.String({ minLength: 1, maxLength: 128, description: 'A share token in place of a key' })),
});

export const Share = strictObject(
  { object: oneOf(['share']), solve_id: Type.String(), token: Type.String(), path: Type.String() },
  { title: 'Share', description: 'Whoever has the token can read this run and follow it, and nothing else' },
);

export const listQuery = strictObject({
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 20 })),
  after: Type.Optional(runId),
});

const { chains: _, ...withoutRounds } = SolveState.properties;

const SolveListEntry = strictObject(
  { ...withoutRounds, problem: Type.String() },
  { title: 'SolveListEntry', description: 'A run without its rounds, as of the last round that ended' },
);

export const SolveList = strictObject(
  { object: oneOf(['list']), data: Type.Array(SolveListEntry), has_more: Type.Boolean() },
  { title: 'SolveList' },
);
