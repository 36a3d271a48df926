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
    ['12km', '12'],
    ['9.8 m/s^2', '9.8'],
    ['5 m', '5'],
    ['5 N', '5'],
    ['$5\\text{ K}$', '5'],
    ['12 square feet', '12'],
    ['5\\text{m}', '5'],
    ['5\\,\\mathrm{N}', '5'],
    ['42\\,\\text{cm}', '42'],
    ['3 tanks', '3'],
    ['Paris!', 'Paris'],
    ['5 apples!', '5'],
    ['5!', '5!'],
    ['2,3', 'x=2 or x=3'],
    ['2, 3', '2,3'],
    ['0.5', '0,5'],
    ['-0,25', '-1/4'],
    ['2,3', '2,3'],
    ['2,5 kg', '2.5'],
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
    ['2', '2^n'],
    ['1', '1/x'],
    ['3', '3/x^2'],
    ['6', '6 sin x'],
    ['6', '6\\sin x'],
    ['6', '6 sinx'],
    ['6', '6 log x'],
    ['5', '5!'],
    ['6', '6 x'],
    ['6', '6 n'],
    ['6', '6xy'],
    ['6', '6 more than x'],
    ['6', '6 m/x'],
    ['n', 'n!'],
    ['2.3', '2,3'],
  ])('%s is not %s', (given, key) => {
    expect(isRightAnswer(given, key)).toBe(false);
  });

  it('no answer is not right', () => {
    expect(isRightAnswer(null, '5')).toBe(false);
  });
});
