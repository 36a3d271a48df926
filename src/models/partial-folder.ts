/**
 * The folder of a prepared model appears whole or not at all: it is written beside its place under a name of its own and renamed.
 * Knows those names, whose they are, and when what lies under one is nobody's any more; what is written is the caller's, and is on
 * the disk before the rename.
 */
import { randomUUID } from 'node:crypto';
import { readlinkSync } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { StvError } from '../errors.ts';
import { readAnyManifest } from './prepared-model.ts';

const PARTIAL = '.partial';
/**
 * `<namespace>.<pid>-<uuid>` after the host's name, which may itself go on with a dash and digits. Names that older versions gave
 * have no namespace.
 */
const OWNER = /^(?:(?<namespace>\d+)\.)?(?<pid>\d+)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:-replaced)?$/u;
/** A partial folder of another machine on a shared disk is left alone for this long, and one of a pid that another process may have by now. */
const FOREIGN_PARTIAL_MS = 24 * 3600 * 1000;
/** Who makes a folder touches it this often, … */
const TOUCH_MS = 5_000;
/** … unless its thread is held up: one call of the runtime may take a minute. */
const STALE_MS = 2 * 60 * 1000;
/** Containers of one host name on a shared disk do not see each other's processes, and a pid of one says nothing in another. */
const NAMESPACE = pidNamespace();
const DISK_FULL_CODES: readonly unknown[] = ['ENOSPC', 'EDQUOT', 'EFBIG'];

/** Names of what this process writes at this moment: where there are no namespaces, a killed process may have had its pid. */
const underWay = new Set<string>();

/** How the names of a process's partial folders go on after `.partial-`; a UUID follows. */
export function ownerOf(pid: number): string {
  return `${hostname()}-${NAMESPACE}.${pid}`;
}

function pidNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid').replace(/\D/gu, '');
  } catch {
    return '0'; // one for the whole machine
  }
}

/** Makes the folder of a prepared model, whole or not at all. Throws StvError `disk_full` and what `write` throws. */
export async function makeFolder<Manifest>(
  dir: string,
  write: (partial: string) => Promise<Manifest>,
): Promise<Manifest> {
  const cacheDir = dirname(dir);
  const partial = `${dir}${PARTIAL}-${ownerOf(process.pid)}-${randomUUID()}`;
  underWay.add(basename(partial));
  const touch = setInterval(() => {
    const now = new Date();
    utimes(partial, now, now).catch(() => undefined);
  }, TOUCH_MS);
  touch.unref();
  try {
    await mkdir(partial, { recursive: true });
    await removeAbandoned(cacheDir);
    const manifest = await write(partial);
    await flushFolder(partial);
    await putInPlace(partial, dir);
    return manifest;
  } catch (thrown) {
    await rm(partial, { recursive: true, force: true });
    if (!DISK_FULL_CODES.includes((thrown as NodeJS.ErrnoException).code)) throw thrown;
    const message = `The disk is full: the prepared model does not fit into "${cacheDir}".`;
    throw new StvError('disk_full', message, { cause: thrown });
  } finally {
    clearInterval(touch);
    underWay.delete(basename(partial));
  }
}

/** A rename can outlive a loss of power that the content of the files does not. */
async function flushFolder(folder: string): Promise<void> {
  for (const name of await readdir(folder)) await flush(join(folder, name));
  // not every file system can do that with a folder
  await flush(folder).catch(() => undefined);
}

async function flush(path: string): Promise<void> {
  // Windows flushes only what is open for writing; a copy of a file may be read-only elsewhere
  const file = await open(path, process.platform === 'win32' ? 'r+' : 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
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
  const { namespace, pid } = OWNER.exec(owner)?.groups ?? {};
  if (pid === undefined) return isOlderThan(path, FOREIGN_PARTIAL_MS);
  // of the container before this one, or at this moment of another with its host name
  if (namespace !== NAMESPACE || Number(pid) === process.pid) return isOlderThan(path, STALE_MS);
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
