/**
 * How many guessed tokens each decoding sequence verifies in a step: as many as raise the tokens that the step is expected to give
 * per millisecond. So guesses grow where they come true, and stop where they do not, where a step's rows are dear or where other
 * work fills the step. What it decides never changes a token: the core samples every position as if nothing had been guessed.
 */
import type { Draft } from './draft-source.ts';
import type { Sequence } from './sequence.ts';
import { StepCost } from './step-cost.ts';

/** Guessed tokens of one lane at most. */
const MAX_DRAFT = 15;
/** A guess must be so much better than what it costs: both are estimates. */
const MARGIN = 1.5;
/** What a step costs changes with the load of the machine: a plan that looks slower is tried now and then. */
const STEPS_BETWEEN_TRIES = 32;

/** What is guessed for a lane and how much of it the step verifies, which may be nothing: the guess is judged all the same. */
export interface PlannedDraft {
  readonly draft: Draft;
  numTokens: number;
}

interface Candidate extends PlannedDraft {
  readonly sequence: Sequence;
  /** Probability that the next token of the guess is reached and comes true. */
  probability: number;
}

export class DraftPlanner {
  readonly #cost = new StepCost();
  #numDeclined = 0;

  /** A step of so many rows, all of decoding sequences, took so long. */
  observe(rows: number, ms: number): void {
    this.#cost.observe(rows, ms);
  }

  /** @param decoding the step's decoding sequences @param budget tokens that the step can still take */
  plan(decoding: readonly Sequence[], budget: number): ReadonlyMap<Sequence, PlannedDraft> {
    const candidates = new Map<Sequence, Candidate>();
    for (const sequence of decoding) {
      const draft = sequence.drafts?.propose(sequence.tokens(), Math.min(MAX_DRAFT, sequence.numTokensLeft - 1));
      if (draft === undefined) continue;
      candidates.set(sequence, { sequence, draft, numTokens: 0, probability: confidence(sequence, draft, 0) });
    }
    const start = decoding.length;
    let rows = start;
    let expected = start;
    while (rows - start < budget) {
      const best = mostProbable(candidates.values());
      if (best === undefined) break;
      // worth it if its tokens per millisecond are above those of the step without it
      if (best.probability * this.#cost.of(rows) <= MARGIN * expected * this.#cost.perRow) break;
      rows++;
      expected += best.probability;
      best.numTokens++;
      best.probability *= confidence(best.sequence, best.draft, best.numTokens);
    }
    const isSlower = expected * this.#cost.of(start) < start * this.#cost.of(rows);
    if (isSlower && ++this.#numDeclined % STEPS_BETWEEN_TRIES !== 0) {
      for (const candidate of candidates.values()) candidate.numTokens = 0;
    }
    return candidates;
  }
}

/** 0 behind the guess's end. */
function confidence(sequence: Sequence, draft: Draft, index: number): number {
  return index < draft.tokens.length ? (sequence.drafts?.confidence(draft, index) ?? 0) : 0;
}

function mostProbable(candidates: Iterable<Candidate>): Candidate | undefined {
  let best: Candidate | undefined;
  for (const candidate of candidates) {
    if (candidate.probability > (best?.probability ?? 0)) best = candidate;
  }
  return best;
}
