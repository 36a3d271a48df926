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
      { name: 'x/2 + x/3 = 10', problem: 'Solve for x: x/2 + x/3 = 10' },
      { name: '5(2y - 1) = 3(y + 10)', problem: '5(2y - 1) = 3(y + 10)' },
    ],
  },
  {
    name: 'School maths',
    examples: [
      { name: 'Order of operations', problem: '(18 - 6) * 3 + 8 / 4' },
      { name: 'Fractions', problem: '2/3 + 3/4 * 1/2' },
      { name: 'Percent', problem: 'What is 15% of 240?' },
      { name: 'A price that falls', problem: 'Decrease 80 by 35%' },
    ],
  },
  {
    name: 'Find the mistake in an attempt',
    examples: [
      {
        name: 'Brackets: 4(x - 3) + 5 = 2x + 9',
        problem: '4(x - 3) + 5 = 2x + 9',
        attempt: '4x - 3 + 5 = 2x + 9\n4x + 2 = 2x + 9\n2x = 7\nx = 7/2',
      },
      {
        name: 'Signs: 7 - 2x = 3x - 8',
        problem: '7 - 2x = 3x - 8',
        attempt: '7 + 8 = 3x - 2x\n15 = x\nx = 15',
      },
      {
        name: 'Order: 12 + 30 * 2',
        problem: '12 + 30 * 2',
        attempt: '12 + 30 = 42\n42 * 2 = 84',
      },
      {
        name: 'Fractions: 2/3 + 3/4',
        problem: '2/3 + 3/4',
        attempt: '2/3 + 3/4 = 5/7',
      },
    ],
  },
];
