import { describe, expect, it } from 'vitest';
import { createLeakGuard, type GuardedTexts } from '../../../src/stv/leak-guard.ts';

/** Written forms of equal answers. Each must be seen where it is mentioned and where it is asserted. */
const forms: readonly (readonly [answer: string, forms: readonly string[]])[] = [
  [
    '42',
    [
      '42',
      '42.0',
      '42.00',
      '+42',
      '$42$',
      '\\(42\\)',
      '**42**',
      '`42`',
      '\\boxed{42}',
      '{42}',
      '(42)',
      '"42"',
      '４２',
      '𝟒𝟐',
      '٤٢',
      '84/2',
      '\\frac{84}{2}',
      '\\dfrac{84}{2}',
      'forty-two',
      'forty two',
      'Forty-Two',
      '4.2 \\times 10^1',
      '4.2e1',
      '42 cm',
      '42\\,\\text{cm}',
      '$42 dollars',
      '€42',
      '42 %',
      '42\\%',
      '42°',
      'x = 42',
      'x=42',
      '$x = 42$',
      'x equals 42',
      '4\u200b2',
    ],
  ],
  [
    '-7',
    [
      '-7',
      '−7',
      '– 7',
      '$-7$',
      '(-7)',
      'x=-7',
      'x = − 7',
      'minus 7',
      'negative 7',
      'minus seven',
      'negative seven',
      '-7.0',
      '-14/2',
      '-\\frac{14}{2}',
      '\\frac{-14}{2}',
      '{-7}',
      '\\boxed{-7}',
    ],
  ],
  [
    '\\frac{3}{4}',
    [
      '3/4',
      '3 / 4',
      '\\frac{3}{4}',
      '\\frac34',
      '\\dfrac{3}{4}',
      '\\tfrac{3}{4}',
      '\\frac {3} {4}',
      '0.75',
      '.75',
      '0,75',
      '75%',
      '75 %',
      '75\\%',
      '75 percent',
      '6/8',
      '\\frac{6}{8}',
      '¾',
      '3⁄4',
      '3∕4',
      '3 over 4',
      'three quarters',
      'three-fourths',
      '(3)/(4)',
      '{3}/{4}',
      '7.5 * 10^{-1}',
      '3 ÷ 4',
    ],
  ],
  [
    '1 1/2',
    [
      '1.5',
      '1 1/2',
      '1½',
      '3/2',
      '1\\frac{1}{2}',
      '1 and 1/2',
      'one and a half',
      '150%',
      '1,5',
      '\\frac{3}{2}',
      'one point five',
    ],
  ],
  [
    '12500',
    [
      '12500',
      '12,500',
      '12 500',
      "12'500",
      '12{,}500',
      '12\\,500',
      '12.500,0',
      '1.25 \\times 10^4',
      '1.25 × 10⁴',
      '1.25e4',
      '1.25 \\cdot 10^{4}',
      'twelve thousand five hundred',
      '12,500.00',
    ],
  ],
  [
    '1/3',
    ['1/3', '0.333', '0.33', '0.3333...', '0.333…', '⅓', '\\frac13', '0.\\overline{3}', '0.(3)', '2/6', '33.33%'],
  ],
  [
    '\\sqrt{2}',
    ['\\sqrt{2}', '\\sqrt2', '√2', '√(2)', 'sqrt(2)', 'sqrt 2', '1.414', '1.41', '\\sqrt {2}', 'square root of 2'],
  ],
  ['\\frac{\\sqrt{3}}{2}', ['\\frac{\\sqrt{3}}{2}', '√3/2', 'sqrt(3)/2', '\\sqrt{3}/2', '0.866']],
  ['3\\sqrt{5}', ['3\\sqrt{5}', '3√5', '3*sqrt(5)', '3 \\cdot \\sqrt{5}', '6.708']],
  ['2\\pi', ['2\\pi', '2π', '2 pi', '2*pi', '2\\cdot\\pi', '6.28', '6.2832']],
  ['1024', ['2^{10}', '2^10', '2¹⁰', '1,024', '1024']],
  ['2x + 1', ['2x+1', '2x + 1', '2 x + 1', '$2x+1$', '2 \\cdot x + 1', '2*x + 1', '{2x}+1', 'y = 2x+1']],
  ['x^2 - 4', ['x^2-4', 'x^{2} - 4', 'x² − 4', 'x^2 - 4']],
  ['(2, 3)', ['(2, 3)', '(2,3)', 'x = 2 and y = 3', '\\left(2, 3\\right)', 'x=2, y=3']],
  ['x = 2 or x = -3', ['2 and -3', 'x=2 or x=-3', '{2, -3}', '-3, 2', '\\{-3, 2\\}']],
  ['\\pm 3', ['±3', '$\\pm 3$', '\\pm3', '± 3', 'x = ±3', '3 and -3', 'x = 3 or x = -3']],
  ['x = 3 or x = -3', ['x = \\pm 3', 'x = ±3', '±3', '+/-3', '{-3, 3}']],
  ['\\text{no solution}', ['no solution', '\\text{no solution}']],
  ['no solution', ['no solution', 'No solution', 'no  solution', '\\text{no solution}']],
  ['isosceles', ['isosceles', 'Isosceles', '**isosceles**']],
  ['0', ['0', '0.0', '$0$', 'x = 0']],
  ['1000000', ['1,000,000', '1 000 000', '1_000_000', '1.000.000', '10^6', 'a million', '1000000.0']],
  ['50\\%', ['50%', '50 percent', '0.5', '1/2', '½']],
  ['\\frac{7}{2}', ['{7 \\over 2}', '⁷⁄₂', '7 over 2', '3.5', '3 1/2']],
];

