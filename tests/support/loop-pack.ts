/** A small pack for tests of the loop. */
import type { LoopPack } from '../../src/stv/loop-pack.ts';

const sampling = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
};

export function createLoopPack(changes: Partial<LoopPack> = {}): LoopPack {
  return {
    name: 'test',
    version: '1.0.0',
    prompts: {
      attempt: { messages: [{ role: 'user', template: 'PROBLEM {{ problem }}' }] },
      refine: {
        messages: [
          { role: 'user', template: 'PROBLEM {{ problem }}' },
          { role: 'assistant', template: '{{ attempt }}' },
          { role: 'user', template: 'FEEDBACK ({{ verdict }}) {{ feedback }}' },
        ],
      },
      verify: { messages: [{ role: 'user', template: 'PROBLEM {{ problem }}\nSOLUTION {{ solution }}' }] },
      verifyWithReference: {
        messages: [
          { role: 'user', template: 'PROBLEM {{ problem }}\nSOLUTION {{ solution }}\nREFERENCE {{ reference }}' },
        ],
      },
    },
    feedback: { open: '<feedback>', close: '</feedback>', stop: ['</feedback>', '<verdict>'] },
    verdict: {
      open: '\n<verdict>',
      close: '</verdict>',
      words: { accept: 'accept', reject: 'reject', undetermined: 'unsure' },
      minMass: 0.5,
    },
    answer: { kind: 'boxed' },
    calibration: { kind: 'none' },
    defaults: { generator: { sampling, maxTokens: 64 }, verifier: { sampling, maxTokens: 64 } },
    ...changes,
  };
}
