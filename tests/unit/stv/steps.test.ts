import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createAnswerExtractor } from '../../../src/stv/answer.ts';
import { locateByPrefixes, locateFromFeedback } from '../../../src/stv/first-error.ts';
import { splitShownSteps, splitSteps } from '../../../src/stv/steps.ts';

const quotes = (solution: string): string[] => splitSteps(solution).map(({ quote }) => quote);

describe('splitSteps', () => {
  it.each<[string, string, string[]]>([
    ['lines', '4x - 3 + 5 = 2x + 9\n4x + 2 = 2x + 9', ['4x - 3 + 5 = 2x + 9', '4x + 2 = 2x + 9']],
    ['lines with blank ones and other line ends', '  a = 1\r\n\r\n b = 2 \n', ['a = 1', 'b = 2']],
    [
      'numbered steps over several lines',
      'Step 1: add\n  2 + 2\nStep 2: done',
      ['Step 1: add\n  2 + 2', 'Step 2: done'],
    ],
    ['numbered items after one line', 'So:\n1. add\n2. divide', ['1. add', '2. divide']],
    ['items in brackets', '(1) add\n(2) divide', ['(1) add', '(2) divide']],
    ['items with brackets', '1) add\n2) divide\n3) end', ['1) add', '2) divide', '3) end']],
    [
      'bold steps after a paragraph',
      'We look\nat it.\n\n**Step 1:** a\n\n**Step 2:** b',
      ['**Step 1:** a', '**Step 2:** b'],
    ],
    ['headings', '## Step 1\nadd\n## Step 2\nend', ['## Step 1\nadd', '## Step 2\nend']],
    ['steps within one line', 'Step 1: 2 + 2 = 4. Step 2: 4 / 2 = 2.', ['Step 1: 2 + 2 = 4.', 'Step 2: 4 / 2 = 2.']],
    ['numbers that count something else', '2. is even\n7 is odd\n3. is odd', ['2. is even', '7 is odd', '3. is odd']],
    ['decimals at the head of lines', '1.5 + 1 = 2.5\n2.5 * 2 = 5', ['1.5 + 1 = 2.5', '2.5 * 2 = 5']],
    [
      'numbered items far behind other lines',
      'a = 1\nb = 2\nc = 3\n1. check\n2. done',
      ['a = 1', 'b = 2', 'c = 3', '1. check', '2. done'],
    ],
    [
      'named steps with lists in them',
      '**Step 1: Known**\n1. A pen costs 3.\n2. A book costs 5.\n3. We buy both.\n\n**Step 2: Pens**\n2 * 3 = 6',
      ['**Step 1: Known**\n1. A pen costs 3.\n2. A book costs 5.\n3. We buy both.', '**Step 2: Pens**\n2 * 3 = 6'],
    ],
    ['items with lists in them', '1. a:\n   1. b\n   2. c\n2. d', ['1. a:\n   1. b\n   2. c', '2. d']],
    ['items with lists behind a tab', '1) a\n\t1) b\n\t2) c\n2) d', ['1) a\n\t1) b\n\t2) c', '2) d']],
    [
      'numbers set to the right',
      Array.from({ length: 10 }, (_, index) => `${index + 1}. a`.padStart(5)).join('\n'),
      Array.from({ length: 10 }, (_, index) => `${index + 1}. a`),
    ],
    ['a formula block', 'First\n$$\nx = 1\n+ 2\n$$\nThen', ['First', '$$\nx = 1\n+ 2\n$$', 'Then']],
    ['brackets of a formula', '\\[\nx = 1\n\\]\nend', ['\\[\nx = 1\n\\]', 'end']],
    [
      'an environment',
      '\\begin{align}\na &= 1 \\\\\nb &= 2\n\\end{align}\nend',
      ['\\begin{align}\na &= 1 \\\\\nb &= 2\n\\end{align}', 'end'],
    ],
    ['a code block', '```\na\n\nb\n```\nend', ['```\na\n\nb\n```', 'end']],
    ['a formula that is never closed', '$$ x\ny\nz', ['$$ x', 'y', 'z']],
    ['formulas within lines', '$$a$$ and $$b$$\n$$c$$', ['$$a$$ and $$b$$', '$$c$$']],
    ['a single line', 'x = 5', ['x = 5']],
    ['nothing', ' \n ', []],
  ])('splits %s', (_, solution, expected) => expect(quotes(solution)).toEqual(expected));

  it('gives offsets in UTF-16 units', () => {
    const solution = 'a 😀 b\n\u00a0𝒙 = 𝟏\nend';
    for (const { start, end, quote } of splitSteps(solution)) expect(solution.slice(start, end)).toBe(quote);
    expect(splitSteps(solution).map(({ step }) => step)).toEqual([1, 2, 3]);
  });

  it('holds for any text: ordered, in bounds, nothing changed', () => {
    const piece = fc.constantFrom(
      'Step 1:',
      'Step 2: ',
      '1. ',
      '2) ',
      '\n',
      '\n\n',
      '$$',
      '\\[',
      '\\]',
      '```',
      'x = 5',
      ' ',
      '\\begin{a}',
      '\\end{a}',
      '😀',
      '\r\n',
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: 'binary-ascii' }),
          fc.array(piece, { maxLength: 30 }).map((list) => list.join('')),
        ),
        (solution) => {
          const steps = splitSteps(solution);
          const isSound = steps.every(
            ({ step, start, end, quote }, index) =>
              step === index + 1 &&
              start >= (steps[index - 1]?.end ?? 0) &&
              end > start &&
              solution.slice(start, end) === quote &&
              quote.trim() === quote,
          );
          expect(isSound).toBe(true);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('takes time in proportion to long texts', { timeout: 30_000 }, () => {
    for (const part of ['\\[\n', '$$ x\n', '```\n', 'Step 1: ', '1. \n', '\\begin{a}\n', '\n', 'x']) {
      const startedAt = performance.now();
      splitSteps(part.repeat(65_536 / part.length));
      expect(performance.now() - startedAt, part).toBeLessThan(3_000);
    }
  });
});

describe('splitShownSteps', () => {
  const shownQuotes = (solution: string, ...shown: string[]): string[] =>
    splitShownSteps(solution, shown).map(({ quote }) => quote);
  const items = 'So x:\n1. add\n2. divide';

  it.each<[string, string, string[], string[]]>([
    [
      'numbered line by line',
      items,
      ['', 'Step 1: So x:\nStep 2: 1. add\nStep 3: 2. divide', 'Check'],
      items.split('\n'),
    ],
    ['numbered in other words', items, ['Look:\n[1] So x:\n[2] 1. add\n[3] 2. divide\nDone?'], items.split('\n')],
    ['numbered by paragraphs', 'a\nb\n\nc', ['**1.** a\nb\n**2.** c'], ['a\nb', 'c']],
    ['a formula numbered by lines', '$$\n x\n$$', ['Step 1: $$\nStep 2: x\nStep 3: $$'], ['$$', 'x', '$$']],
    ['as it is', items, ['Attempt 1: So x:\n1. add\n2. divide\nCheck it.'], ['1. add', '2. divide']],
    ['without its indentation', ' a\n  b', ['a\nb'], ['a', 'b']],
    ['with numbers that are not all its own', items, ['Step 1: So x:\nStep 2: 1. add'], ['1. add', '2. divide']],
    ['nowhere', items, [], ['1. add', '2. divide']],
    ['blank', ' ', ['Step 1:'], []],
  ])('counts what is shown %s', (_, solution, shown, expected) =>
    expect(shownQuotes(solution, ...shown)).toEqual(expected),
  );

  it('gives offsets in the solution, not in what is shown', () => {
    const solution = '  a 😀\r\n\r\n 1. b\r\n 2. c\n';
    const steps = splitShownSteps(solution, ['Step 1: a 😀\nStep 2: 1. b\nStep 3: 2. c']);
    expect(steps.map(({ quote }) => quote)).toEqual(['a 😀', '1. b', '2. c']);
    for (const { start, end, quote } of steps) expect(solution.slice(start, end)).toBe(quote);
  });
});

const solution = '4x - 3 + 5 = 2x + 9\n4x + 2 = 2x + 9\n2x = 7\nx = 3.5';

describe('locateFromFeedback', () => {
  it.each<[string, number | undefined]>([
    ['Step 1: 4 times -3 is -12, not -3.', 1],
    ['Step 1 ok\nStep 2: 30 + 12 is 42, not 43.', 2],
    ['Step 1: 4 times x is 4x, here 4x, ok\nStep 2: 2 times 9 is 18, before 16, wrong.', 2],
    ['Step 1: 4 times x is 4x, here 4x, ok\nStep 2: 9 was copied as 8.\nStep 3: 15 - 3 is 12, here 12, ok', 2],
    ['Step 1 is correct. Step 2 is correct. Step 3 has an error.', 3],
    ['Steps 1 and 2 are right, but step 3 is wrong.', 3],
    ['Line 2 should be 4x - 7 = 2x + 9.', 2],
    ['The second step is wrong.', 2],
    ['The error is in step three.', 3],
    ['The mistake happens in the last line.', 4],
    ['The final step does not follow.', 4],
    ['The 3rd line is incorrect.', 3],
    ['Going from step 2 to step 3 the sign is lost.', 3],
    ['There is no error in step 1. In step 4 the division is wrong.', 4],
    ['Step 1 is not wrong. Step 2 is wrong.', 2],
    ['Look at step 2 again.', 2],
    ['Look at step 2. The sign is wrong there.', 2],
    ['"2x = 7" is wrong.', 3],
    ['`4x + 2 = 2x + 9` does not follow.', 2],
    ['You wrote $x=3.5$, which is wrong.', 4],
    ['4x - 3 + 5 = 2x + 9 is incorrect: the bracket.', 1],
    ['1. fine\n2. fine\n3. wrong', 3],
    ['✓ Step 1\n✗ Step 2', 2],
    ['Step 9 is wrong.', undefined],
    ['Everything is correct.', undefined],
    ['Step 1 is right. Step 2 is right. Step 3 is right. Step 4 is right.', undefined],
    ['The bracket is multiplied out wrongly.', undefined],
    ['', undefined],
    ['In equation (2) the constant is wrong.', 2],
    ['Step 3, however, contains a mistake.', 3],
    ["Step 2 isn't right.", 2],
    ['STEP 2: WRONG', 2],
  ])('%j points at step %s', (feedback, step) =>
    expect(locateFromFeedback(feedback, splitSteps(solution))?.step).toBe(step),
  );

  const five = splitSteps('a = 1\nb = 2\nc = 3\nd = 4\ne = 5');
  it.each<[string, number | undefined]>([
    ['Step 1 is correct, step 2 is not.', 2],
    ['Since step 1 is right, the error must be in step 2.', 2],
    ['Unlike step 1, step 2 is wrong.', 2],
    ['Step 1 is right since 5 is not negative. Step 2 is wrong.', 2],
    ["I don't see any problem with step 1. Step 2 has a sign error.", 2],
    ['I do not find an arithmetic error in step 1. Step 2 is wrong.', 2],
    ['Step 1 is not the problem, step 2 is.', 2],
    ['Step 1 is right and step 2 is wrong.', 2],
    ['Step 2 is wrong and step 1 is right.', 2],
    ['Step 2 does not follow from step 1.', 2],
    ['Given the value from step 1, there is a wrong sign in the second step.', 2],
    ['In step 2, the error is the sign.', 2],
    ['Step 1, step 2 and step 3 are right. Step 4 is wrong.', 4],
    ['Step 1, step 2 and step 3 are right.', undefined],
    ['It is wrong because step 2 drops the sign. Step 3 is wrong as well.', 2],
    ['Step 2 is not right because 5 is positive. Step 3 is wrong.', 2],
    ['In step 2 the right side changes because 3 is not added.', 2],
    ['The error comes from step 2.', 2],
    ['The value from step 2 is wrong.', 2],
    ['From step 2 on everything is wrong.', 2],
    ['Everything after step 1 is wrong.', undefined],
    ['This does not follow from the first step.', undefined],
    ['3) This does not follow from step 2.', 3],
  ])('of several steps, %j points at step %s', (feedback, step) =>
    expect(locateFromFeedback(feedback, five)?.step).toBe(step),
  );

  const moves = splitSteps('2x + 3 = 15\n2x = 18\nx = 9');
  it.each<[string, number | undefined]>([
    ['You made an error going from "2x + 3 = 15" to "2x = 18".', 2],
    ['"2x = 18" is wrong: you should get 2x = 12, not "x = 9".', 2],
    ['"2x + 3 = 15" does not give "2x = 18".', 2],
    ['From 2x + 3 = 15 you cannot get 2x = 18.', 2],
    ['2x = 18 does not follow from 2x + 3 = 15.', 2],
    ['$2x + 3 = 15$ does not lead to $2x = 18$.', 2],
    ['"2x + 3 = 15" is wrong.', 1],
    ['2x = 18 is wrong, so you cannot get on.', 2],
  ])('of a move between quoted steps, %j points at step %s', (feedback, step) =>
    expect(locateFromFeedback(feedback, moves)?.step).toBe(step),
  );

  it('finds no step within a longer one', () => {
    const steps = splitSteps('2x = 18\nx = 18');
    expect(locateFromFeedback('You cannot get 2x = 18.', steps)?.step).toBe(1);
  });

  it('takes time in proportion to long feedback', { timeout: 30_000 }, () => {
    for (const part of ['step 1 ', 'step 1, ', 'first step ', "n't ", 'is right ', 'since ', 'not ', 'a', ', ']) {
      const startedAt = performance.now();
      locateFromFeedback(part.repeat(65_536 / part.length), five);
      expect(performance.now() - startedAt, part).toBeLessThan(3_000);
    }
  });

  it('counts as the solution counts', () => {
    const numbered = 'Some words first.\nAnd more.\nStep 1: a = 1\nStep 2: b = 3';
    expect(locateFromFeedback('Step 2 is wrong.', splitSteps(numbered))?.quote).toBe('Step 2: b = 3');
  });

  it('counts no list within a step', () => {
    const listed =
      '**Step 1: Known**\n1. A pen costs 3.\n2. A book costs 5.\n3. We buy both.\n\n**Step 2: Pens**\n2 * 3 = 6\n\n**Step 3: Sum**\n6 + 5 = 12';
    const feedback = 'Steps 1 and 2 are correct. Step 3: 6 + 5 is not 12.';
    expect(locateFromFeedback(feedback, splitSteps(listed))?.quote).toBe('**Step 3: Sum**\n6 + 5 = 12');
  });

  it('never throws and stays in range', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary-ascii' }), fc.string(), (feedback, text) => {
        const steps = splitSteps(text);
        const found = locateFromFeedback(`${feedback} step ${feedback.length} ${text}`, steps);
        if (found !== undefined) expect(steps).toContain(found);
      }),
    );
  });
});