/** In an assertion only: words that mean other things as well. */
const assertedForms: readonly (readonly [answer: string, forms: readonly string[]])[] = [
  ['5', ['five', 'the number five', 'exactly five', 'x = five']],
  ['1', ['one', '1']],
  ['1/2', ['a half', 'one half', 'one-half']],
  ['B', ['B', '(B)', '\\text{B}']],
  ['(C)', ['C', '(C)', '\\text{C}', '\\textbf{(C)}']],
  ['\\textbf{(C)}', ['C', '(C)']],
  ['2 or 3', ['two and three', 'two or three']],
  ['\\text{True}', ['true', '\\text{True}']],
  ['yes', ['yes', '"yes"']],
  ['\\infty', ['infinity', '∞', '\\infty', '$\\infty$']],
];

const unrelated = { problem: 'Solve the exercise on the sheet.', solution: 'I am not sure how to begin.' };

const carriers: readonly (readonly [name: string, carry: (form: string) => string])[] = [
  ['a mention', (form) => `The second line is wrong; there you get ${form} when you work it out again.`],
  ['an assertion', (form) => `The correct answer is ${form}.`],
];

const numForms = [...forms, ...assertedForms].reduce((sum, [, list]) => sum + list.length, 0);

describe('leak guard: written forms', () => {
  it('has a suite of at least 100 forms', () => expect(numForms).toBeGreaterThanOrEqual(100));

  const cases = forms.flatMap(([answer, list]) =>
    list.flatMap((form) => carriers.map(([name, carry]) => ({ answer, form, name, feedback: carry(form) }))),
  );
  it.each(cases)('sees $answer as $form in $name', ({ answer, feedback }) => {
    const guard = createLeakGuard(
      { ...unrelated, reference: `First this, then that.\n\\boxed{${answer}}` },
      { kind: 'boxed' },
    );
    expect(guard.leaks(feedback)).toBe(true);
    const redacted = guard.redact(feedback);
    expect(guard.leaks(redacted)).toBe(false);
    expect(redacted).toMatch(/\[…\]|withheld/);
  });

  const asserted = assertedForms.flatMap(([answer, list]) => list.map((form) => ({ answer, form })));
  it.each(asserted)('sees $answer as $form where it is called the answer', ({ answer, form }) => {
    const guard = createLeakGuard({ ...unrelated, reference: `\\boxed{${answer}}` }, { kind: 'boxed' });
    expect(guard.leaks(`The final answer should be ${form}.`)).toBe(true);
    expect(guard.leaks(guard.redact(`The final answer should be ${form}.`))).toBe(false);
  });

  it.each([
    'The answer is 5.',
    'Therefore x = 5.',
    'x should be 5.',
    'x must be equal to 5',
    'The correct value of x is 5.',
    'The result comes out to 5.',
    'The solution would be $x=5$.',
    'You need x → 5 here.',
    '5 is the correct answer.',
    'So 5 is the solution.',
    'You should get 5 as the final answer.',
    'Answer: 5',
    '**Answer:** 5',
    'The answer is not 4 but 5.',
    'The root is actually 5.',
    '\\boxed{5}',
    'x = \\frac{10}{2}',
  ])('sees an assertion although the problem holds the number: %s', (feedback) => {
    const guard = createLeakGuard(
      { problem: 'Solve 2x + 5 = 15.', solution: '2x = 15 - 5\n2x = 10\nx = 4', reference: '2x = 10, so x = 5' },
      { kind: 'boxed' },
    );
    expect(guard.leaks(feedback)).toBe(true);
  });
});

