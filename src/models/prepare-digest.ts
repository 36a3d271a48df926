/**
 * Content hash of a checkpoint's files. Hashing is slow beside a start, so a hash is remembered with the size and the time of
 * change of its file; whoever edits a file and sets all of these back has asked for the old answer.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, realpath, rename, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { StvError } from '../errors.ts';

const MEMORY_FILE = 'hashes.json';
/** Files of a checkpoint's folder that decide what the model computes or how its text is read. */
const RELEVANT = /(?:\.gguf|\.safetensors|\.safetensors\.index\.json|\.jinja|^merges\.txt|^tokenizer\.model)$/u;
const RELEVANT_NAMES = new Set([
  'config.json',
  'genai_config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
]);

interface RememberedHash {
  readonly size: number;
  /** Nanoseconds, as a decimal string. */
  readonly changed: string;
  readonly sha256: string;
}

export interface DigestOptions {
  /** Where hashes are remembered. */
  readonly cacheDir: string;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Throws StvError `checkpoint_invalid` when a hash was named, by a pack, and the checkpoint's is another. */
export function requireDigest(path: string, digest: string, expected: string | undefined): void {
  if (expected === undefined || digest === expected) return;
  throw new StvError(
    'checkpoint_invalid',
    `Checkpoint "${path}" has the hash ${digest}, but its pack names ${expected}.`,
  );
}

/** `sha256:…` of a file, or of the names and hashes of a folder's relevant files. Throws StvError `checkpoint_invalid`. */
export async function digestCheckpoint(path: string, options: DigestOptions): Promise<string> {
  const files = await checkpointFiles(path);
  const memory = await recall(options.cacheDir);
  const known = new Map<string, string>();
  const unknown: { readonly file: string; readonly fresh: Omit<RememberedHash, 'sha256'> }[] = [];
  for (const file of files) {
    const { size, mtimeNs, ctimeNs } = await stat(file, { bigint: true }).catch((cause: unknown) => {
      // a link to what has been deleted, for one
      throw new StvError('checkpoint_invalid', `Checkpoint file "${file}" cannot be read.`, { cause });
    });
    const fresh = { size: Number(size), changed: `${mtimeNs}/${ctimeNs}` };
    const remembered = memory[file];
    if (remembered?.size === fresh.size && remembered.changed === fresh.changed) known.set(file, remembered.sha256);
    else unknown.push({ file, fresh });
  }
  const total = unknown.reduce((sum, { fresh }) => sum + fresh.size, 0);
  let done = 0;
  const found: Record<string, RememberedHash> = {};
  for (const { file, fresh } of unknown) {
    const before = done;
    const sha256 = await hashFile(file, options.signal, (bytes) => options.onProgress?.(before + bytes, total));
    done += fresh.size;
    known.set(file, sha256);
    found[file] = { ...fresh, sha256 };
  }
  if (unknown.length > 0) await remember(options.cacheDir, found);
  if (files.length === 1) return `sha256:${known.get(files[0] ?? '')}`;
  const whole = createHash('sha256');
  for (const file of files) whole.update(`${basename(file)}\0${known.get(file)}\n`);
  return `sha256:${whole.digest('hex')}`;
}

async function checkpointFiles(path: string): Promise<readonly string[]> {
  try {
    const real = await realpath(path);
    if (!(await stat(real)).isDirectory()) return [real];
    const names = (await readdir(real)).filter((name) => RELEVANT.test(name) || RELEVANT_NAMES.has(name)).sort();
    return names.map((name) => join(real, name));
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    throw new StvError('checkpoint_invalid', `Checkpoint "${path}" cannot be read (${code}).`, { cause });
  }
}

async function hashFile(
  file: string,
  signal: AbortSignal | undefined,
  onProgress: (done: number) => void,
): Promise<string> {
  const hash = createHash('sha256');
  let done = 0;
  try {
    for await (const bytes of createReadStream(file, { highWaterMark: 1 << 20, ...(signal && { signal }) })) {
      hash.update(bytes as Uint8Array);
      done += (bytes as Uint8Array).length;
      onProgress(done);
    }
  } catch (cause) {
    if (signal?.aborted) throw new StvError('cancelled', 'Preparing the model was cancelled.', { cause });
    throw new StvError('checkpoint_invalid', `Checkpoint file "${file}" cannot be read to its end.`, { cause });
  }
  return hash.digest('hex');
}

/** Anything unreadable counts as forgotten. */
async function recall(cacheDir: string): Promise<Readonly<Record<string, RememberedHash | undefined>>> {
  try {
    const memory: unknown = JSON.parse(await readFile(join(cacheDir, MEMORY_FILE), 'utf8'));
    return typeof memory === 'object' && memory !== null ? (memory as Record<string, RememberedHash>) : {};
  } catch {
    return {};
  }
}

/** Best effort: when two processes write at once one of them hashes again next time. */
async function remember(cacheDir: string, found: Readonly<Record<string, RememberedHash>>): Promise<void> {
  const temporary = join(cacheDir, `${MEMORY_FILE}.${process.pid}`);
  try {
    await mkdir(cacheDir, { recursive: true });
    await writeFile(temporary, JSON.stringify({ ...(await recall(cacheDir)), ...found }));
    await rename(temporary, join(cacheDir, MEMORY_FILE));
  } catch {
    // a cache that cannot be written costs time, and the folder that matters reports its own failure
  }
}
