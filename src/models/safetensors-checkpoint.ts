/** A Hugging Face folder (config.json and one or several safetensors files) as a `Checkpoint`. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { BlockQuantized, Checkpoint, TensorInfo } from './checkpoint.ts';
import { checkpointInvalid } from './checkpoint-file.ts';
import type { ModelConfig } from './model-config.ts';
import { readModelConfig } from './model-config-json.ts';
import { openSafetensors, type Safetensors, type SafetensorsTensor } from './safetensors.ts';

const INDEX_NAME = 'model.safetensors.index.json';
const MAX_INDEX_BYTES = 64 << 20;

/** Throws StvError `checkpoint_invalid` or `architecture_unsupported` that names the file. */
export function openSafetensorsCheckpoint(folder: string): Checkpoint {
  const config = readModelConfig(folder);
  const files: Safetensors[] = [];
  try {
    const tensors = new Map<string, StoredTensor>();
    for (const { path, names } of findShards(folder)) {
      const file = openSafetensors(path);
      files.push(file);
      for (const name of names ?? file.tensors.keys()) {
        const tensor = file.tensors.get(name);
        if (tensor === undefined) {
          throw checkpointInvalid(path, `tensor "${name}", which ${INDEX_NAME} places in this file, is missing.`);
        }
        tensors.set(name, { name, dtype: tensor.dtype, shape: tensor.shape, tensor, file });
      }
    }
    return new SafetensorsCheckpoint(folder, { config, tensors, files });
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

interface StoredTensor extends TensorInfo {
  readonly tensor: SafetensorsTensor;
  readonly file: Safetensors;
}

class SafetensorsCheckpoint implements Checkpoint {
  readonly path: string;
  readonly format = 'safetensors';
  readonly config: ModelConfig;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly #files: readonly Safetensors[];

  constructor(
    path: string,
    parts: {
      readonly config: ModelConfig;
      readonly tensors: ReadonlyMap<string, StoredTensor>;
      readonly files: readonly Safetensors[];
    },
  ) {
    this.path = path;
    this.config = parts.config;
    this.tensors = parts.tensors;
    this.#files = parts.files;
  }

  readFloat32(name: string): Float32Array {
    const { file, tensor } = this.#stored(name);
    return file.readFloat32(tensor);
  }

  /** The floats of safetensors have no blocks. */
  readBlocks(name: string): BlockQuantized | undefined {
    this.#stored(name);
    return undefined;
  }

  close(): void {
    for (const file of this.#files) file.close();
  }

  #stored(name: string): StoredTensor {
    const stored = this.tensors.get(name);
    if (stored === undefined) throw checkpointInvalid(this.path, `tensor "${name}" is missing.`);
    return stored;
  }
}

interface Shard {
  readonly path: string;
  /** The tensors that the index places there; without an index all of the file. */
  readonly names?: readonly string[];
}

function findShards(folder: string): readonly Shard[] {
  const single = join(folder, 'model.safetensors');
  if (existsSync(single)) return [{ path: single }];
  if (existsSync(join(folder, INDEX_NAME))) return readIndex(folder);
  const names = readdirSync(folder).filter((name) => name.endsWith('.safetensors'));
  const [only] = names;
  if (only === undefined) throw checkpointInvalid(folder, 'the folder holds no safetensors file.');
  if (names.length > 1) {
    throw checkpointInvalid(folder, `the folder holds ${names.length} safetensors files but no ${INDEX_NAME}.`);
  }
  return [{ path: join(folder, only) }];
}

function readIndex(folder: string): readonly Shard[] {
  const path = join(folder, INDEX_NAME);
  const size = statSync(path).size;
  if (size > MAX_INDEX_BYTES) throw checkpointInvalid(path, `it has ${size} bytes; the limit is ${MAX_INDEX_BYTES}.`);
  let weightMap: unknown;
  try {
    weightMap = (JSON.parse(readFileSync(path, 'utf8')) as { weight_map?: unknown } | null)?.weight_map;
  } catch (error) {
    throw checkpointInvalid(path, 'it is not valid JSON.', error);
  }
  if (typeof weightMap !== 'object' || weightMap === null || Array.isArray(weightMap)) {
    throw checkpointInvalid(path, 'it has no "weight_map" object.');
  }
  const namesByFile = new Map<string, string[]>();
  for (const [name, file] of Object.entries(weightMap)) {
    // a plain name in this folder and nothing else: an index must not point anywhere else on the disk
    if (typeof file !== 'string' || !/^[^/\\]+\.safetensors$/.test(file)) {
      throw checkpointInvalid(
        path,
        `it places tensor "${name}" in a file that is not a safetensors file of this folder.`,
      );
    }
    const names = namesByFile.get(file) ?? [];
    names.push(name);
    namesByFile.set(file, names);
  }
  if (namesByFile.size === 0) throw checkpointInvalid(path, 'its "weight_map" is empty.');
  return [...namesByFile].map(([file, names]) => ({ path: join(folder, file), names }));
}
