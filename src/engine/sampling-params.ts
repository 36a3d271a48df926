/** Defaults and bounds of sampling parameters: the one table that the route schemas and the engine's own check both read. */
import { StvError } from '../errors.ts';
import type { SamplingParams } from './engine.ts';

interface Bound {
  readonly minimum: number;
  readonly maximum: number;
  readonly default: number;
  readonly integer: boolean;
}

/** Inclusive bounds. `topK` 0 and `repetitionPenalty` 1 switch the filter off. */
export const SAMPLING_BOUNDS = {
  temperature: { minimum: 0, maximum: 2, default: 1, integer: false },
  topK: { minimum: 0, maximum: 1_000_000, default: 0, integer: true },
  topP: { minimum: 0, maximum: 1, default: 1, integer: false },
  minP: { minimum: 0, maximum: 1, default: 0, integer: false },
  seed: { minimum: 0, maximum: 0xffff_ffff, default: 0, integer: true },
  presencePenalty: { minimum: -2, maximum: 2, default: 0, integer: false },
  frequencyPenalty: { minimum: -2, maximum: 2, default: 0, integer: false },
  repetitionPenalty: { minimum: 0.1, maximum: 10, default: 1, integer: false },
} as const satisfies Record<Exclude<keyof SamplingParams, 'logitBias'>, Bound>;

export const LOGIT_BIAS_BOUNDS = { minimum: -100, maximum: 100, maxEntries: 1024 } as const;

/** Alternatives beside a token, stop strings and their length, tokens to generate. */
export const GENERATION_BOUNDS = {
  maxTopLogprobs: 20,
  maxStopStrings: 16,
  maxStopLength: 256,
  maxTokens: 8192,
} as const;

export const DEFAULT_SAMPLING: SamplingParams = {
  temperature: SAMPLING_BOUNDS.temperature.default,
  topK: SAMPLING_BOUNDS.topK.default,
  topP: SAMPLING_BOUNDS.topP.default,
  minP: SAMPLING_BOUNDS.minP.default,
  seed: SAMPLING_BOUNDS.seed.default,
  presencePenalty: SAMPLING_BOUNDS.presencePenalty.default,
  frequencyPenalty: SAMPLING_BOUNDS.frequencyPenalty.default,
  repetitionPenalty: SAMPLING_BOUNDS.repetitionPenalty.default,
};

/** Throws StvError `invalid_value` that names the first field out of bounds. Routes check first; this guards the engine. */
export function checkSamplingParams(params: SamplingParams): void {
  for (const [name, bound] of Object.entries(SAMPLING_BOUNDS)) {
    const value = params[name as keyof typeof SAMPLING_BOUNDS];
    if (value >= bound.minimum && value <= bound.maximum && (!bound.integer || Number.isInteger(value))) continue;
    const kind = bound.integer ? 'a whole number' : 'a number';
    throw new StvError(
      'invalid_value',
      `${name} must be ${kind} from ${bound.minimum} to ${bound.maximum}, got ${value}.`,
      {
        param: name,
      },
    );
  }
  const bias = params.logitBias;
  if (bias === undefined) return;
  if (bias.size > LOGIT_BIAS_BOUNDS.maxEntries) {
    throw new StvError(
      'invalid_value',
      `logitBias holds at most ${LOGIT_BIAS_BOUNDS.maxEntries} tokens, got ${bias.size}.`,
      {
        param: 'logitBias',
      },
    );
  }
  for (const [token, value] of bias) {
    if (
      Number.isInteger(token) &&
      token >= 0 &&
      value >= LOGIT_BIAS_BOUNDS.minimum &&
      value <= LOGIT_BIAS_BOUNDS.maximum
    )
      continue;
    throw new StvError(
      'invalid_value',
      `logitBias maps token ids to numbers from ${LOGIT_BIAS_BOUNDS.minimum} to ${LOGIT_BIAS_BOUNDS.maximum}, got ${value} for token ${token}.`,
      { param: 'logitBias' },
    );
  }
}
