/**
 * Where pulled files lie. A finished folder holds `source.json`, written last; a folder becomes visible under its name by one
 * rename, so whatever has the name is whole. What is under way lies beside it in `<name>.partial`.
 */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { StvError } from '../../errors.ts';

const MANIFEST = 'source.json';
const LOCK_POLL_MS = 200;
const LOCK_TOUCH_MS = 2_000;
const LOCK_STALE_MS = 20_000;

export interface StoredFile {
  readonly name: string;
  readonly size: number;
  readonly sha256: string;
}

export interface SourceManifest {
  readonly format: 1;
  /** As `formatSource` writes it. */
  readonly source: string;
  /** What the source stood for when it was pulled, e.g. a commit. */
  readonly revision: string;
  /** The file to open, or undefined: the folder is the checkpoint. */
  readonly entry?: string;
  readonly files: readonly StoredFile[];
}

export interface StoredSource {
  /** The file or folder to open. */
  readonly path: string;
  /** `sha256:…` of the file, or of the names and hashes of the folder's files. */
  readonly hash: string;
}

/** The source in `folder` if it is whole: every file there with its size. */
export async function findStored(folder: string): Promise<StoredSource | undefined> {
  const manifest = await readManifest(folder);
  if (manifest === undefined) return undefined;
  for (const { name, size } of manifest.files) {
    const found = await stat(join(folder, name)).catch(() => undefined);
    if (found?.isFile() !== true || found.size !== size) return undefined;
  }
  return storedSource(folder, manifest);
}

async function readManifest(folder: string): Promise<SourceManifest | undefined> {
  try {
    const manifest: unknown = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8'));
    const isOurs = typeof manifest === 'object' && manifest !== null && 'format' in manifest && manifest.format === 1;
    return isOurs ? (manifest as SourceManifest) : undefined;
  } catch {
    return undefined;
  }
}

function storedSource(folder: string, manifest: SourceManifest): StoredSource {
  const { entry, files } = manifest;
  return { path: entry === undefined ? folder : join(folder, entry), hash: hashOf(files) };
}

function hashOf(files: readonly StoredFile[]): string {
  const [only] = files;
  if (only !== undefined && files.length === 1) return `sha256:${only.sha256}`;
  const hash = createHash('sha256');
  const byName = [...files].sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const { name, sha256 } of byName) hash.update(`${name}\0${sha256}\n`);
  return `sha256:${hash.digest('hex')}`;
}

export function partialFolder(folder: string): string {
  return `${folder}.partial`;
}

/** Makes the files in `partialFolder(folder)` the source `folder`, replacing a broken one. */
export async function publish(folder: string, manifest: SourceManifest): Promise<StoredSource> {
  const partial = partialFolder(folder);
  await writeFile(join(partial, MANIFEST), `${JSON.stringify(manifest, undefined, 2)}\n`);
  await rm(folder, { recursive: true, force: true });
  await rename(partial, folder);
  return storedSource(folder, manifest);
}

/** Adds a file's content to `hash`. */
export async function hashInto(hash: Hash, path: string, signal: AbortSignal | undefined): Promise<void> {
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, ...(signal && { signal }) })) {
    hash.update(chunk as Buffer);
  }
}

/** Lower-case hex. */
export async function sha256File(path: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash('sha256');
  await hashInto(hash, path, signal);
  return hash.digest('hex');
}

/**
 * Runs `work` while holding `<folder>.lock`, so that two servers on one data folder do not write the same partial file. Whoever
 * holds the lock touches it; one that was not touched for long belongs to a process that died (process ids prove
 * nothing: in a container they are all 1).
 */
export async function withSourceLock<T>(
  folder: string,
  signal: AbortSignal | undefined,
  work: () => Promise<T>,
): Promise<T> {
  const path = `${folder}.lock`;
  await mkdir(dirname(folder), { recursive: true });
  for (;;) {
    signal?.throwIfAborted();
    try {
      await (await open(path, 'wx')).close();
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const touched = (await stat(path).catch(() => undefined))?.mtimeMs;
    if (touched !== undefined && Date.now() - touched > LOCK_STALE_MS) await rm(path, { force: true });
    else await sleep(LOCK_POLL_MS, undefined, signal === undefined ? {} : { signal });
  }
  const touch = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => undefined);
  }, LOCK_TOUCH_MS);
  touch.unref();
  try {
    return await work();
  } finally {
    clearInterval(touch);
    await rm(path, { force: true });
  }
}

/** Says what went wrong while `source` was fetched: a full disk and a cancelled pull have codes of their own. */
export function pullError(source: string, thrown: unknown, signal: AbortSignal | undefined): StvError {
  if (thrown instanceof StvError) return thrown;
  if (signal?.aborted === true) {
    return new StvError('cancelled', `The download of ${source} was cancelled.`, { cause: thrown });
  }
  const code = thrown instanceof Error && 'code' in thrown ? thrown.code : undefined;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new StvError('disk_full', `The disk is full: ${source} could not be stored.`, { cause: thrown });
  }
  const reason = thrown instanceof Error ? innermost(thrown) : String(thrown);
  return new StvError('download_failed', `${source} could not be downloaded: ${reason.replace(/\.$/u, '')}.`, {
    cause: thrown,
  });
}

/** `fetch failed` says nothing; its cause does. */
function innermost(error: Error): string {
  return error.cause instanceof Error ? innermost(error.cause) : error.message;
}