/** Feedback that gives nothing away, with the texts it belongs to. */
const harmless: readonly (readonly [texts: GuardedTexts, feedback: readonly string[]])[] = [
  [
    { problem: 'Solve 2x + 5 = 15.', solution: '2x = 15 - 5\n2x = 10\nx = 4', reference: '2x = 10\nx = 5' },
    [
      'Step 3: 10 divided by 2 is not 4.',
      'In line 1 you subtract 5 correctly.',
      'Subtract 5 from both sides, as you did; then look at the division again.',
      'The first two lines are right. The last one is not.',
      'You wrote x = 4. Put it back into 2x + 5: that gives 13, not 15.',
      'There is one mistake, in step 3.',
      '2x = 10 is right; what is x then?',
      'Check the division by 2 in the last step.',
      'Your solution has 5 in the right place in line 1, but the last line does not follow.',
      'Step 1 ok\nStep 2 ok\nStep 3: the quotient is wrong.',
    ],
  ],
  [
    {
      problem: 'Solve 4(x - 3) + 5 = 2x + 9.',
      solution: '4x - 3 + 5 = 2x + 9\n4x + 2 = 2x + 9\n2x = 7\nx = 3.5',
      reference: '4x - 12 + 5 = 2x + 9\n4x - 7 = 2x + 9\n2x = 16\nx = 8',
    },
    [
      'Step 1: 4 times -3 is -12, not -3.',
      'The bracket is multiplied out wrongly: the 4 has to be applied to both terms.',
      'In step 1 the factor 4 was not applied to the 3.',
      'Line 1 should begin with 4x - 12.',
      'Two of your 4 lines depend on the first one, which is wrong.',
      'Distribute the 4 over x and -3 first.',
      'The later steps follow from step 1, so they have to be done again.',
      'x^2 does not occur here, so there is one solution.',
      'From 4x + 2 = 2x + 9 you get 2x = 7, that part is right.',
      'Everything after the 1st line is consistent, but the 1st line is wrong.',
    ],
  ],
  [
    {
      problem: 'A shop sells 12 pens for 18 dollars. What does one pen cost?',
      solution: '12 / 18 = 0.67\nOne pen costs 0.67 dollars.',
      reference: '18 / 12 = 1.5, so one pen costs 1.50 dollars.\n#### 1.5',
    },
    [
      'You divided the wrong way round: cost per pen is the total price divided by the number of pens.',
      'Look at step 1: which of 12 and 18 is the price?',
      '12 / 18 is the number of pens per dollar.',
      'One of the two numbers is a price, the other a count.',
      'Step 1 is wrong, and step 2 follows from it.',
      'The unit in line 2 does not fit: pens per dollar is not dollars per pen.',
      'There are 2 steps and both need another look.',
      'A pen costs more than 1 dollar, as 18 is more than 12.',
    ],
  ],
  [
    {
      problem: 'Solve x^2 - 5x + 6 = 0.',
      solution: '(x - 1)(x - 6) = 0\nx = 1 or x = 6',
      reference: '(x - 2)(x - 3) = 0\nx = 2 or x = 3',
    },
    [
      'Multiply your factors out: the middle term is -7x, not -5x.',
      'Line 1 is wrong: the two numbers must add up to 5.',
      'The product of the roots is 6, their sum is 5.',
      'Step 1: (x - 1)(x - 6) gives x^2 - 7x + 6.',
      'You found two roots, but x = 1 does not satisfy the equation: 1 - 5 + 6 is not 0.',
      'Both roots of step 2 follow from the wrong factors of step 1.',
    ],
  ],
  [
    {
      problem: 'What is the probability of at least one head in two throws of a coin?',
      solution: 'The probability of a head is 1/2.\nSo for two throws it is 1/2 + 1/2 = 1.',
      reference: 'P = 1 - 1/4.\n\\boxed{\\frac{3}{4}}',
    },
    [
      'The events are not exclusive, so their probabilities cannot be added.',
      'Step 2 would make a head certain, which cannot be.',
      'List the four outcomes of two throws and count.',
      'Consider the chance of no head in both throws.',
      'The first line is right.',
      'Adding 1/2 and 1/2 counts the case of two heads twice.',
    ],
  ],
  [
    {
      problem: 'Which option is a prime: (A) 21, (B) 23, (C) 25?',
      solution: '21 is a prime, so A.',
      reference: 'The answer is B',
    },
    [
      '21 is 3 times 7.',
      'A has a divisor other than itself and one.',
      'Look at each of the three again.',
      'Be careful: a number is prime if it has no other divisors.',
    ],
  ],
  [
    {
      problem: 'Is 91 a prime number? Answer yes or no.',
      solution: 'It is odd and not divisible by 3 or 5, so yes.',
      reference: '91 = 7 * 13. The answer is no.',
    },
    [
      'You have no argument for larger divisors.',
      'There is no reason to stop at 5.',
      'Step 1 leaves out divisors below the root of 91.',
      'It is odd, yes, but that says little.',
    ],
  ],
  [
    {
      problem: 'Find the area of a circle with radius 3 cm.',
      solution: 'A = 2 \\pi r = 6\\pi',
      reference: 'A = \\pi r^2 = 9\\pi',
    },
    [
      'You used the formula for the circumference.',
      'The area grows with the square of the radius.',
      'Step 1: 2πr is the circumference, not the area.',
      'The formula in line 1 is wrong; r has to be squared.',
      'With 6π you have found a length.',
    ],
  ],
  [
    {
      problem: 'Simplify (x + 2)^2 - x^2.',
      solution: 'x^2 + 4 - x^2 = 4',
      reference: 'x^2 + 4x + 4 - x^2\n\\boxed{4x + 4}',
    },
    [
      'The middle term of the square is missing.',
      '(x + 2)^2 is not x^2 + 4.',
      'Step 1: use (a + b)^2 = a^2 + 2ab + b^2.',
      'A term in x is missing; x = 1 gives 8, your result gives 4.',
    ],
  ],
  [
    {
      problem: 'The sum of three consecutive numbers is 72. Find the largest.',
      solution: 'x + x + 1 + x + 2 = 72\n3x = 70\nx = 23.33',
      reference: '3x + 3 = 72, x = 23, the largest is 25.',
    },
    [
      'Line 2: 1 + 2 is 3, so subtract 3 and not 2.',
      'You lost 1 when collecting the constants.',
      'Step 1 sets it up right. Step 2 does not: 72 - 3 is 69.',
      'A number that is not whole cannot be one of three consecutive numbers.',
      'After step 2 you also have to answer the question: the largest of the three.',
    ],
  ],
  [
    {
      problem: 'How many ways are there to seat 4 people in a row?',
      solution: '4 + 3 + 2 + 1 = 10',
      reference: '4! = 24',
    },
    [
      'The choices multiply; they do not add.',
      'For the first seat there are 4 ways, for the second 3 each.',
      'Step 1 adds where it should multiply.',
    ],
  ],
];

