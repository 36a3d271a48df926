import { describe, expect, it } from 'vitest';
import { findFinalAnswer, readAnswer, splitAnswer } from '../../../src/stv/final-answer.ts';

const value = (number: number, numDecimals?: number) => ({ kind: 'value', value: number, numDecimals });
const named = (name: string, number: number, numDecimals?: number) => ({ ...value(number, numDecimals), name });
const placed = (place: string, number: number) => ({ ...value(number), place });

describe('splitAnswer', () => {
  it.each([
    ['72 or 73', [value(72), value(73)]],
    ['x = 2 or x = -3', [named('x', 2), named('x', -3)]],
    ['y = 2, x = 3', [named('y', 2), named('x', 3)]],
    ['(2, 5]', [placed('(]0', 2), placed('(]1', 5)]],
    ['x = (2, 5)', [placed('()0', 2), placed('()1', 5)]],
    ['x \\in \\{2, 5\\}', [value(2), value(5)]],
    ['\\{2,5\\}', [value(2), value(5)]],
    ['\\{5\\}', [value(5)]],
    ['2, 3 and 5', [value(2), value(3), value(5)]],
    ['1 and 1/2', [value(1.5)]],
    ['1,250', [value(1250)]],
    ['72 km/h', [value(72)]],
    ['9.8 m/s^2', [value(9.8, 1)]],
    ['5 oranges', [value(5)]],
    ['12 square feet', [value(12)]],
    ['\\pm 3', [value(3), value(-3)]],
    ['x = ±1.5', [named('x', 1.5, 1), named('x', -1.5, 1)]],
    ['\\{\\pm 3\\}', [value(3), value(-3)]],
    ['+/-3 or 0', [value(3), value(-3), value(0)]],
    ['±3 cm', [value(3), value(-3)]],
    ['2 ± x', [{ kind: 'expression', text: '2±x' }]],
    ['(±3, 0)', [{ kind: 'expression', text: '(±3,0)' }]],
    ['two and three', [value(2), value(3)]],
    ['two hundred and three', [value(203)]],
    ['two and three quarters', [value(2.75)]],
    ['(C)', [{ kind: 'expression', text: 'c' }]],
    ['\\textbf{(C)}', [{ kind: 'expression', text: 'c' }]],
    ['\\text{(C)}', [{ kind: 'expression', text: 'c' }]],
    ['\\text{True}', [{ kind: 'words', text: 'true' }]],
    ['\\textbf{\\text{no solution}}', [{ kind: 'words', text: 'no solution' }]],
    ['2x', [{ kind: 'expression', text: '2x' }]],
    ['north and south', [{ kind: 'words', text: 'north and south' }]],
    ['', []],
  ])('%s', (answer, parts) => {
    expect(splitAnswer(answer)).toEqual(parts);
  });
});

describe('readAnswer', () => {
  it.each([
    ['2,3', [[value(2), value(3)], [value(2.3, 1)]]],
    ['0,5', [[value(0.5, 1)], [value(0), value(5)]]],
    ['x = -2,3', [[named('x', -2), value(3)], [named('x', -2.3, 1)]]],
    ['1,250', [[value(1250)]]],
    ['1,2,3', [[value(1), value(2), value(3)]]],
    ['2,5 kg', [[value(2.5, 1)]]],
    ['5!', [[{ kind: 'expression', text: '5!' }], [value(5)]]],
    ['', []],
  ])('%s', (answer, readings) => {
    expect(readAnswer(answer)).toEqual(readings);
  });
});

describe('findFinalAnswer', () => {
  it.each([
    ['The answer is 5 because 2*5 + 5 = 15.', '5'],
    ['The answer is 5, since 10/2 = 5.', '5'],
    ['The answer is 5 (as 10/2 = 5).', '5'],
    ['Final Answer: The final answer is $5$. I hope it is correct.', '5'],
    ['So the answer is $x = 5$, as required.', '5'],
    ['The answer is 5, so the solution is unique.', '5'],
    ['The answer is 12 square feet.', '12 square feet'],
    ['The answer is 5 for all of the people who have come.', '5'],
    ['The answer is x = 2 or x = -3.', 'x = 2 or x = -3'],
    ['The solutions are (2, 3).', '(2, 3)'],
    ['The answer is red, blue and green.', 'red, blue and green'],
    ['The answer is no.', 'no'],
    ['The solution is to subtract 5 and then divide\n2x = 10\nx = 5', '5'],
    ['2x = 10\nx = 5\nCheck: 2(5) + 5 = 15', '5'],
    ['2x = 10\nx = 5\n**Verify:** 2(5) + 5 = 15', '5'],
    ['2x = 10\nx = 5\nDone.', '5'],
    ['2x = 10\nx = 5\nQED', '5'],
    ['2x = 10\nx = 5\nI hope that this helps.', '5'],
    ['x = 10/2 = 5 because 2x = 10', '5'],
    ['2x = 10, so x = 5 and we are done.', '5'],
    ['We compare the sides.\nisosceles', 'isosceles'],
    ['n = 5!', '5!'],
    ['Done.', undefined],
    ['x_1 = 2, x_2 = -3', 'x_1 = 2, x_2 = -3'],
    ['Therefore \\[ x = 5 \\]', '5'],
    ['**Answer:** 5', '5'],
    ['\\[\nx = 5\n\\]', '5'],
    ['\\begin{align}\nx = 5\n\\end{align}\n∎', '5'],
    ['y = 2x + 1', '2x + 1'],
    ['\\(A = \\pi r^2 = 9\\pi\\)', '9\\pi'],
    ['The total is 3 + 4 = 7 apples.', '7 apples'],
    ['a = 3, b = 4, so x = 5', '5'],
    ['The angle ABC = 30^\\circ', '30^\\circ'],
    ['f(x) = 2x + 1', '2x + 1'],
    ['One pen costs 1.50 dollars in this shop and in that one as well.', '1.50'],
    ['60 * 2 = 120\nTherefore, the train travels 120 km.', '120'],
    ['x is 12', '12'],
    ['Dividing by 2 gives 12.', '12'],
    ['Solution set: {12}', '12'],
    ['12 = x', '12'],
    ['The correct answer should be 12.', '12'],
    ['The answer to this problem is 12.', '12'],
    ['x = 5.\nThis is because 10/2 = 5.', '5'],
    ['5 because 10/2 = 5', '5'],
    ['2x + 1', '2x + 1'],
    ['2 \\sin x', '2 \\sin x'],
    ['2 more than x', '2 more than x'],
    ['', undefined],
  ])('%s', (solution, answer) => {
    expect(findFinalAnswer(solution, { kind: 'boxed' })).toBe(answer);
  });
});
