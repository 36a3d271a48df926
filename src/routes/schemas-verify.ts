/** `POST /verify` and `POST /refine`: bodies, answers, events. */
import { type Static, Type } from 'typebox';
import {
  created,
  ErrorAnswer,
  eventOf,
  FinishReason,
  type Limits,
  modelField,
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

const score = Type.Number({ minimum: 0, maximum: 1 });

export function verifyBody(limits: Limits) {
  return strictObject(
    {
      problem: text(limits, 'The problem as it was put'),
      solution: text(limits, 'The solution to judge'),
      reference: Type.Optional(text(limits, 'A reference solution; never quoted in the feedback')),
      mode: Type.Optional(oneOf(['full', 'score'], '`score` gives the verdict probability only, from one prefill')),
      votes: Type.Optional(
        Type.Integer({ minimum: 1, maximum: Math.min(64, limits.maxSequences), description: 'Default 1' }),
      ),
      early_stop: Type.Optional(
        Type.Boolean({ description: 'Stop once no later vote can change the majority; default true' }),
      ),
      model: modelField('verifier'),
      ...samplingFields(limits),
      seed: Type.Optional(seedField),
      stream: streamField,
    },
    { title: 'VerifyRequest' },
  );
}
export type VerifyBody = Static<ReturnType<typeof verifyBody>>;

export const FirstError = strictObject(
  {
    step: Type.Integer({ minimum: 1 }),
    start: Type.Integer({ minimum: 0, description: 'UTF-16 units into the solution' }),
    end: Type.Integer({ minimum: 0 }),
    quote: Type.String({ description: '`solution.slice(start, end)`' }),
  },
  { title: 'FirstError' },
);

export const SampledTokens = strictObject(
  {
    ids: Type.Array(Type.Integer({ description: '-1 where a remote server tells no ids' })),
    logprobs: Type.Array(Type.Number()),
  },
  {
    title: 'SampledTokens',
    description:
      'Where `logprobs` was asked for: every sampled token, an end-of-sequence token at the end included, with its natural log-probability before temperature and filters',
  },
);

const wordLogprob = nullable(Type.Number());

export const Vote = strictObject(
  {
    verdict: Verdict,
    score,
    raw_score: score,
    feedback: Type.String(),
    finish_reason: FinishReason,
    seed: seedField,
    logprobs: Type.Optional(
      strictObject(
        {
          feedback: nullable(SampledTokens),
          verdict: strictObject({ accept: wordLogprob, reject: wordLogprob, undetermined: wordLogprob }),
        },
        { title: 'VoteLogprobs', description: 'Of the feedback, and of each verdict word behind it' },
      ),
    ),
  },
  { title: 'Vote' },
);

export const Verification = strictObject(
  {
    id: Type.String(),
    object: oneOf(['verification']),
    created,
    model: Type.String(),
    verdict: Verdict,
    score: Type.Number({ ...score, description: 'Calibrated P(accept), mean over the votes' }),
    raw_score: Type.Number({ ...score, description: 'P(accept) over the verdict words' }),
    agreement: score,
    leak: nullable(oneOf(['none', 'regenerated', 'redacted'])),
    feedback: Type.String({ description: 'Empty in mode `score`' }),
    first_error: Type.Union([FirstError, Type.Null()], {
      description: 'Of a `reject` in mode `full` only, and where a step could be told',
    }),
    votes: Type.Array(Vote),
    usage: Usage,
    timings: Timings,
  },
  { title: 'Verification' },
);

const voteIndex = Type.Integer({ minimum: 0 });

export const VerifyEvent = Type.Union(
  [
    eventOf('verify', 'verification-start', { id: Type.String(), created, model: Type.String() }),
    eventOf('verify', 'verification-delta', { vote: voteIndex, text: Type.String() }),
    eventOf('verify', 'vote-end', { vote: voteIndex, ...Vote.properties }),
    Verification,
    ErrorAnswer,
  ],
  {
    description:
      '`verification-start`, `verification-delta`…, `vote-end`…, then exactly one of `verification-end` (data: the JSON answer) and `error`',
  },
);

export function refineBody(limits: Limits) {
  return strictObject(
    {
      problem: text(limits, 'The problem as it was put'),
      attempt: text(limits, 'The attempt to improve'),
      feedback: Type.Union(
        [
          text(limits, 'What a verifier said about it'),
          strictObject({ verdict: Verdict, text: text(limits, 'What a verifier said about it') }),
        ],
        { description: 'a text or {verdict, text}' },
      ),
      model: modelField('generator'),
      ...samplingFields(limits),
      seed: Type.Optional(seedField),
      stream: streamField,
    },
    { title: 'RefineRequest' },
  );
}
export type RefineBody = Static<ReturnType<typeof refineBody>>;

export const Refinement = strictObject(
  {
    id: Type.String(),
    object: oneOf(['refinement']),
    created,
    model: Type.String(),
    attempt: Type.String(),
    answer: nullable(Type.String({ description: "The final answer found by the pack's pattern" })),
    reasoning: nullable(Type.String()),
    finish_reason: FinishReason,
    seed: seedField,
    usage: Usage,
    timings: Timings,
  },
  { title: 'Refinement' },
);

export const RefineEvent = Type.Union(
  [
    eventOf('refine', 'refinement-start', { id: Type.String(), created, model: Type.String() }),
    eventOf('refine', 'attempt-delta', { text: Type.String() }),
    Refinement,
    ErrorAnswer,
  ],
  {
    description:
      '`refinement-start`, `attempt-delta`…, then exactly one of `refinement-end` (data: the JSON answer) and `error`',
  },
);