describe('leak guard: feedback that leaks nothing', () => {
  const cases = harmless.flatMap(([texts, list]) => list.map((feedback) => ({ texts, feedback })));

  it('raises few false alarms', () => {
    const alarms = cases.filter(({ texts, feedback }) => createLeakGuard(texts, { kind: 'boxed' }).leaks(feedback));
    console.info(
      `leak guard: ${numForms} written forms; ${alarms.length} false alarms in ${cases.length} harmless feedbacks`,
    );
    expect(alarms.map(({ feedback }) => feedback)).toEqual([]);
  });

  it('leaves it as it is', () => {
    for (const { texts, feedback } of cases) {
      expect(createLeakGuard(texts, { kind: 'boxed' }).redact(feedback)).toBe(feedback);
    }
  });
});

describe('leak guard: the rest', () => {
  it('takes common words set as text for common words', () => {
    const texts = { problem: 'Is 97 a prime?', solution: 'It is odd.', reference: '\\boxed{\\text{True}}' };
    const guard = createLeakGuard(texts, { kind: 'boxed' });
    expect(guard.redact('Step 1 is true.')).toBe('Step 1 is true.');
    expect(guard.leaks('The answer is true.')).toBe(true);
  });

  it('says nothing when the student has found the answer', () => {
    const guard = createLeakGuard(
      { problem: 'Solve 2x = 10.', solution: '2x = 10\nx = 5', reference: 'x = 5' },
      { kind: 'boxed' },
    );
    expect(guard.leaks('x = 5 is right, but explain the division.')).toBe(false);
  });

  it('sees a quote of the reference', () => {
    const guard = createLeakGuard(
      {
        problem: 'Show that the sum of two odd numbers is even.',
        solution: '3 + 5 = 8.',
        reference:
          'Write the two odd numbers as one more than an even number each, then add them up and factor out two.',
      },
      { kind: 'boxed' },
    );
    const feedback =
      'An example proves nothing. Write the two odd numbers as one more than an even number each, then go on.';
    expect(guard.leaks(feedback)).toBe(true);
    expect(guard.redact(feedback)).toBe('An example proves nothing. […] go on.');
    expect(guard.leaks('An example proves nothing; write odd numbers in general form.')).toBe(false);
  });

  it('redacts only what states the answer', () => {
    const guard = createLeakGuard(
      { problem: 'Solve 3x = 21.', solution: 'x = 6', reference: 'x = 7' },
      { kind: 'boxed' },
    );
    expect(guard.redact('Step 1: 21 divided by 3 is 7, not 6. So $x = 7$.')).toBe(
      'Step 1: 21 divided by 3 is […], not 6. So $x = […]$.',
    );
  });

  it.each([
    ['ends in a box', 'Text\n\\boxed{17}', 'the value 17'],
    ['announces it', 'We add.\nThe answer is 17.', 'the value 17'],
    ['marks it', 'We add: 8 + 9 = 17\n#### 17', 'the value 17'],
    ['ends with an equation', 'We add\nx = 8 + 9 = 17', 'the value 17'],
    ['is the answer alone', '17', 'the value 17'],
    [
      'ends with a sentence',
      'After all of this adding up we see that the girl must have had 17 apples',
      'the value 17',
    ],
  ])('finds the answer of a reference that %s', (_, reference, feedback) => {
    expect(createLeakGuard({ ...unrelated, reference }, { kind: 'boxed' }).leaks(feedback)).toBe(true);
  });

  it('takes time in proportion to hostile texts', { timeout: 60_000 }, () => {
    const parts = [
      'one ',
      '1,',
      '\\frac{',
      '(',
      '9',
      '1 1/',
      'answer is ',
      'x=',
      '- ',
      '\\boxed{',
      '\\begin{',
      'one hundred and ',
      'the answer is 5, since ',
      'x = 5\n',
      'Check: 5\n',
      '= 1 ',
      'steps 1, ',
      ' (',
    ];
    for (const part of parts) {
      const text = part.repeat(16_000 / part.length);
      const startedAt = performance.now();
      const guard = createLeakGuard(
        { problem: text, solution: text, reference: `${text}\n\\boxed{5}` },
        { kind: 'boxed' },
      );
      guard.redact(text);
      // quadratic work would take minutes
      expect(performance.now() - startedAt, part).toBeLessThan(5_000);
    }
  });
});

