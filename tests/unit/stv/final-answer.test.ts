import { describe, expect, it } from 'vitest';
import { splitAnswer } from '../../../src/stv/final-answer.ts';

const value = (number: number, numDecimals?: number) => ({ kind: 'value', value: number, numDecimals });

describe('splitAnswer', () => {
  it.each([
    ['72 or 73', [value(72), value(73)]],
    ['x = 2 or x = -3', [value(2), value(-3)]],
    ['2, 3 and 5', [value(2), value(3), value(5)]],
    ['1 and 1/2', [value(1.5)]],
    ['1,250', [value(1250)]],
    ['72 km/h', [value(72)]],
    ['9.8 m/s^2', [value(9.8, 1)]],
    ['5 oranges', [value(5)]],
    ['12 square feet', [value(12)]],
    ['2x', [{ kind: 'expression', text: '2x' }]],
    ['north and south', [{ kind: 'words', text: 'north and south' }]],
    ['', []],
  ])('%s', (answer, parts) => {
    expect(splitAnswer(answer)).toEqual(parts);
  });
});
