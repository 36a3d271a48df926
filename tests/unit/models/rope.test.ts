import { describe, expect, it } from 'vitest';
import { ConfigFields } from '../../../src/models/config-fields.ts';
import { modelConfigFromJson } from '../../../src/models/model-config-json.ts';
import { openCheckpoint } from '../../../src/models/open-checkpoint.ts';
import { ropeFrequencies, ropeTables } from '../../../src/models/rope.ts';
import { floats, goldenGgufPath, goldenPath, readGoldenJson } from '../../support/goldens.ts';

interface RopeGoldens {
  readonly positions: readonly number[];
  readonly cases: readonly {
    readonly config: { readonly rope_parameters: { readonly rope_type: string; readonly rope_theta: number } };
    readonly cos: string;
    readonly sin: string;
  }[];
}

const { positions, cases } = readGoldenJson<RopeGoldens>('tiny-rope-tables.json');

describe('ropeTables', () => {
  it.each(
    cases.map((golden) => [golden.config.rope_parameters.rope_type, golden.config.rope_parameters, golden] as const),
  )('%s %j equals transformers', (_type, _parameters, golden) => {
    const config = modelConfigFromJson(new ConfigFields('config.json', new Map(Object.entries(golden.config))));
    const half = config.headDim / 2;
    const tables = ropeTables(config, Math.max(...positions) + 1);
    for (const table of ['cos', 'sin'] as const) {
      const expected = floats(golden[table]);
      expect(expected).toHaveLength(positions.length * half);
      positions.forEach((position, i) => {
        for (let pair = 0; pair < half; pair++) {
          const difference = Math.abs(
            (tables[table][position * half + pair] ?? Number.NaN) - (expected[i * half + pair] ?? 0),
          );
          // a frequency that differs in its last bit moves the angle by at most position * 2^-24
          expect(difference, `${table} of position ${position}, pair ${pair}`).toBeLessThanOrEqual(
            2e-6 + position * 2 ** -23,
          );
        }
      });
    }
  });

  it('is 1 and 0 at position 0 and begins with an angle of one radian per position', () => {
    const { cos, sin } = ropeTables({ headDim: 4, ropeTheta: 10000 }, 2);
    expect([...cos]).toEqual([1, 1, Math.fround(Math.cos(1)), Math.fround(Math.cos(Math.fround(0.01)))]);
    expect([...sin]).toEqual([0, 0, Math.fround(Math.sin(1)), Math.fround(Math.sin(Math.fround(0.01)))]);
  });

  it('gives the frequencies of llama3 from the factors that a GGUF stores', () => {
    const json = openCheckpoint(goldenPath('tiny-llama-biased'));
    const gguf = openCheckpoint(goldenGgufPath('tiny-llama-biased'));
    const expected = ropeFrequencies(json.config);
    const plain = ropeFrequencies({ headDim: json.config.headDim, ropeTheta: json.config.ropeTheta });
    expect([...plain], 'the scaling changes nothing').not.toEqual([...expected]);
    ropeFrequencies(gguf.config).forEach((frequency, pair) => {
      expect(frequency / (expected[pair] ?? 0)).toBeCloseTo(1, 6);
    });
    json.close();
    gguf.close();
  });
});
