/** One file over HTTP into `<path>.part`, then to `path`: goes on where it was cut, and only what has the right hash gets the name. */
import { createHash, type Hash } from 'node:crypto';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { StvError } from '../../errors.ts';
import { hashInto, sha256File } from './source-cache.ts';

/** What a file must be. `gitBlob`: SHA-1 of git's blob object, which small files of a repository are known by. */
export interface ExpectedFile {
  readonly size: number;
  readonly sha256?: string;
  readonly gitBlob?: string;
}

export type Fetch = (
  url: string,
  init: { readonly headers: Record<string, string>; readonly signal?: AbortSignal },
) => Promise<Response>;

export interface DownloadOptions {
  readonly fetch: Fetch;
  readonly headers: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Bytes of this file that are there. */
  readonly onBytes?: (bytes: number) => void;
  /** How often a connection that breaks without having brought a byte is tried again. */
  readonly maxRetries: number;
  readonly retryDelayMs: number;
}

/** A status that trying again does not change. */
class Refused extends Error {}

/**
 * Returns the SHA-256 of the finished file. Throws whatever stopped it; `<path>.part` then holds what had come, and a file
 * that turns out to be another one than expected is discarded.
 */
export async function downloadFile(
  url: string,
  path: string,
  expected: ExpectedFile,
  options: DownloadOptions,
): Promise<string> {
  const part = `${path}.part`;
  await mkdir(dirname(path), { recursive: true });
  // finished by an earlier run that was stopped at a later file
  await rename(path, part).catch(() => undefined);
  const old = await sizeOf(part);
  await complete(url, part, expected.size, options);
  let found = await identify(part, expected, options.signal);
  if (!found.isExpected && old > 0) {
    // the beginning may be of another time than the end
    await rm(part, { force: true });
    await complete(url, part, expected.size, options);
    found = await identify(part, expected, options.signal);
  }
  if (!found.isExpected) {
    await rm(part, { force: true });
    throw new StvError(
      'download_failed',
      `${url} is not the file that it should be: ${found.difference}. It was discarded.`,
    );
  }
  await rename(part, path);
  return found.sha256;
}

/** Brings `part` to `size` bytes, over as many connections as it takes. */
async function complete(url: string, part: string, size: number, options: DownloadOptions): Promise<void> {
  let failures = 0;
  for (;;) {
    const before = await sizeOf(part);
    if (before === size && size > 0) return;
    try {
      if (before > size) await rm(part, { force: true });
      await append(url, part, size, options);
      return;
    } catch (error) {
      options.signal?.throwIfAborted();
      const isDisk = error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT');
      if (error instanceof Refused || isDisk) throw error;
      failures = (await sizeOf(part)) > before ? 0 : failures + 1;
      if (failures > options.maxRetries) throw error;
      await sleep(options.retryDelayMs * 2 ** failures, undefined, options.signal ? { signal: options.signal } : {});
    }
  }
}

/** Bytes that earlier calls have brought of the file at `path`, finished or not. */
export async function bytesOnDisk(path: string): Promise<number> {
  return (await sizeOf(path)) || sizeOf(`${path}.part`);
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0;
}

async function append(url: string, part: string, size: number, options: DownloadOptions): Promise<void> {
  const start = await sizeOf(part);
  const response = await options.fetch(url, {
    headers: { ...options.headers, ...(start === 0 ? {} : { range: `bytes=${start}-` }) },
    ...(options.signal && { signal: options.signal }),
  });
  const { status } = response;
  const resumes = start > 0 && status === 206 && contentStart(response) === start;
  if (status !== 200 && !resumes) {
    await response.body?.cancel();
    // what lies there does not fit what the server has now
    if (start > 0 && (status === 206 || status === 416)) {
      await rm(part, { force: true });
      throw new Error('the server would not go on from where the download was cut');
    }
    const message = `the server answered ${status} to ${url}`;
    throw status >= 400 && status < 500 && status !== 408 && status !== 429 ? new Refused(message) : new Error(message);
  }
  const file = await open(part, resumes ? 'a' : 'w');
  try {
    let bytes = resumes ? start : 0;
    for await (const chunk of response.body ?? []) {
      bytes += chunk.length;
      if (bytes > size) throw new Refused(`${url} sends more than the ${size} bytes it should have`);
      await file.writeFile(chunk);
      options.onBytes?.(bytes);
    }
    if (bytes < size) throw new Error(`the connection ended after ${bytes} of ${size} bytes`);
  } finally {
    await file.close();
  }
}

function contentStart(response: Response): number {
  const start = /^bytes (\d+)-/u.exec(response.headers.get('content-range') ?? '')?.[1];
  return start === undefined ? -1 : Number(start);
}

async function identify(
  part: string,
  expected: ExpectedFile,
  signal: AbortSignal | undefined,
): Promise<{ readonly isExpected: boolean; readonly sha256: string; readonly difference: string }> {
  const sha256 = await sha256File(part, signal);
  if (expected.sha256 !== undefined) {
    const difference = `its SHA-256 is ${sha256}, not ${expected.sha256}`;
    return { isExpected: sha256 === expected.sha256, sha256, difference };
  }
  if (expected.gitBlob === undefined) return { isExpected: true, sha256, difference: '' };
  const blob = await gitBlobOf(part, expected.size, signal);
  return {
    isExpected: blob === expected.gitBlob,
    sha256,
    difference: `its git hash is ${blob}, not ${expected.gitBlob}`,
  };
}

async function gitBlobOf(path: string, size: number, signal: AbortSignal | undefined): Promise<string> {
  const hash: Hash = createHash('sha1').update(`blob ${size}\0`);
  await hashInto(hash, path, signal);
  return hash.digest('hex');
}
