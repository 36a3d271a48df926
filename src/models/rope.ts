/**
 * Cosine and sine tables of the rotary position embedding with the scalings of Hugging Face's `transformers`. Intermediate
 * values are rounded to float32 where it rounds them: at position 8,000 one rounding of a frequency moves the angle by 5e-4.
 */
import type { ModelConfig, RopeScaling } from './model-config.ts';

const { fround } = Math;

export interface RopeTables {
  /** `[maxLength, headDim / 2]` */
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/** Angle of pair i at position p is p x frequency i; cos and sin carry yarn's attention factor. */
export function ropeTables(
  config: Pick<ModelConfig, 'headDim' | 'ropeTheta' | 'ropeScaling'>,
  maxLength: number,
): RopeTables {
  const frequencies = ropeFrequencies(config);
  const factor = attentionFactor(config.ropeScaling);
  const pairs = frequencies.length;
  const cos = new Float32Array(maxLength * pairs);
  const sin = new Float32Array(maxLength * pairs);
  for (let position = 0; position < maxLength; position++) {
    for (let pair = 0; pair < pairs; pair++) {
      // the index is below the length
      const angle = fround(position * (frequencies[pair] as number));
      cos[position * pairs + pair] = fround(Math.cos(angle)) * factor;
      sin[position * pairs + pair] = fround(Math.sin(angle)) * factor;
    }
  }
  return { cos, sin };
}

/** Radians per position, `[headDim / 2]`, after scaling. */
export function ropeFrequencies(config: Pick<ModelConfig, 'headDim' | 'ropeTheta' | 'ropeScaling'>): Float32Array {
  const { headDim, ropeTheta, ropeScaling } = config;
  const wavelengths = Float32Array.from(
    { length: headDim / 2 },
    (_, pair) => ropeTheta ** fround((2 * pair) / headDim),
  );
  const plain = wavelengths.map((length) => 1 / length);
  switch (ropeScaling?.type) {
    case undefined:
      return plain;
    case 'linear':
      return plain.map((frequency) => frequency / ropeScaling.factor);
    case 'factors':
      return plain.map((frequency, pair) => frequency / (ropeScaling.factors[pair] ?? 1));
    case 'llama3':
      return plain.map((frequency) => llama3Frequency(frequency, ropeScaling));
    case 'yarn': {
      const ramp = yarnRamp(headDim, ropeTheta, ropeScaling);
      return plain.map((frequency, pair) => {
        const kept = fround(1 - ramp(pair));
        const interpolated = fround(1 / fround(ropeScaling.factor * (wavelengths[pair] ?? 1)));
        return fround(interpolated * fround(1 - kept)) + fround(frequency * kept);
      });
    }
  }
}

/** Long waves are divided by the factor, short ones kept, those between blended. */
function llama3Frequency(frequency: number, scaling: Extract<RopeScaling, { type: 'llama3' }>): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: context } = scaling;
  const wavelength = fround(fround(2 * Math.PI) / frequency);
  if (wavelength > context / lowFreqFactor) return fround(frequency / factor);
  if (wavelength < context / highFreqFactor) return frequency;
  const smooth = fround((fround(context / wavelength) - lowFreqFactor) / (highFreqFactor - lowFreqFactor));
  return fround(fround(fround(1 - smooth) * frequency) / factor) + fround(smooth * frequency);
}

/** 0 for pairs that turn often within the original context (kept), 1 for those that hardly turn (interpolated). */
function yarnRamp(
  headDim: number,
  ropeTheta: number,
  scaling: Extract<RopeScaling, { type: 'yarn' }>,
): (pair: number) => number {
  const { betaFast, betaSlow, originalMaxPositionEmbeddings: context, truncate = true } = scaling;
  const dimension = (rotations: number): number =>
    (headDim * Math.log(context / (rotations * 2 * Math.PI))) / (2 * Math.log(ropeTheta));
  const fast = dimension(betaFast);
  const slow = dimension(betaSlow);
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0);
  let high = Math.min(truncate ? Math.ceil(slow) : slow, headDim - 1);
  if (low === high) high += 0.001;
  return (pair) => Math.min(Math.max(fround(fround(pair - low) / (high - low)), 0), 1);
}

function attentionFactor(scaling: RopeScaling | undefined): number {
  if (scaling?.type !== 'yarn') return 1;
  return scaling.attentionFactor ?? (scaling.factor > 1 ? 0.1 * Math.log(scaling.factor) + 1 : 1);
}
