import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../../src/models/open-checkpoint.ts';
import { goldenGgufPath, goldenPath, readGoldenPrompts, TINY_MODELS } from '../../support/goldens.ts';
import { referenceForward } from '../../support/reference-forward.ts';

describe.each(TINY_MODELS)('%s', (model) => {
  it.each([
    ['safetensors', goldenPath(model)],
    ['GGUF', goldenGgufPath(model)],
  ])('gives the logits of transformers from %s', (_, path) => {
    const checkpoint = openCheckpoint(path);
    let worst = 0;
    for (const { inputIds, logits } of readGoldenPrompts(model)) {
      const actual = referenceForward(checkpoint, inputIds);
      expect(actual).toHaveLength(logits.length);
      logits.forEach((row, position) => {
        row.forEach((value, token) => {
          worst = Math.max(worst, Math.abs(value - (actual[position]?.[token] ?? Number.NaN)));
        });
      });
    }
    checkpoint.close();
    expect(worst).toBeLessThan(1e-4);
  });
});
