/** Problems to pick, some with an attempt that goes wrong somewhere. */

export interface Example {
  readonly name: string;
  readonly problem: string;
  /** Lines of a student's work. */
  readonly attempt?: string;
}

export const exampleGroups: readonly { readonly name: string; readonly examples: readonly Example[] }[] = [
  {
    name: 'Linear equations',
    examples: [
      { name: '3x + 7 = 22', problem: '3x + 7 = 22' },
      { name: '4(x - 3) + 5 = 2x + 9', problem: '4(x - 3) + 5 = 2x + 9' },
      { name: 'x/3 - 4 = 5', problem: 'Solve for x: x/3 - 4 = 5' },
      { name: '5(2y - 1) = 3(y + 10)', problem: '5(2y - 1) = 3(y + 10)' },
    ],
  },
  {
    name: 'Order of operations',
    examples: [
      { name: '12 + 30 * 2', problem: '12 + 30 * 2' },
      { name: '(18 - 6) * 3', problem: '(18 - 6) * 3' },
      { name: '20 - 12 / 4', problem: 'What is 20 - 12 / 4?' },
    ],
  },
  {
    name: 'Find the mistake in an attempt',
    examples: [
      { name: 'The other side: 3x + 4 = 19', problem: '3x + 4 = 19', attempt: '3x = 23\nx = 23/3' },
      { name: 'Both sides: 6x + 5 = 2x + 21', problem: '6x + 5 = 2x + 21', attempt: '8x = 26\nx = 13/4' },
      { name: 'Dividing: 7x - 9 = 40', problem: '7x - 9 = 40', attempt: '7x = 49\nx = 6' },
      {
        name: 'The last step: 4(x - 3) + 5 = 2x + 9',
        problem: '4(x - 3) + 5 = 2x + 9',
        attempt: '4x - 12 + 5 = 2x + 9\n4x - 7 = 2x + 9\n2x - 7 = 9\n2x = 2\nx = 1',
      },
    ],
  },
  {
    name: 'Fractions and percentages (less well)',
    examples: [
      { name: '2/3 ÷ 4/7', problem: '2/3 ÷ 4/7' },
      { name: '1/4 + 1/6', problem: '1/4 + 1/6' },
      { name: '15% of 80', problem: 'What is 15% of 80?' },
    ],
  },
  {
    name: 'Outside of what the bundled pack knows',
    examples: [{ name: 'A quadratic equation', problem: 'x^2 - 5x + 6 = 0' }],
  },
];
