import { describe, expect, it } from 'vitest';
import { isRightAnswer } from '../../../src/eval/grade.ts';

describe('isRightAnswer', () => {
  it.each([
    ['72', '72'],
    ['72.0', '72'],
    ['1,250', '1250'],
    ['x = 5', '5'],
    ['\\frac{1}{2}', '0.5'],
    ['1/2', '\\dfrac{1}{2}'],
    ['-3 or 2', '2, -3'],
    ['2 \\text{ or } -3', '-3, 2'],
    ['1 and 1/2', '1.5'],
    ['3.14159', '3.14'],
    ['0.3333', '1/3'],
    ['Paris', 'paris'],
    ['2\\sqrt{3}', '2√3'],
    ['x^2+1', 'x^{2} + 1'],
    ['$12$', '12'],
    ['12 km', '12'],
  ])('%s is %s', (given, key) => {
    expect(isRightAnswer(given, key)).toBe(true);
  });

  it.each([
    ['73', '72'],
    ['7', '72'],
    ['-5', '5'],
    ['0.33', '1/3'],
    ['3.1', '3.14'],
    ['3.15', '3.14'],
    ['2', '2 or -3'],
    ['2 and 2', '2 or -3'],
    ['London', 'Paris'],
    ['x^2-1', 'x^2+1'],
    ['', '5'],
    ['72 or 73', '72'],
  ])('%s is not %s', (given, key) => {
    expect(isRightAnswer(given, key)).toBe(false);
  });

  it('no answer is not right', () => {
    expect(isRightAnswer(null, '5')).toBe(false);
  });
});