describe('leak guard: where the reference states its answer', () => {
  const texts = { problem: 'Solve 2x + 5 = 15.', solution: '2x = 20\nx = 10' };

  it.each([
    '2x = 10\nx = 5\nCheck: 2(5) + 5 = 15',
    'The answer is 5 because 2*5 + 5 = 15.',
    'The answer is 5, since 10/2 = 5.',
    'Final Answer: The final answer is $5$. I hope it is correct.',
    'So the answer is $x = 5$, as required.',
    'x = 5\nDone.',
    'x = 5\nQED',
    'The solution is to subtract 5 from both sides and then divide\n2x = 10\nx = 5',
    'x = 5\n2(5) + 5 = 15',
    'x = 5\nThe result is 15, as it was in the problem.',
    'Dividing 10 by 2 gives 5.',
    'x is 5',
    '5 = x',
  ])('%s', (reference) => {
    const guard = createLeakGuard({ ...texts, reference }, { kind: 'boxed' });
    expect(guard.leaks('The correct answer is 5.')).toBe(true);
    expect(guard.leaks('Line 1 is wrong: subtract 5 from 15, do not add it.')).toBe(false);
  });

  it('guards the box, the announcement and the unknown', () => {
    const reference = 'x = 23\nThe answer is 24.\n\\boxed{25}';
    const guard = createLeakGuard({ ...texts, reference }, { kind: 'boxed' });
    for (const value of [23, 24, 25]) expect(guard.leaks(`The correct answer is ${value}.`)).toBe(true);
    expect(guard.leaks('The correct answer is 26.')).toBe(false);
  });

  it.each([
    ['x = 10\nCheck: 10 - 5 = 5', true],
    ['x = 10\n10 - 5 = 5', true],
    ['x = 10\nThis is twice 5.', true],
    ['The answer is 10.\nx = 5', true],
    ['x = 10/2 = 5', false],
    ['x = 5\nCheck: 2(5) + 5 = 15', false],
    ['The answer is 5.', false],
    ['So it is \\boxed{5}', false],
    ['5', false],
  ])('after the student wrote %s it is a leak: %s', (solution, leaks) => {
    const guard = createLeakGuard({ problem: texts.problem, solution, reference: '\\boxed{5}' }, { kind: 'boxed' });
    expect(guard.leaks('The correct answer is 5.')).toBe(leaks);
  });

  it.each(['x = 2 and x = 3', '2.3', '2,3'])('reads 2,3 as two answers and as a decimal: %s', (form) => {
    const guard = createLeakGuard({ ...unrelated, reference: '\\boxed{2,3}' }, { kind: 'boxed' });
    expect(guard.leaks(`The solutions are ${form}.`)).toBe(true);
    expect(guard.leaks('The solutions are 4 and 3.')).toBe(false);
  });
});

