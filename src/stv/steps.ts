/** Steps of a solution. */
/** Offsets in UTF-16 units: `solution.slice(start, end) === quote`. `step` counts from 1. */
export interface StepSpan {
  readonly step: number;
  readonly start: number;
  readonly end: number;
  readonly quote: string;
}
