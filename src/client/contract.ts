/** The wire types by the names that callers use, and the events of each stream. All from the generated contract. */
import type { components } from './api.ts';

type Schemas = components['schemas'];

export type VerifyRequest = Schemas['VerifyRequest'];
export type Verification = Schemas['Verification'];
export type Vote = Schemas['Vote'];
export type FirstError = Schemas['FirstError'];
export type RefineRequest = Schemas['RefineRequest'];
export type Refinement = Schemas['Refinement'];
export type SolveRequest = Schemas['SolveRequest'];
export type Solve = Schemas['Solve'];
export type SolveState = Schemas['SolveState'];
export type SolveList = Schemas['SolveList'];
export type SolveListEntry = Schemas['SolveListEntry'];
export type Trace = Schemas['Trace'];
export type Share = Schemas['Share'];
export type Usage = Schemas['Usage'];
export type ErrorObject = Schemas['ErrorObject'];
export type Ready = Schemas['Ready'];
export type ModelList = Schemas['ModelList'];

/** One event of a stream: its name, its number (1, 2, …) and its data. */
interface Named<Name extends string, Data> {
  readonly event: Name;
  readonly id: number;
  readonly data: Data;
}

export type VerifyEvent =
  | Named<'verification-start', Schemas['VerifyVerificationStartEvent']>
  | Named<'verification-delta', Schemas['VerifyVerificationDeltaEvent']>
  | Named<'vote-end', Schemas['VerifyVoteEndEvent']>
  | Named<'verification-end', Verification>;

export type RefineEvent =
  | Named<'refinement-start', Schemas['RefineRefinementStartEvent']>
  | Named<'attempt-delta', Schemas['RefineAttemptDeltaEvent']>
  | Named<'refinement-end', Refinement>;

/** The terminal `solve-end` holds the whole answer. */
export type SolveEvent =
  | Named<'solve-start', Schemas['SolveSolveStartEvent']>
  | Named<'round-start', Schemas['SolveRoundStartEvent']>
  | Named<'attempt-start', Schemas['SolveAttemptStartEvent']>
  | Named<'attempt-delta', Schemas['SolveAttemptDeltaEvent']>
  | Named<'attempt-end', Schemas['SolveAttemptEndEvent']>
  | Named<'verification-start', Schemas['SolveVerificationStartEvent']>
  | Named<'verification-delta', Schemas['SolveVerificationDeltaEvent']>
  | Named<'verification-end', Schemas['SolveVerificationEndEvent']>
  | Named<'round-end', Schemas['SolveRoundEndEvent']>
  | Named<'solve-end', Schemas['SolveSolveEndEvent']>;