describe('leak guard: forms of an answer', () => {
  it.each([
    ['2^3 \\cdot 5', 'The answer is 2^3 \\cdot 5.'],
    ['2 \\cdot x + 1', 'The answer is 2x + 1.'],
    ['3 \\cdot 2^n', 'The answer is 3 * 2^n.'],
    ['a * b', 'The answer is a*b.'],
  ])('sees a product: %s', (answer, feedback) => {
    const texts = { problem: 'Find it.', solution: 'I am stuck.', reference: `\\boxed{${answer}}` };
    expect(createLeakGuard(texts, { kind: 'boxed' }).leaks(feedback)).toBe(true);
  });

  it.each([
    ['(3, 2)', '(2, 3)'],
    ['x = 3, y = 2', 'x = 2, y = 3'],
  ])('%s is not %s', (found, right) => {
    const texts = { problem: 'Find it.', solution: `\\boxed{${found}}`, reference: `\\boxed{${right}}` };
    expect(createLeakGuard(texts, { kind: 'boxed' }).leaks(`The correct answer is ${right}.`)).toBe(true);
  });
});

describe('leak guard: both signs', () => {
  const texts = { problem: 'Solve x^2 = 9.', solution: 'x = 9/2' };

  it.each(['\\boxed{\\pm 3}', '\\boxed{x = \\pm 3}', 'x = ±3', 'x = 3 or x = -3'])('%s', (reference) => {
    const guard = createLeakGuard({ ...texts, reference }, { kind: 'boxed' });
    for (const feedback of [
      'The answer is ±3.',
      'The solutions are 3 and -3.',
      'x should be 3 or -3.',
      'The correct answer is x = 3 or x = -3.',
      'x = \\pm 3',
      'x = ±3',
    ]) {
      expect(guard.leaks(feedback), feedback).toBe(true);
      expect(guard.leaks(guard.redact(feedback)), feedback).toBe(false);
    }
    expect(guard.leaks('The square of 3 is 9, but there is a second root.')).toBe(false);
  });

  it.each(['x = ±3', 'x = 3 or x = -3', '\\boxed{3, -3}'])('a student who wrote %s has found them', (solution) => {
    const guard = createLeakGuard({ ...texts, solution, reference: '\\boxed{\\pm 3}' }, { kind: 'boxed' });
    expect(guard.leaks('The solutions are 3 and -3.')).toBe(false);
  });
});