describe('locateByPrefixes', () => {
  const steps = (count: number): ReturnType<typeof splitSteps> =>
    splitSteps(Array.from({ length: count }, (_, i) => `line ${i}`).join('\n'));

  it('finds the step at which acceptance falls, in few scores', async () => {
    for (const count of [2, 3, 15, 16, 17, 40, 256, 1_000]) {
      for (const wrong of new Set([1, 2, Math.ceil(count / 2), count])) {
        let numScored = 0;
        const found = await locateByPrefixes(steps(count), async (cuts) => {
          numScored += cuts.length;
          return cuts.map((cut) => (cut < wrong ? 0.9 : 0.05));
        });
        expect(found?.step).toBe(wrong);
        expect(numScored).toBeLessThanOrEqual(64);
      }
    }
  });

  it('takes the largest fall when unfinished solutions are doubted as well', async () => {
    const scores = [0.3, 0.28, 0.05, 0.04];
    expect((await locateByPrefixes(steps(4), async (cuts) => cuts.map((cut) => scores[cut - 1] ?? 0)))?.step).toBe(3);
  });

  it('needs no score for one step, and gives up when scores are too dear', async () => {
    expect((await locateByPrefixes(steps(1), () => Promise.reject(new Error('asked'))))?.step).toBe(1);
    expect(await locateByPrefixes(steps(3), async () => undefined)).toBeUndefined();
    expect(await locateByPrefixes([], async () => [])).toBeUndefined();
  });
});

