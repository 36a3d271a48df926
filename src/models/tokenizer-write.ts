/** The tokenizer files of a checkpoint, put beside its prepared graph: copied from a folder, or made from a GGUF file. */
import { constants, existsSync } from 'node:fs';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StvError } from '../errors.ts';
import { readGguf } from './gguf.ts';
import { tokenizerFilesFromGguf } from './gguf-tokenizer.ts';
import { findOnnxGraph, folderOfGraph } from './onnx-files.ts';
import { findGguf } from './open-checkpoint.ts';
import { readTokenizerFiles } from './tokenizer-files.ts';

/** Every file of a checkpoint that `TextModel.load` looks at. */
const TOKENIZER_FILES: readonly string[] = [
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'generation_config.json',
];

/**
 * Writes the tokenizer files of `checkpoint.path` (a folder, a GGUF file, or a graph in or below its folder) into `folder`, which is
 * made if it is missing. A folder with a GGUF file and no tokenizer.json has the tokenizer of that file. Throws StvError
 * `checkpoint_invalid`, `architecture_unsupported` or `disk_full`.
 */
export async function writeTokenizerFiles(checkpoint: { readonly path: string }, folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
    const graph = findOnnxGraph(checkpoint.path);
    const path = graph === undefined ? checkpoint.path : folderOfGraph(graph);
    const isCopied = graph !== undefined || existsSync(join(path, 'tokenizer.json'));
    const gguf = isCopied ? undefined : findGguf(path);
    if (gguf === undefined) await copyTokenizerFiles(path, folder);
    else await writeFromGguf(gguf, folder);
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')) {
      throw new StvError('disk_full', `${folder}: the disk is full; the tokenizer could not be written.`, {
        cause: error,
      });
    }
    throw error;
  }
}

async function copyTokenizerFiles(from: string, to: string): Promise<void> {
  // reads them all first: a folder without a usable tokenizer is refused before anything is written
  const files = await readTokenizerFiles(from);
  for (const name of TOKENIZER_FILES) {
    try {
      await copyFile(join(from, name), join(to, name), constants.COPYFILE_FICLONE);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
    }
  }
  // ids of config.json, which stays behind, matter where generation_config.json does not say otherwise
  const { generationConfig = {}, modelConfig = {} } = files;
  const missing = ['bos_token_id', 'eos_token_id'].filter(
    (name) => (generationConfig[name] ?? null) === null && (modelConfig[name] ?? null) !== null,
  );
  if (missing.length === 0) return;
  await writeJson(join(to, 'generation_config.json'), {
    ...generationConfig,
    ...Object.fromEntries(missing.map((name) => [name, modelConfig[name]])),
  });
}

async function writeFromGguf(path: string, folder: string): Promise<void> {
  const files = tokenizerFilesFromGguf(readGguf(path).metadata, path);
  await writeJson(join(folder, 'tokenizer.json'), files.tokenizer);
  await writeJson(join(folder, 'tokenizer_config.json'), files.tokenizerConfig);
  await writeJson(join(folder, 'generation_config.json'), files.generationConfig ?? {});
  if (files.chatTemplate !== undefined) await writeFile(join(folder, 'chat_template.jinja'), files.chatTemplate);
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(path, JSON.stringify(value));
}