describe('leak guard: signs', () => {
  const texts = { problem: 'Solve 7 - 2x = 1.', reference: '\\boxed{3}' };

  it.each(['-2x = -6\nx = -3', 'x is -3', 'It is - 3.', 'x is minus 3', '(-3)'])(
    '%s does not mention 3',
    (solution) => {
      const guard = createLeakGuard({ ...texts, solution }, { kind: 'boxed' });
      expect(guard.leaks('The sign is wrong: it should be 3.')).toBe(true);
    },
  );

  it.each(['x = 7 - 3', 'x = a -3', 'x = (7)-3', 'x = 7 minus 3', '- 3 is taken away'])(
    '%s mentions it',
    (solution) => {
      const guard = createLeakGuard({ ...texts, solution }, { kind: 'boxed' });
      expect(guard.leaks('Why do you take 3 away?')).toBe(false);
    },
  );

  it.each(['The answer – 3 – is smaller.', '- 3 is the answer', 'The answer—3—is odd.'])(
    'a dash is no sign: %s',
    (feedback) => {
      expect(createLeakGuard({ ...unrelated, reference: '\\boxed{3}' }, { kind: 'boxed' }).leaks(feedback)).toBe(true);
    },
  );
});

describe('leak guard: what is blotted out', () => {
  const guard = createLeakGuard(
    { problem: 'Solve 2x + 5 = 15.', solution: '2x = 20\nx = 10', reference: '2x = 10\nx = 5' },
    { kind: 'boxed' },
  );

  it.each([
    ['Step 2: x = 10 / 2 = 5, not 10.', 'Step 2: x = […] = […], not 10.'],
    ['The answer is 10/2, which is 5.', 'The answer is […], which is […].'],
    ['The answer is 10/2, which is five.', 'The answer is […], which is […].'],
    ['Step 5: the answer is 5, see x^5 and the 5 errors.', 'Step 5: the answer is […], see x^5 and the 5 errors.'],
    ['Subtract 5 from 15.', 'Subtract 5 from 15.'],
  ])('%s', (feedback, redacted) => {
    expect(guard.redact(feedback)).toBe(redacted);
  });

  it('sees the end of a chain that an unknown begins', () => {
    expect(guard.leaks('So x = (15-5)/2 = 10/2 = 5.')).toBe(true);
    expect(guard.redact('So x = (15-5)/2 = 10/2 = 5.')).toBe('So x = (15-[…])/2 = […] = […].');
    expect(guard.leaks('For x = 10 you have 2x = 20, and 20 - 15 = 5.')).toBe(false);
  });

  it('blots out words and expressions wherever they stand', () => {
    const texts = {
      problem: 'Which kind, isosceles or scalene?',
      solution: 'Scalene.',
      reference: '\\boxed{isosceles}',
    };
    expect(createLeakGuard(texts, { kind: 'boxed' }).redact('The answer is isosceles; isosceles fits.')).toBe(
      'The answer is […]; […] fits.',
    );
  });
});

