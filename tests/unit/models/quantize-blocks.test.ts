import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dequantizeBlocks, quantizeBlocks } from '../../../src/models/quantize-blocks.ts';
import { expectStvError } from '../../support/stv-error.ts';

/** A matrix of normal values, the same in every run. */
function normalMatrix(rows: number, columns: number): Float32Array {
  let state = 1;
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length: rows * columns },
    () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()) * 0.05,
  );
}

const matrixOf = (maxRows: number): fc.Arbitrary<{ rows: number; columns: number; matrix: Float32Array }> =>
  fc.record({ rows: fc.integer({ min: 1, max: maxRows }), columns: fc.integer({ min: 1, max: 70 }) }).chain((size) =>
    fc
      .array(fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e6), max: Math.fround(1e6) }), {
        minLength: size.rows * size.columns,
        maxLength: size.rows * size.columns,
      })
      .map((values) => ({ ...size, matrix: Float32Array.from(values) })),
  );

describe('quantizeBlocks', () => {
  it.each([8, 4] as const)('with %i bits stays within half a step and reports its true error', (bits) => {
    fc.assert(
      fc.property(matrixOf(3), ({ rows, columns, matrix }) => {
        const { blocks, error } = quantizeBlocks(matrix, { rows, columns, bits });
        const blocksPerRow = Math.ceil(columns / 32);
        expect(blocks.scales).toHaveLength(rows * blocksPerRow);
        expect(blocks.quants).toHaveLength((rows * blocksPerRow * 32 * bits) / 8);
        const values = dequantizeBlocks(blocks);
        let worst = 0;
        let squares = 0;
        for (let row = 0; row < rows; row++) {
          for (let start = 0; start < columns; start += 32) {
            const block = matrix.subarray(
              row * columns + start,
              Math.min(row * columns + start + 32, (row + 1) * columns),
            );
            const largest = block.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0);
            block.forEach((weight, i) => {
              const difference = Math.abs(weight - (values[row * blocksPerRow * 32 + start + i] ?? Number.NaN));
              // 8 bits: half of largest / 127; 4 bits: the search may cut the largest off, but never by more than a quarter
              const bound = bits === 8 ? largest / 253 : largest / 4;
              expect(difference).toBeLessThanOrEqual(bound + 2e-36);
              worst = Math.max(worst, difference);
              squares += difference ** 2;
            });
          }
        }
        // the products above are rounded to float32
        const rounding = matrix.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0) * 1e-6 + 2e-36;
        expect(Math.abs(error.max - worst)).toBeLessThanOrEqual(rounding);
        expect(Math.abs(error.rms - Math.sqrt(squares / matrix.length))).toBeLessThanOrEqual(rounding);
      }),
      { numRuns: 200 },
    );
  });

  it('has the error that these widths can have on normal values', () => {
    const matrix = normalMatrix(64, 256);
    const eight = quantizeBlocks(matrix, { rows: 64, columns: 256, bits: 8 }).error;
    const four = quantizeBlocks(matrix, { rows: 64, columns: 256, bits: 4 }).error;
    expect(eight.relativeRms).toBeLessThan(0.0055);
    // putting the largest at -8 without a search has 0.086
    expect(four.relativeRms).toBeLessThan(0.082);
    expect(four.relativeRms).toBeGreaterThan(0.07);
  });

  it('keeps what blocks can hold exactly', () => {
    const steps = Float32Array.from({ length: 64 }, (_, i) => ((i % 16) - 8) * (i < 32 ? 0.25 : -0.5));
    const four = quantizeBlocks(steps, { rows: 1, columns: 64, bits: 4 });
    expect(dequantizeBlocks(four.blocks)).toEqual(steps);
    expect(four.error).toEqual({ max: 0, rms: 0, relativeRms: 0 });
  });

  it('makes zeros of zeros and of padding, in the middle of the range', () => {
    for (const bits of [8, 4] as const) {
      const { blocks } = quantizeBlocks(Float32Array.of(0, 0, 3, -3), { rows: 2, columns: 2, bits });
      expect(
        dequantizeBlocks(blocks)
          .subarray(0, 32)
          .every((value) => value === 0),
      ).toBe(true);
      const second = [...dequantizeBlocks(blocks).subarray(32)];
      expect(second.slice(2).every((value) => value === 0)).toBe(true);
      expect(second[0]).toBeGreaterThan(2.5);
    }
  });

  it('refuses weights that are no finite numbers, naming the tensor, and sizes that do not agree', () => {
    for (const weight of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const quantize = (bits: 4 | 8) => () =>
        quantizeBlocks(Float32Array.of(1, weight), { rows: 1, columns: 2, bits, name: 'some.weight' });
      expectStvError(quantize(8), 'checkpoint_invalid', '"some.weight"');
      expectStvError(quantize(4), 'checkpoint_invalid', '"some.weight"');
    }
    expect(() => quantizeBlocks(new Float32Array(5), { rows: 2, columns: 2, bits: 8 })).toThrow(RangeError);
  });
});
