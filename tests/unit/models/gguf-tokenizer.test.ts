import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { GgufValue } from '../../../src/models/gguf-cursor.ts';
import { tokenizerFilesFromGguf } from '../../../src/models/gguf-tokenizer.ts';
import { TextModel } from '../../../src/models/text-model.ts';
import { writeTokenizerFiles } from '../../../src/models/tokenizer-write.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { goldenMetadata, readTokenizerGoldens, TOKENIZER_KINDS } from '../../support/tokenizer-goldens.ts';

function modelOf(metadata: ReadonlyMap<string, GgufValue>): TextModel {
  return new TextModel(tokenizerFilesFromGguf(metadata, 'model.gguf'));
}

describe.each(TOKENIZER_KINDS)('a %s vocabulary from GGUF metadata', (kind) => {
  const model = modelOf(goldenMetadata(kind));
  const goldens = readTokenizerGoldens(kind);

  it('encodes every text as the golden tokenizer does', () => {
    for (const { text, ids } of goldens.texts) expect(model.encodeText(text), JSON.stringify(text)).toEqual(ids);
  });

  it('encodes every chat as the golden tokenizer does', () => {
    for (const { messages, addGenerationPrompt, ids } of goldens.chats) {
      expect(model.encodeChat(messages, { addGenerationPrompt }), JSON.stringify(messages)).toEqual(ids);
    }
    expect(goldens.chats.length > 0).toBe(kind !== 'llama-spm');
  });

  it('decodes what it encoded', () => {
    for (const { text } of goldens.texts) {
      expect(model.decode(model.encodeText(text))).toBe(kind === 'qwen2' ? text.normalize('NFC') : text);
    }
  });
});

describe('tokenizerFilesFromGguf', () => {
  it('refuses a token that no trainer makes, instead of looking at its every split', () => {
    const metadata = goldenMetadata('llama-spm');
    const tokens = [...(metadata.get('tokenizer.ggml.tokens') as string[])];
    tokens[tokens.length - 1] = 'x'.repeat(70_000);
    metadata.set('tokenizer.ggml.tokens', tokens);
    expect(() => modelOf(metadata)).toThrow('70000 characters; the limit is 1024');
  });

  const withChanges = (changes: Readonly<Record<string, GgufValue | undefined>>): Map<string, GgufValue> => {
    const metadata = goldenMetadata('smollm');
    for (const [key, value] of Object.entries(changes)) {
      if (value === undefined) metadata.delete(`tokenizer.ggml.${key}`);
      else metadata.set(`tokenizer.ggml.${key}`, value);
    }
    return metadata;
  };

  it('takes end of turn and end of message for ends as well', () => {
    const model = modelOf(withChanges({ eot_token_id: 0, eom_token_id: 5 }));
    expect(model.eosTokenIds).toEqual([2, 0, 5]);
    expect(model.isSpecial(5)).toBe(true);
  });

  it('puts the beginning token first where the metadata or the family asks for it', () => {
    expect(modelOf(goldenMetadata('smollm')).addsBos).toBe(false);
    expect(modelOf(withChanges({ add_bos_token: true })).addsBos).toBe(true);
    expect(modelOf(goldenMetadata('llama-bpe')).addsBos).toBe(true);
    expect(modelOf(goldenMetadata('llama-spm')).addsBos).toBe(true);
    expect(modelOf(goldenMetadata('llama-spm')).encodeText('x', { addBos: true })[0]).toBe(1);
  });

  it.each<[string, Readonly<Record<string, GgufValue | undefined>>, string, RegExp]>([
    ['an unknown pre-tokenizer', { pre: 'tekken' }, 'architecture_unsupported', /x\.gguf.*"tekken".*smollm/],
    ['an unknown kind', { model: 'bert' }, 'architecture_unsupported', /x\.gguf.*"bert"/],
    ['no kind at all', { model: undefined }, 'architecture_unsupported', /x\.gguf/],
    ['missing tokens', { tokens: undefined }, 'checkpoint_invalid', /x\.gguf.*tokenizer\.ggml\.tokens/],
    ['types of another length', { token_type: Int32Array.of(1) }, 'checkpoint_invalid', /1 token types/],
    ['a merge of one token', { merges: ['ab'] }, 'checkpoint_invalid', /"ab" is not a merge/],
    ['missing scores', { model: 'llama', scores: undefined }, 'checkpoint_invalid', /0 scores/],
  ])('refuses %s', (_, changes, code, message) => {
    expect(() => tokenizerFilesFromGguf(withChanges(changes), 'x.gguf')).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});

describe('writeTokenizerFiles', () => {
  it('copies the files of a folder, and keeps the ends that only config.json names', async () => {
    const files = tokenizerFilesFromGguf(goldenMetadata('qwen2'), 'x');
    const from = temporaryFolder({
      'tokenizer.json': Buffer.from(JSON.stringify(files.tokenizer)),
      'config.json': Buffer.from(JSON.stringify({ eos_token_id: [2, 0], bos_token_id: 1 })),
      'tokenizer_config.json': Buffer.from(JSON.stringify({ chat_template: files.chatTemplate })),
      'model.safetensors': Buffer.from('weights'),
    });
    const to = join(temporaryFolder({}), 'a', 'b');
    await writeTokenizerFiles({ path: from }, to);
    const model = await TextModel.load(to);
    expect(model.eosTokenIds).toEqual([2, 0]);
    expect(model.hasChatTemplate).toBe(true);
    await expect(readFile(join(to, 'model.safetensors'))).rejects.toThrow('ENOENT');
  });

  it('adds the ids of config.json to a generation_config.json that names none', async () => {
    const files = tokenizerFilesFromGguf(goldenMetadata('qwen2'), 'x');
    const from = temporaryFolder({
      'tokenizer.json': Buffer.from(JSON.stringify(files.tokenizer)),
      'tokenizer_config.json': Buffer.from('{}'),
      'config.json': Buffer.from(JSON.stringify({ eos_token_id: [2, 0], bos_token_id: 1 })),
      'generation_config.json': Buffer.from(JSON.stringify({ temperature: 0.6, bos_token_id: 2 })),
    });
    const to = temporaryFolder({});
    await writeTokenizerFiles({ path: from }, to);
    const model = await TextModel.load(to);
    expect([model.eosTokenIds, model.bosTokenId]).toEqual([[2, 0], 2]);
    const written: unknown = JSON.parse(await readFile(join(to, 'generation_config.json'), 'utf8'));
    expect(written).toMatchObject({ temperature: 0.6 });
  });

  it('names the folder that has no tokenizer', async () => {
    const from = temporaryFolder({ 'config.json': Buffer.from('{}') });
    await expect(writeTokenizerFiles({ path: from }, temporaryFolder({}))).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining(from),
    });
  });
});