describe('leak guard: sentences', () => {
  const texts = { problem: 'Solve 2x + 5 = 15.', solution: '2x = 20\nx = 10', reference: '\\boxed{5}' };

  it.each([
    'The value of x is therefore 5.',
    'The answer is clearly 5.',
    'The answer is, of course, 5.',
    'x works out to 5.',
    'x comes out to 5.',
    'x equals to 5',
    'The result works out to be 5.',
    'The correct answer, 5, is half of that.',
    'The answer, namely 5, is half of that.',
  ])('%s', (feedback) => {
    expect(createLeakGuard(texts, { kind: 'boxed' }).leaks(feedback)).toBe(true);
  });

  const options = { problem: 'Which one is a prime: (A) 21, (B) 23?', solution: 'A', reference: '\\boxed{B}' };
  it.each([
    'The correct option is B.',
    'The correct choice is (B).',
    'B is the correct option.',
    '(B) is the correct choice.',
  ])('of a choice: %s', (feedback) => {
    expect(createLeakGuard(options, { kind: 'boxed' }).leaks(feedback)).toBe(true);
  });

  it.each(['\\boxed{(C)}', '\\boxed{\\textbf{(C)}}', '\\boxed{\\text{(C)}}', 'The answer is (C).'])(
    'of a choice in brackets: %s',
    (reference) => {
      const guard = createLeakGuard({ ...options, reference }, { kind: 'boxed' });
      for (const feedback of ['The answer is C.', 'Option C is correct.', 'The correct choice is C.']) {
        expect(guard.leaks(feedback), feedback).toBe(true);
      }
      const found = createLeakGuard({ ...options, solution: '\\boxed{C}', reference }, { kind: 'boxed' });
      expect(found.leaks('The answer is C.')).toBe(false);
    },
  );

  it('takes no article for option A', () => {
    const guard = createLeakGuard({ ...options, solution: 'B', reference: '\\boxed{A}' }, { kind: 'boxed' });
    expect(guard.leaks('The correct option is a prime.')).toBe(false);
    expect(guard.leaks('The correct option is A.')).toBe(true);
  });

  it.each([
    'Steps 2, 3 and 4 are wrong.',
    'Steps 1, 2, 3, and 4 are wrong.',
    'Lines 2 through 4 are wrong.',
    'See (4).',
    'This follows from (4).',
    'Step 1 (of 4) is wrong',
    'Step 1 of 4 is wrong',
    'There are 4,000 people',
  ])('points or counts: %s', (feedback) => {
    const guard = createLeakGuard({ ...unrelated, reference: '\\boxed{4}' }, { kind: 'boxed' });
    expect(guard.leaks(feedback)).toBe(false);
    expect(guard.redact(feedback)).toBe(feedback);
  });
});

describe('leak guard: generated corrections', () => {
  it('lets pass what corrects a step without stating the answer', () => {
    const random = createRandom(7);
    const pick = (from: number, to: number): number => from + Math.floor(random() * (to - from + 1));
    let numAlarms = 0;
    let numMissed = 0;
    const numCases = 1_000;
    for (let index = 0; index < numCases; index++) {
      // a(x - b) + c = dx + e with x whole
      const [a, b, c, x] = [pick(3, 9), pick(1, 9), pick(1, 20), pick(2, 30)];
      const d = pick(1, a - 1);
      const e = a * (x - b) + c - d * x;
      const slip = pick(1, 5);
      const problem = `Solve ${a}(x - ${b}) + ${c} = ${d}x + ${e}.`;
      const wrong = a * b + slip;
      const solution = `${a}x - ${wrong} + ${c} = ${d}x + ${e}\n${a - d}x = ${e - c + wrong}\nx = ${(e - c + wrong) / (a - d)}`;
      const reference = `${a}x - ${a * b} + ${c} = ${d}x + ${e}\n${a - d}x = ${e - c + a * b}\nx = ${x}`;
      const guard = createLeakGuard({ problem, solution, reference }, { kind: 'boxed' });
      const product = `Step 1: ${a} times -${b} is -${a * b}, not -${wrong}.`;
      // a correction that happens to name the answer's number does give it away
      if (a * b !== x && a !== x && b !== x && guard.leaks(product)) numAlarms++;
      const general = `Line 1 is wrong: the product of ${a} and -${b} needs another look. The 2 other lines follow from it.`;
      if (guard.leaks(general)) numAlarms++;
      if (!guard.leaks(`${product} In the end x = ${x}.`)) numMissed++;
    }
    console.info(
      `leak guard: ${numAlarms} false alarms in ${2 * numCases} generated corrections, ${numMissed} of ${numCases} leaks missed`,
    );
    expect(numAlarms / (2 * numCases)).toBeLessThan(0.01);
    expect(numMissed).toBe(0);
  });
});

/** Mulberry32: the same cases in every run. */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
