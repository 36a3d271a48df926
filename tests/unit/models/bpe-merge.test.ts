import * as tokenizers from '@huggingface/tokenizers';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createBpeMerger } from '../../../src/models/bpe-merge.ts';
import { tokenizerFilesFromGguf } from '../../../src/models/gguf-tokenizer.ts';
import { isJsonObject } from '../../../src/models/tokenizer-files.ts';
import { goldenMetadata } from '../../support/tokenizer-goldens.ts';

type Merges = [string, string][];

/** The type files of the package leave it out. */
const { BPE } = tokenizers as unknown as {
  readonly BPE: new (model: object) => { bpe(word: string): string[] };
};

function reference(merges: Merges): (word: string) => string[] {
  const model = new BPE({ vocab: {}, merges, unk_token: null });
  return (word) => model.bpe(word);
}

describe('createBpeMerger', () => {
  it('merges as the library does, for any merges and words', () => {
    const piece = fc.stringMatching(/^[ab🙂]{1,3}$/u);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(piece, piece), { maxLength: 24 }),
        fc.array(fc.constantFrom('a', 'b', '🙂', 'c'), { minLength: 1, maxLength: 60 }),
        (merges, characters) => {
          const word = characters.join('');
          expect(createBpeMerger(merges)(word)).toEqual(reference(merges)(word));
        },
      ),
      { numRuns: 1000 },
    );
  });

  it('merges as the library does with the merges of a real vocabulary, long words too', () => {
    const { model } = tokenizerFilesFromGguf(goldenMetadata('smollm'), 'model.gguf').tokenizer;
    const merges = (isJsonObject(model) ? (model['merges'] as (string | string[])[]) : []).map(
      (merge) => (Array.isArray(merge) ? merge : merge.split(' ', 2)) as [string, string],
    );
    expect(merges.length).toBeGreaterThan(100);
    const [fast, slow] = [createBpeMerger(merges), reference(merges)];
    for (const word of ['a'.repeat(3000), 'the'.repeat(700), 'ĠsolutionĠproblem'.repeat(90), 'ðŁĻĤé'.repeat(300)]) {
      expect(fast(word)).toEqual(slow(word));
    }
  });
});
