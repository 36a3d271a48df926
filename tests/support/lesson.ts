/** A lesson for tests of pages and commands: an equation, three attempts at it, and what a verifier says of each. */
import { promptText, type TestEngineOptions } from '../http/test-engine.ts';

export const lessonProblem = '4(x - 3) + 5 = 2x + 9';

export const lessonAttempts: readonly { readonly text: string; readonly feedback: string; readonly score: number }[] = [
  {
    text: '4x - 3 + 5 = 2x + 9\n4x + 2 = 2x + 9\n2x = 7\nx = 7/2\n\\boxed{7/2}',
    feedback: 'Step 1: 4 times -3 is -12, so the left side begins 4x - 12, not 4x - 3.',
    score: 0.07,
  },
  {
    text: '4x - 12 + 5 = 2x + 9\n4x - 7 = 2x + 9\n2x = 2\nx = 1\n\\boxed{1}',
    feedback: 'Step 3: adding 7 to both sides gives 2x = 16. The 7 was subtracted on the right instead.',
    score: 0.31,
  },
  {
    text: '4x - 12 + 5 = 2x + 9\n4x - 7 = 2x + 9\n2x = 16\nx = 8\n\\boxed{8}',
    feedback: 'Every step holds.',
    score: 0.94,
  },
];

function attemptIn(prompt: string) {
  return lessonAttempts.findIndex(({ text }) => prompt.includes(text));
}

/** An engine that goes through the lesson; `delayMs` before every word, as it is at that moment. */
export function lessonEngine(pace: { delayMs: number }): TestEngineOptions {
  return {
    get delayMs() {
      return pace.delayMs;
    },
    reply: (request) => {
      const prompt = promptText(request.prompt);
      const shown = attemptIn(prompt);
      if (prompt.startsWith('Check:')) return lessonAttempts[shown]?.feedback ?? 'This cannot be followed.';
      return lessonAttempts[Math.min(shown + 1, lessonAttempts.length - 1)]?.text ?? '';
    },
    accept: (request) => lessonAttempts[attemptIn(promptText(request.prompt))]?.score ?? 0.02,
  };
}
