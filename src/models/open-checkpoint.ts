/** Which reader a path calls for. */
import { readdirSync, type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Checkpoint } from './checkpoint.ts';
import { checkpointInvalid } from './checkpoint-file.ts';
import { openGgufCheckpoint } from './gguf-checkpoint.ts';
import { openSafetensorsCheckpoint } from './safetensors-checkpoint.ts';

/**
 * Opens a `.gguf` file, a folder that holds exactly one, or a Hugging Face folder with `config.json` and safetensors (one file,
 * or several with `model.safetensors.index.json`). Reads headers only; close it when done. Throws StvError
 * `checkpoint_invalid` or `architecture_unsupported` that names the file.
 */
export function openCheckpoint(path: string): Checkpoint {
  const ggufPath = findGguf(path);
  return ggufPath === undefined ? openSafetensorsCheckpoint(path) : openGgufCheckpoint(ggufPath);
}

/** The GGUF file that `path` is or that its folder holds; undefined when the path is a Hugging Face folder. Throws as above. */
export function findGguf(path: string): string | undefined {
  let stat: Stats | undefined;
  try {
    stat = statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw checkpointInvalid(path, 'the path cannot be read.', error);
  }
  if (stat === undefined) throw checkpointInvalid(path, 'there is no such file or folder.');
  if (!stat.isDirectory()) {
    if (path.endsWith('.gguf')) return path;
    throw checkpointInvalid(path, 'it is neither a folder nor a .gguf file.');
  }
  const names = readdirSync(path);
  if (names.some((name) => name.endsWith('.safetensors') || name === 'model.safetensors.index.json')) return undefined;
  const ggufNames = names.filter((name) => name.endsWith('.gguf'));
  if (ggufNames.length > 1) {
    throw checkpointInvalid(path, `the folder holds ${ggufNames.length} GGUF files; name one of them.`);
  }
  const [only] = ggufNames;
  if (only !== undefined) return join(path, only);
  if (names.includes('config.json')) {
    throw checkpointInvalid(path, 'the folder holds a config.json but no safetensors or GGUF file with weights.');
  }
  throw checkpointInvalid(path, 'the folder holds neither safetensors nor a GGUF file.');
}
