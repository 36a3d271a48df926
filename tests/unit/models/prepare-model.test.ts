/** Preparing a model: reused when nothing changed, and nothing left behind when it fails or is left. */
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { prepareModel } from '../../../src/models/prepare-model.ts';
import { readManifest, WEIGHTS_FILE } from '../../../src/models/prepared-model.ts';

const checkpoint = 'tests/goldens/tiny-llama';
let folder: string;
let cacheDir: string;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'stv-prepare-'));
  cacheDir = path.join(folder, 'models');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Folders of models, finished or not; the record of known digests beside them does not count. */
const modelFolders = (): string[] =>
  readdirSync(cacheDir, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name);

describe('prepareModel', () => {
  it('writes once and finds it again, for each precision apart', async () => {
    const first = await prepareModel({ checkpoint, cacheDir, weights: 'int8' });
    const again = await prepareModel({ checkpoint, cacheDir, weights: 'int8' });
    const other = await prepareModel({ checkpoint, cacheDir, weights: 'fp32' });
    expect([first.isReused, again.isReused, other.isReused]).toEqual([false, true, false]);
    expect(again.dir).toBe(first.dir);
    expect(other.manifest.digest).not.toBe(first.manifest.digest);
  });

  it('prepares anew when the source has changed', async () => {
    const source = path.join(folder, 'source');
    cpSync(checkpoint, source, { recursive: true });
    rmSync(path.join(source, 'tiny-llama.gguf'));
    const first = await prepareModel({ checkpoint: source, cacheDir, weights: 'fp32' });
    const file = path.join(source, 'model.safetensors');
    const bytes = readFileSync(file);
    bytes[bytes.length - 2] = (bytes[bytes.length - 2] as number) ^ 1;
    writeFileSync(file, bytes);
    const second = await prepareModel({ checkpoint: source, cacheDir, weights: 'fp32' });
    expect(second.isReused).toBe(false);
    expect(second.manifest.sourceDigest).not.toBe(first.manifest.sourceDigest);
  });

  it('gives one whole folder to two that prepare at the same time', async () => {
    const [first, second] = await Promise.all([
      prepareModel({ checkpoint, cacheDir, weights: 'int8' }),
      prepareModel({ checkpoint, cacheDir, weights: 'int8' }),
    ]);
    expect(second.dir).toBe(first.dir);
    expect(modelFolders()).toHaveLength(1);
    expect(readManifest(first.dir)).toEqual(first.manifest);
  });

  it('leaves nothing behind when it is cancelled', async () => {
    const abort = new AbortController();
    const prepared = prepareModel({
      checkpoint,
      cacheDir,
      weights: 'int8',
      signal: abort.signal,
      onProgress: ({ phase }) => {
        if (phase !== 'hash') abort.abort();
      },
    });
    await expect(prepared).rejects.toMatchObject({ code: 'cancelled' });
    expect(modelFolders()).toEqual([]);
  });

  it('names the file of a truncated checkpoint and leaves nothing behind', async () => {
    const source = path.join(folder, 'cut.gguf');
    cpSync(path.join(checkpoint, 'tiny-llama.gguf'), source);
    truncateSync(source, statSync(source).size >> 1);
    await expect(prepareModel({ checkpoint: source, cacheDir, weights: 'int8' })).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining('cut.gguf'),
    });
    expect(modelFolders()).toEqual([]);
  });

  it('names a link of a checkpoint that leads nowhere', async () => {
    const source = path.join(folder, 'dangling');
    cpSync(checkpoint, source, { recursive: true });
    rmSync(path.join(source, 'model.safetensors'));
    symlinkSync('/nowhere/blob', path.join(source, 'model.safetensors'));
    await expect(prepareModel({ checkpoint: source, cacheDir, weights: 'int8' })).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining('model.safetensors'),
    });
  });

  it('refuses files that are not those that the pack names, and converts nothing', async () => {
    const source = path.join(folder, 'model.gguf');
    cpSync(path.join(checkpoint, 'tiny-llama.gguf'), source);
    const { manifest } = await prepareModel({ checkpoint: source, cacheDir, weights: 'int8' });
    const expectedDigest = manifest.sourceDigest;
    expect((await prepareModel({ checkpoint: source, cacheDir, weights: 'int8', expectedDigest })).isReused).toBe(true);
    const bytes = readFileSync(source);
    bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
    writeFileSync(source, bytes);
    await expect(prepareModel({ checkpoint: source, cacheDir, weights: 'fp32', expectedDigest })).rejects.toMatchObject(
      {
        code: 'checkpoint_invalid',
        message: expect.stringContaining(expectedDigest),
      },
    );
    expect(modelFolders()).toHaveLength(1);
  });

  it('refuses a prepared folder whose weights were cut off later', async () => {
    const { dir } = await prepareModel({ checkpoint, cacheDir, weights: 'int8' });
    truncateSync(path.join(dir, WEIGHTS_FILE), 1000);
    expect(() => readManifest(dir)).toThrow(/1000 bytes/);
    // the next start repairs it
    const again = await prepareModel({ checkpoint, cacheDir, weights: 'int8' });
    expect(again.isReused).toBe(false);
  });

  it.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)(
    'says that the disk is full and leaves nothing behind (needs root: mounts a small disk)',
    async () => {
      mkdirSync(cacheDir);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=100k', 'tmpfs', cacheDir]);
      try {
        await expect(prepareModel({ checkpoint, cacheDir, weights: 'fp32' })).rejects.toMatchObject({
          code: 'disk_full',
          message: expect.stringContaining(cacheDir),
        });
        expect(modelFolders()).toEqual([]);
      } finally {
        execFileSync('umount', [cacheDir]);
      }
    },
  );
});