describe('createAnswerExtractor', () => {
  const boxed = createAnswerExtractor({ kind: 'boxed' });
  it.each<[string, string | undefined]>([
    ['so \\boxed{5}.', '5'],
    ['\\boxed{1} then \\boxed{2}', '2'],
    ['\\boxed{\\frac{1}{2}}', '\\frac{1}{2}'],
    ['\\boxed {x = \\left\\{ 1 \\right\\}}', 'x = \\left\\{ 1 \\right\\}'],
    ['\\boxed{1} and \\boxed{2', '1'],
    ['\\boxed{}', undefined],
    ['\\boxed{ }\\boxed5', undefined],
    ['boxed{5}', undefined],
    ['{{\\boxed{7}}', '7'],
    ['\\boxed{\\boxed{3}}', '3'],
    ['', undefined],
  ])('finds the last balanced box of %j', (text, answer) => expect(boxed(text)).toBe(answer));

  it.each<[string, string | undefined]>([
    ['a\nx = 5\n\n', 'x = 5'],
    ['only', 'only'],
    ['a\r\nb \r\n', 'b'],
    [' \n', undefined],
  ])('takes the last line of %j', (text, answer) =>
    expect(createAnswerExtractor({ kind: 'last_line' })(text)).toBe(answer),
  );

  it.each<[string, string, string | undefined]>([
    ['Answer: (\\S+)', 'Answer: 4\nAnswer: 5', '5'],
    ['\\d+', 'a 12 b 34', '34'],
    ['\\d+', 'The answer is 123', '123'],
    ['-?\\d+(?:\\.\\d+)?', 'Answer: -12.5', '-12.5'],
    ['\\d+', '1\n2\nend\n', '2'],
    ['a|ab', 'abab', 'a'],
    ['^\\d+', '1\n2', '1'],
    ['\\d+$', '1 23', '23'],
    ['(?:[=:]|^|\\n)\\s*(-?\\d+)\\s*$', 'x = 4\ny = -15 ', '-15'],
    ['x=(\\d)|y=(\\d)', 'x=1 y=2', undefined],
    ['\\b\\d+\\b', 'a 12 b 34', '34'],
    ['(?i)answer[:=] *(.+)', 'ANSWER= x y', 'x y'],
    ['x=(\\d)|y=(\\d)', 'y=2', undefined],
    ['nothing', 'text', undefined],
  ])('matches %j in %j', (pattern, text, answer) =>
    expect(createAnswerExtractor({ kind: 'pattern', pattern })(text)).toBe(answer),
  );

  it('refuses a pattern that is none', () => {
    for (const pattern of ['(', 'a)(b', '(?=a)', '\\1']) {
      expect(() => createAnswerExtractor({ kind: 'pattern', pattern })).toThrow(/pattern/);
    }
  });

  it('finds what searching from match to match finds last', () => {
    const piece = fc.constantFrom('a', 'b', '1', '23', '-', '.', ' ', '\n');
    const texts = fc.array(piece, { maxLength: 20 }).map((list) => list.join(''));
    for (const pattern of ['\\d+', '-?\\d+(?:\\.\\d+)?', 'a|ab', 'a+?b?', 'a(?:.*b)?', '(?m)^\\S+$', '\\b\\w']) {
      const extract = createAnswerExtractor({ kind: 'pattern', pattern });
      const flags = pattern.startsWith('(?m)') ? 'gm' : 'g';
      const same = new RegExp(pattern.replace('(?m)', ''), flags);
      fc.assert(
        fc.property(texts, (text) => {
          expect(extract(text)).toBe([...text.matchAll(same)].at(-1)?.[0].trim());
        }),
      );
    }
  });

  it('takes time in proportion to hostile texts', { timeout: 30_000 }, () => {
    const startedAt = performance.now();
    createAnswerExtractor({ kind: 'pattern', pattern: '(a+)+$' })(`${'a'.repeat(65_000)}b`);
    createAnswerExtractor({ kind: 'pattern', pattern: 'a(?:.*b)?' })('a'.repeat(65_000));
    boxed('\\boxed{'.repeat(9_000));
    boxed(`${'{'.repeat(65_000)}\\boxed{1}`);
    expect(performance.now() - startedAt).toBeLessThan(5_000);
  });
});
