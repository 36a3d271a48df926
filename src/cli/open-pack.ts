/** From what `--pack` names to a pack: a bundled one, a pack folder, or a bare checkpoint with the default prompts. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { BUNDLED_PACKS, loadPack, type Pack, packFromCheckpoint } from '../models/pack.ts';

export async function openPack(name: string): Promise<Pack> {
  if (/^[\w.-]+$/.test(name)) {
    const bundled = path.join(BUNDLED_PACKS, name);
    if (existsSync(path.join(bundled, 'pack.json'))) return loadPack(bundled);
  }
  const folder = path.resolve(name);
  if (existsSync(path.join(folder, 'pack.json'))) return loadPack(folder);
  return packFromCheckpoint(name);
}
