import { describe, expect, it } from 'vitest';
import { DEQUANTIZABLE_TYPES, dequantize } from '../../../src/models/gguf-dequantize.ts';
import { floats, readGoldenJson } from '../../support/goldens.ts';

interface Case {
  readonly type: string;
  readonly bytes: string;
  readonly values: string;
}

const { cases } = readGoldenJson<{ readonly cases: readonly Case[] }>('tiny-gguf-blocks.json');

describe('dequantize', () => {
  it('has a golden for every type', () => {
    expect(cases.map(({ type }) => type).sort()).toEqual([...DEQUANTIZABLE_TYPES].sort());
  });

  it.each(cases)('$type equals the gguf package to the bit', ({ type, bytes, values }) => {
    const expected = floats(values);
    const actual = new Float32Array(expected.length);
    dequantize(type, Buffer.from(bytes, 'base64'), actual);
    expect([...actual]).toEqual([...expected]);
  });

  it('reads bytes that begin at an odd address', () => {
    const shifted = Buffer.concat([Buffer.alloc(1), Buffer.from(Float32Array.of(1.5, -2).buffer)]).subarray(1);
    const output = new Float32Array(2);
    dequantize('F32', shifted, output);
    expect([...output]).toEqual([1.5, -2]);
  });

  it.each([
    ['Q8_0', 33, 32],
    ['Q8_0', 34, 64],
    ['Q4_K', 144, 128],
    ['IQ4_NL', 18, 32],
  ])('refuses %s with %i bytes for %i elements', (type, numBytes, numElements) => {
    expect(() => dequantize(type, new Uint8Array(numBytes), new Float32Array(numElements))).toThrow(RangeError);
  });
});
