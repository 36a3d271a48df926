/** The lines of a results file, in the words of the HTTP contract. */

export type Verdict = 'accept' | 'reject' | 'undetermined';

/** Everything that decides the results; a file of other settings cannot be gone on with. */
export interface EvalSettings {
  readonly chains: number;
  readonly max_rounds: number;
  readonly accept: Readonly<Record<string, unknown>>;
  readonly seed: number;
  readonly generator: Readonly<Record<string, unknown>>;
  readonly verifier: Readonly<Record<string, unknown>>;
  /** SHA-256 of the problems. */
  readonly problems: string;
  /** Digest of the prompts, formats, calibration and sampling defaults of the server's pack; null where it tells none. */
  readonly pack: string | null;
}

export interface RoundRecord {
  readonly attempt: string;
  readonly answer: string | null;
  readonly finish_reason: string | null;
  /** Null where the attempt was not verified to the end. */
  readonly verdict: Verdict | null;
  readonly score: number | null;
  readonly raw_score: number | null;
  readonly accepted: boolean;
  readonly feedback: string | null;
  readonly first_error: number | null;
  readonly generator_tokens: number;
  readonly verifier_tokens: number;
}

export interface ProblemRecord {
  readonly id: string;
  /** Number of this batch of chains. */
  readonly batch: number;
  readonly models: { readonly generator: string; readonly verifier: string };
  readonly chains: readonly { readonly status: string; readonly rounds: readonly RoundRecord[] }[];
}
