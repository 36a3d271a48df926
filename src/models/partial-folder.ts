/**
 * The folder of a prepared model appears whole or not at all: it is written beside its place under a name of its own and renamed.
 * Knows those names, whose they are, and when what lies under one is nobody's any more; what is written is the caller's.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { StvError } from '../errors.ts';
import { readAnyManifest } from './prepared-model.ts';

const PARTIAL = '.partial';
/** `<pid>-<uuid>` after the host's name, which may itself go on with a dash and digits. */
const OWNER = /^(?<pid>\d+)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:-replaced)?$/u;
/** A partial folder of another machine on a shared disk is left alone for this long, and one of a pid that another process may have by now. */
const FOREIGN_PARTIAL_MS = 24 * 3600 * 1000;
/** A conversion that lives writes more often than this. */
const STALE_MS = 10 * 60 * 1000;
const DISK_FULL_CODES: readonly unknown[] = ['ENOSPC', 'EDQUOT', 'EFBIG'];

/** Names of what this process writes at this moment: a container has the host's name and the pid of the killed one before it. */
const underWay = new Set<string>();

/** Makes the folder of a prepared model, whole or not at all. Throws StvError `disk_full` and what `write` throws. */
export async function makeFolder<Manifest>(
  dir: string,
  write: (partial: string) => Promise<Manifest>,
): Promise<Manifest> {
  const cacheDir = dirname(dir);
  const partial = `${dir}${PARTIAL}-${hostname()}-${process.pid}-${randomUUID()}`;
  underWay.add(basename(partial));
  try {
    await mkdir(partial, { recursive: true });
    await removeAbandoned(cacheDir);
    const manifest = await write(partial);
    await putInPlace(partial, dir);
    return manifest;
  } catch (thrown) {
    await rm(partial, { recursive: true, force: true });
    if (!DISK_FULL_CODES.includes((thrown as NodeJS.ErrnoException).code)) throw thrown;
    const message = `The disk is full: the prepared model does not fit into "${cacheDir}".`;
    throw new StvError('disk_full', message, { cause: thrown });
  } finally {
    underWay.delete(basename(partial));
  }
}

function isWhole(dir: string): boolean {
  try {
    readAnyManifest(dir);
    return true;
  } catch {
    return false;
  }
}

/** Renames; when another process was first, its folder stays unless it is not whole. */
async function putInPlace(partial: string, dir: string): Promise<void> {
  try {
    await rename(partial, dir);
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw thrown;
    if (isWhole(dir)) {
      await rm(partial, { recursive: true, force: true });
      return;
    }
    const damaged = `${partial}-replaced`;
    await rename(dir, damaged);
    await rename(partial, dir);
    await rm(damaged, { recursive: true, force: true });
  }
}

/** Removes what killed processes of this machine left half-written. */
async function removeAbandoned(cacheDir: string): Promise<void> {
  for (const name of await readdir(cacheDir)) {
    const path = join(cacheDir, name);
    if (!name.includes(PARTIAL) || !(await isAbandoned(name, path))) continue;
    await rm(path, { recursive: true, force: true }).catch(() => {}); // another user's
  }
}

async function isAbandoned(name: string, path: string): Promise<boolean> {
  if (underWay.has(name)) return false;
  const [, owner = ''] = name.split(`${PARTIAL}-${hostname()}-`);
  const pid = OWNER.exec(owner)?.groups?.['pid'];
  if (pid === undefined) return isOlderThan(path, FOREIGN_PARTIAL_MS);
  // the pid of this process: the one before it in its container, or at this moment one in another of the same host name
  if (Number(pid) === process.pid) return isOlderThan(path, STALE_MS);
  return !isRunning(Number(pid)) || isOlderThan(path, FOREIGN_PARTIAL_MS);
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Whether nothing in the folder has been written for so long. */
async function isOlderThan(path: string, ms: number): Promise<boolean> {
  try {
    const files = (await readdir(path)).map((name) => join(path, name));
    const times = await Promise.all([path, ...files].map(async (file) => (await stat(file)).mtimeMs));
    return Date.now() - Math.max(...times) > ms;
  } catch {
    return false; // gone already
  }
}
