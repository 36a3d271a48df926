/** What a path may lead to, from the path to the folder of the prepared model, as loading goes. */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { findInFolders, listFolders } from '../../../src/models/model-folders.ts';
import { prepareAny } from '../../../src/models/prepare-any.ts';
import { pull } from '../../../src/models/pull.ts';
import { TextModel } from '../../../src/models/text-model.ts';
import { writeTokenizerFiles } from '../../../src/models/tokenizer-write.ts';
import { goldenGgufPath, goldenPath } from '../../support/goldens.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { tinyModel } from '../../support/tiny-onnx.ts';

const GRAPH = tinyModel({ inputs: [], outputs: [], nodes: [] });

/** The prepared folder's tokenizer, and where its weights were found. */
async function load(source: string) {
  const cacheDir = temporaryFolder();
  const pulled = await pull(source, { cacheDir });
  const { dir, manifest } = await prepareAny({
    checkpoint: pulled.path,
    cacheDir,
    weights: 'int8',
    writeTokenizer: (folder) => writeTokenizerFiles(pulled, folder),
  });
  return { pulled, manifest, text: await TextModel.load(dir) };
}

function put(golden: string, folder: string, name = path.basename(golden)): string {
  copyFileSync(golden, path.join(folder, name));
  return path.join(folder, name);
}

describe('a folder that holds only a GGUF file', () => {
  it('is loaded as that file, and under the name that it is listed by', async () => {
    const models = temporaryFolder();
    const folder = path.join(models, 'alone');
    mkdirSync(folder);
    const file = put(goldenGgufPath('tiny-llama'), folder);
    const { pulled, text } = await load(folder);
    expect(pulled.path).toBe(file);
    expect(text.encodeText('a step')).toEqual((await load(file)).text.encodeText('a step'));
    expect(await listFolders([models])).toContainEqual({ name: 'alone', kind: 'checkpoint' });
    const { pack } = await findInFolders('alone', [models]);
    expect((await pull(pack.roles.generator.source, { cacheDir: temporaryFolder() })).path).toBe(file);
  });

  it('has the tokenizer of that file too where it has a config.json but no tokenizer.json', async () => {
    const folder = temporaryFolder();
    const file = put(goldenGgufPath('tiny-llama'), folder);
    put(goldenPath('tiny-llama', 'config.json'), folder);
    const { pulled, text } = await load(folder);
    expect(pulled.path).toBe(folder);
    expect(text.encodeText('a step')).toEqual((await load(file)).text.encodeText('a step'));
  });

  it('has to hold one, which would be named otherwise', async () => {
    const folder = temporaryFolder();
    for (const name of ['a.gguf', 'b.gguf']) put(goldenGgufPath('tiny-llama'), folder, name);
    await expect(load(folder)).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining('2 GGUF files; name one of them'),
    });
  });

  it('is no such folder with safetensors, which are nothing without config.json', async () => {
    const folder = temporaryFolder({ 'model.safetensors': '' });
    put(goldenGgufPath('tiny-llama'), folder);
    await expect(load(folder)).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining('config.json'),
    });
  });
});

describe('the path of a graph', () => {
  it.each(['model.onnx', 'onnx/model.onnx'])('is loaded with the tokenizer of its folder: %s', async (name) => {
    const folder = temporaryFolder({});
    mkdirSync(path.join(folder, 'onnx'));
    for (const file of ['config.json', 'tokenizer.json', 'tokenizer_config.json'])
      put(goldenPath('tiny-llama', file), folder);
    const graph = path.join(folder, name);
    writeFileSync(graph, GRAPH);
    const { manifest, text } = await load(graph);
    expect(manifest).toMatchObject({ onnx: { path: graph } });
    expect(text.encodeText('a step')).toEqual((await load(folder)).text.encodeText('a step'));
  });

  it('has genai_config.json beside it in place of config.json', async () => {
    const models = temporaryFolder();
    const folder = path.join(models, 'genai');
    mkdirSync(folder);
    for (const file of ['tokenizer.json', 'tokenizer_config.json']) put(goldenPath('tiny-llama', file), folder);
    const write = (length: number): void =>
      writeFileSync(
        path.join(folder, 'genai_config.json'),
        JSON.stringify({ model: { vocab_size: 288, context_length: length } }),
      );
    write(64);
    const graph = path.join(folder, 'model.onnx');
    writeFileSync(graph, GRAPH);
    const { manifest, text } = await load(graph);
    expect(manifest).toMatchObject({ onnx: { path: graph, vocabSize: 288, maxPositionEmbeddings: 64 } });
    expect(text.encodeText('a step')).toEqual((await load(folder)).text.encodeText('a step'));
    expect(await listFolders([models])).toContainEqual({ name: 'genai', kind: 'checkpoint' });
    write(32);
    expect((await load(graph)).manifest.sourceDigest).not.toBe(manifest.sourceDigest);
  });
});
