/** Preparing whatever a path holds: a checkpoint is converted, a ready-made ONNX decoder only gets a folder that names it. */
import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { filesOfGraph, findOnnxGraph, folderOfGraph, readOnnxFacts } from './onnx-files.ts';
import { makeFolder } from './partial-folder.ts';
import { digestCheckpoint, requireDigest } from './prepare-digest.ts';
import { type PreparedPlace, type PrepareModelOptions, placeOfModel } from './prepare-model.ts';
import {
  MODEL_FILE,
  type OnnxManifest,
  type PreparedManifest,
  preparedFolder,
  readAnyManifest,
} from './prepared-model.ts';

export interface AnyPreparedModel {
  readonly dir: string;
  readonly manifest: PreparedManifest | OnnxManifest;
  /** The folder was there already. */
  readonly isReused: boolean;
}

/** As `prepareModel`, for ONNX decoders too; `weights` and `calibrate` say nothing about those. */
export async function prepareAny(options: PrepareModelOptions): Promise<AnyPreparedModel> {
  const { dir, found, make } = await placeOfAny(options);
  return { dir, manifest: found ?? (await make()), isReused: found !== undefined };
}

/** As `placeOfModel`, for ONNX decoders too. */
export async function placeOfAny(
  options: PrepareModelOptions,
): Promise<PreparedPlace<PreparedManifest | OnnxManifest>> {
  const graph = findOnnxGraph(options.checkpoint);
  return graph === undefined ? placeOfModel(options) : placeOfOnnx(graph, options);
}

async function placeOfOnnx(
  graph: string,
  options: PrepareModelOptions,
): Promise<PreparedPlace<PreparedManifest | OnnxManifest>> {
  const { cacheDir, signal, onProgress } = options;
  const facts = readOnnxFacts(graph);
  const files = filesOfGraph(graph);
  const whole = createHash('sha256');
  for (const file of [...files, folderOfGraph(graph)]) {
    const digest = await digestCheckpoint(file, {
      cacheDir,
      ...(signal && { signal }),
      ...(onProgress && { onProgress: (done: number, total: number) => onProgress({ phase: 'hash', done, total }) }),
    });
    whole.update(`${digest}\n`);
  }
  const sourceDigest = `sha256:${whole.digest('hex')}`;
  requireDigest(options.checkpoint, sourceDigest, options.expectedDigest);
  // the place counts too: the folder names it
  const digest = `sha256:${createHash('sha256').update(`${sourceDigest}\0onnx\0${graph}`).digest('hex')}`;
  const dir = preparedFolder(cacheDir, digest);
  const weightsBytes = files.reduce((sum, file) => sum + statSync(file).size, 0);
  const manifest: OnnxManifest = {
    formatVersion: 1,
    sourceDigest,
    digest,
    weightsBytes,
    onnx: { path: graph, ...facts },
  };
  const make = (): Promise<OnnxManifest> =>
    makeFolder(dir, async (partial) => {
      await writeFile(join(partial, MODEL_FILE), JSON.stringify(manifest));
      await options.writeTokenizer?.(partial);
      return manifest;
    });
  return { dir, found: findReady(dir), make };
}

/** Undefined when there is none, or one that is not whole (it is then made again). */
function findReady(dir: string): PreparedManifest | OnnxManifest | undefined {
  try {
    return readAnyManifest(dir);
  } catch {
    return undefined;
  }
}
