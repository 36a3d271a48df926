/**
 * Names of packs and checkpoints below folders that an operator has set aside. A name is looked up, never opened as a path: nothing
 * outside the folders can be reached with one, neither through a link on the way nor through one inside a model's own folder.
 */
import { existsSync } from 'node:fs';
import { readdir, realpath, stat } from 'node:fs/promises';
import { basename, delimiter, isAbsolute, join, relative, sep } from 'node:path';
import { StvError } from '../errors.ts';
import { GENAI_CONFIG } from './onnx-files.ts';
import { BUNDLED_PACKS, loadPack, type Pack, packFromCheckpoint } from './pack.ts';

const NAME = /^[A-Za-z0-9][\w.-]{0,99}(?:\/[A-Za-z0-9][\w.-]{0,99}){0,3}$/u;
const MAX_LISTED = 1000;
/** What a folder of a model may hold in all; the largest have some hundred shards of weights. */
const MAX_FILES = 10_000;

export interface FoundPack {
  readonly pack: Pack;
  /** A checkpoint without a pack: its pack has default prompts. */
  readonly isBare: boolean;
}

export interface AvailableModel {
  readonly name: string;
  readonly kind: 'pack' | 'checkpoint';
}

/** The folders that the configuration sets aside: those it names, else `packs` in the data folder. */
export function modelFoldersOf(config: {
  readonly modelFolders?: string | undefined;
  readonly dataDir: string;
}): readonly string[] {
  if (config.modelFolders === undefined) return [join(config.dataDir, 'packs')];
  return config.modelFolders.split(delimiter).filter((folder) => folder !== '');
}

/**
 * The pack or checkpoint of that name: in the first folder that has one, else among the bundled packs. Throws StvError
 * `invalid_value` for what is not a name, `model_not_found`, `model_load_failed` for files that lead out of the folders, or what
 * is wrong with the pack.
 */
export async function findInFolders(name: string, folders: readonly string[]): Promise<FoundPack> {
  if (!NAME.test(name)) {
    throw new StvError(
      'invalid_value',
      'name must be a name below the model folders: 1 to 4 parts of letters, digits, `.`, `_` and `-` with `/` between, none beginning with a dot.',
      { param: 'name' },
    );
  }
  for (const folder of folders) {
    const path = await resolveBelow(folder, name);
    const kind = path === undefined ? undefined : await kindOf(path);
    if (path === undefined || kind === undefined) continue;
    await refuseWaysOut(path, folders);
    return kind === 'pack'
      ? { pack: await loadPack(path), isBare: false }
      : { pack: await packFromCheckpoint(path), isBare: true };
  }
  if (!name.includes('/') && existsSync(join(BUNDLED_PACKS, name, 'pack.json'))) {
    return { pack: await loadPack(join(BUNDLED_PACKS, name)), isBare: false };
  }
  throw new StvError('model_not_found', 'The model folders hold no pack and no checkpoint of this name.', {
    param: 'name',
  });
}

/** What lies directly in the folders, by name; of equal names the one that would be loaded. */
export async function listFolders(folders: readonly string[]): Promise<readonly AvailableModel[]> {
  const found = new Map<string, AvailableModel>();
  for (const folder of [...folders, BUNDLED_PACKS]) {
    const names = await readdir(folder).catch(() => []);
    for (const name of names.sort()) {
      if (found.size >= MAX_LISTED) return [...found.values()];
      if (!NAME.test(name) || found.has(name)) continue;
      const path = await resolveBelow(folder, name);
      const kind = path === undefined ? undefined : await kindOf(path);
      // the default prompts are parts of packs, not one
      if (kind === undefined || (folder === BUNDLED_PACKS && name === 'default-prompts')) continue;
      found.set(name, { name, kind });
    }
  }
  return [...found.values()];
}

async function resolveBelow(folder: string, name: string): Promise<string | undefined> {
  try {
    const root = await realpath(folder);
    const target = await realpath(join(root, name));
    return isBelow(root, target) ? target : undefined;
  } catch {
    return undefined;
  }
}

/** Both are real paths. */
function isBelow(root: string, target: string): boolean {
  const way = relative(root, target);
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

/**
 * Whatever lies in the folder of a model may be read, so none of it may be a link to what lies outside of all folders. Throws
 * StvError `model_load_failed`, which does not tell where a link leads.
 */
async function refuseWaysOut(path: string, folders: readonly string[]): Promise<void> {
  const found = await Promise.all(folders.map((folder) => realpath(folder).catch(() => undefined)));
  const roots = found.filter((root) => root !== undefined);
  const seen = new Set<string>();
  const refuse = (name: string, why: string): never => {
    throw new StvError('model_load_failed', `The model cannot be loaded: ${name} in its folder ${why}.`);
  };
  const look = async (each: string): Promise<void> => {
    const name = relative(path, each) || basename(each);
    const target = await realpath(each).catch(() => refuse(name, 'leads to nothing'));
    if (!roots.some((root) => target === root || isBelow(root, target))) refuse(name, 'leads out of the model folders');
    if (seen.has(target)) return;
    seen.add(target);
    if (seen.size > MAX_FILES) refuse(name, `is one of more than ${MAX_FILES} files`);
    if (!(await stat(target)).isDirectory()) return;
    for (const entry of await readdir(target)) await look(join(each, entry));
  };
  await look(path);
}

/** Undefined for what is no model, or cannot be looked into: it may be another user's. */
async function kindOf(path: string): Promise<AvailableModel['kind'] | undefined> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile()) return path.endsWith('.gguf') ? 'checkpoint' : undefined;
  if (!found?.isDirectory()) return undefined;
  const names = await readdir(path).catch((): string[] => []);
  if (names.includes('pack.json')) return 'pack';
  const isCheckpoint = names.some((each) => each.endsWith('.gguf') || each === 'config.json' || each === GENAI_CONFIG);
  return isCheckpoint ? 'checkpoint' : undefined;
}
