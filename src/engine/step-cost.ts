/**
 * What a decoding step costs by its number of rows, learned from the steps themselves: a line, and one row alone by itself because
 * it runs another kernel. Milliseconds; only ratios matter to who asks.
 */

/** Share of a step's fixed cost that one more row is taken to cost before anything was measured. */
const PRIOR_SLOPE = 0.06;
/** Variance of the row counts from which on what was measured counts more than that. */
const PRIOR_WEIGHT = 4;
/** Weight of the newest step. */
const LEARNING_RATE = 0.05;
/** A step that takes longer than so many times what was expected was held up by something else. */
const MAX_SURPRISE = 2;
const NUM_TRUSTED = 8;

export class StepCost {
  #numSteps = 0;
  #rows = 0;
  #ms = 0;
  #variance = 0;
  #covariance = 0;
  #numSingle = 0;
  #singleMs = 0;

  observe(rows: number, measuredMs: number): void {
    if (rows === 1) {
      const ms = this.#numSingle < NUM_TRUSTED ? measuredMs : Math.min(measuredMs, MAX_SURPRISE * this.#singleMs);
      this.#singleMs += Math.max(LEARNING_RATE, 1 / ++this.#numSingle) * (ms - this.#singleMs);
      return;
    }
    const ms = this.#numSteps < NUM_TRUSTED ? measuredMs : Math.min(measuredMs, MAX_SURPRISE * this.#line(rows));
    const rate = Math.max(LEARNING_RATE, 1 / ++this.#numSteps);
    const rowsOff = rows - this.#rows;
    const msOff = ms - this.#ms;
    this.#rows += rate * rowsOff;
    this.#ms += rate * msOff;
    this.#variance = (1 - rate) * (this.#variance + rate * rowsOff * rowsOff);
    this.#covariance = (1 - rate) * (this.#covariance + rate * rowsOff * msOff);
  }

  /** What a step of so many rows takes. */
  of(rows: number): number {
    if (rows === 1 && this.#numSingle > 0) return this.#singleMs;
    return this.#line(rows);
  }

  /** What one row more takes. */
  get perRow(): number {
    return this.#ms > 0 ? this.#slope : PRIOR_SLOPE * this.of(1);
  }

  #line(rows: number): number {
    if (this.#ms > 0) return this.#ms + this.#slope * (rows - this.#rows);
    const single = this.#singleMs > 0 ? this.#singleMs : 1;
    return single * (1 + PRIOR_SLOPE * (rows - 1));
  }

  /** Per row; never negative, never more than rows without any fixed cost would take. */
  get #slope(): number {
    const prior = (this.#ms * PRIOR_SLOPE) / (1 + PRIOR_SLOPE * this.#rows);
    const slope = (this.#covariance + PRIOR_WEIGHT * prior) / (this.#variance + PRIOR_WEIGHT);
    return Math.min(Math.max(slope, 0), this.#ms / this.#rows);
  }
}
