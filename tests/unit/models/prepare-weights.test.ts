/** What preparing writes: which tensors, how exact, and what it takes to write them. */
import { randomUUID } from 'node:crypto';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statfsSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { openCheckpoint } from '../../../src/models/open-checkpoint.ts';
import { ownerOf } from '../../../src/models/partial-folder.ts';
import { type PrepareProgress, prepareModel } from '../../../src/models/prepare-model.ts';
import { type PreparedManifest, readManifest, WEIGHTS_FILE } from '../../../src/models/prepared-model.ts';
import { goldenGgufPath, goldenPath } from '../../support/goldens.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

// Replaced only where a test wants a full disk; otherwise the real calls.
vi.mock('node:fs', async (original) => {
  const real = await original<typeof import('node:fs')>();
  return { ...real, writeSync: vi.fn(real.writeSync), statfsSync: vi.fn(real.statfsSync) };
});
const realFs = await vi.importActual<typeof import('node:fs')>('node:fs');
afterEach(() => {
  vi.mocked(writeSync).mockReset().mockImplementation(realFs.writeSync);
  vi.mocked(statfsSync).mockReset().mockImplementation(realFs.statfsSync);
});

const LLAMA = goldenGgufPath('tiny-llama');

function copyOfQwen2(): string {
  const folder = temporaryFolder();
  cpSync(goldenPath('tiny-qwen2'), folder, { recursive: true, filter: (path) => !path.endsWith('.gguf') });
  return folder;
}

/** The stored values of one weight as floats: by the manifest's own shapes, whatever the block size. */
function readStored(dir: string, manifest: PreparedManifest, name: string): Float32Array {
  const bytes = new Uint8Array(readFileSync(join(dir, WEIGHTS_FILE))).buffer;
  const tensor = (wanted: string) => {
    const found = manifest.tensors.find((candidate) => candidate.name === wanted);
    if (found === undefined) throw new Error(`There is no ${wanted}.`);
    return found;
  };
  const { type, dims, offset, byteLength } = tensor(name);
  if (type === 'float32') return new Float32Array(bytes, offset, byteLength / 4);
  const quants = new Uint8Array(bytes, offset, byteLength);
  const stored = tensor(`${name}_scales`);
  const scales = new Float32Array(bytes, stored.offset, stored.byteLength / 4);
  const bits = manifest.weights === 'int4' && dims.at(-1) === 16 ? 4 : 8;
  const numElements = (byteLength * 8) / bits;
  return Float32Array.from({ length: numElements }, (_, index) => {
    const scale = scales[Math.floor((index * scales.length) / numElements)] ?? Number.NaN;
    if (bits === 8) return scale * ((quants[index] ?? Number.NaN) - 128);
    return scale * ((((quants[index >> 1] ?? Number.NaN) >> (4 * (index % 2))) & 15) - 8);
  });
}

describe('the folder', () => {
  it('reads the checkpoint to hash it only when it has changed', async () => {
    const checkpoint = copyOfQwen2();
    const cacheDir = temporaryFolder();
    const phases = async (): Promise<Set<string>> => {
      const seen: PrepareProgress[] = [];
      await prepareModel({ checkpoint, cacheDir, weights: 'fp32', onProgress: (progress) => seen.push(progress) });
      for (const { done, total } of seen) expect(done).toBeLessThanOrEqual(total);
      return new Set(seen.map(({ phase }) => phase));
    };
    expect(await phases()).toEqual(new Set(['hash', 'weights']));
    expect(await phases()).toEqual(new Set());
    utimesSync(join(checkpoint, 'config.json'), new Date(), new Date());
    expect(await phases()).toEqual(new Set(['hash']));
    appendFileSync(join(checkpoint, 'config.json'), '\n');
    expect(await phases()).toEqual(new Set(['hash', 'weights']));
  });

  it('holds what writeTokenizer writes, and is not begun when that fails', async () => {
    const cacheDir = temporaryFolder();
    const fail = (): never => {
      throw new Error('no tokenizer');
    };
    const options = { checkpoint: LLAMA, cacheDir, weights: 'int8' } as const;
    await expect(prepareModel({ ...options, writeTokenizer: fail })).rejects.toThrow('no tokenizer');
    expect(writeSync).toHaveBeenCalledTimes(0);
    expect(readdirSync(cacheDir)).toEqual(['hashes.json']);
    const { dir } = await prepareModel({
      ...options,
      writeTokenizer: async (folder) => writeFileSync(join(folder, 'tokenizer.json'), '{}'),
    });
    expect(readFileSync(join(dir, 'tokenizer.json'), 'utf8')).toBe('{}');
  });

  it('does not appear on a disk that fills up', async () => {
    const cacheDir = temporaryFolder();
    let calls = 0;
    vi.mocked(writeSync).mockImplementation(((...call: Parameters<typeof realFs.writeSync>) => {
      if (++calls > 5) throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
      return realFs.writeSync(...call);
    }) as typeof realFs.writeSync);
    const preparing = prepareModel({ checkpoint: LLAMA, cacheDir, weights: 'int8' });
    await expect(preparing).rejects.toThrow(expect.objectContaining({ code: 'disk_full' }));
    expect(readdirSync(cacheDir)).toEqual(['hashes.json']);
  });

  it('is not begun where it cannot fit', async () => {
    const cacheDir = temporaryFolder();
    vi.mocked(statfsSync).mockReturnValue({ bavail: 10, bsize: 4096 } as ReturnType<typeof realFs.statfsSync>);
    const preparing = prepareModel({ checkpoint: LLAMA, cacheDir, weights: 'fp32' });
    await expect(preparing).rejects.toThrow(/needs 1 MB, but .* has 0 MB free/);
    expect(writeSync).toHaveBeenCalledTimes(0);
    expect(readdirSync(cacheDir)).toEqual(['hashes.json']);
  });

  it('takes the remains of killed processes away, and leaves those of living ones', async () => {
    const cacheDir = temporaryFolder();
    const folderOf = (owner: string): string => join(cacheDir, `x.partial-${owner}-${randomUUID()}`);
    // above the largest process number that Linux gives
    const dead = folderOf(ownerOf(4194305));
    const same = folderOf(ownerOf(process.pid));
    const alive = folderOf(ownerOf(process.ppid));
    // a number that some other process has by now
    const reused = folderOf(ownerOf(process.ppid));
    const foreign = folderOf('elsewhere-1');
    const longer = folderOf(`${hostname()}-${process.pid}-4194305`);
    // containers of one host name that share the disk: one was killed, one writes at this moment, one has only begun to
    const killed = folderOf(`${hostname()}-1.4194305`);
    const twin = folderOf(`${hostname()}-1.${process.pid}`);
    const begun = folderOf(`${hostname()}-1.4194305`);
    const older = folderOf(`${hostname()}-4194305`);
    const gone = [dead, same, reused, killed, older];
    const left = [twin, begun, alive, foreign, longer];
    for (const folder of [...gone, ...left]) mkdirSync(folder);
    writeFileSync(join(twin, 'weights.bin'), 'x');
    const anHourAgo = Date.now() / 1000 - 3600;
    for (const folder of [same, twin, killed, older]) utimesSync(folder, anHourAgo, anHourAgo);
    const twoDaysAgo = Date.now() / 1000 - 48 * 3600;
    utimesSync(reused, twoDaysAgo, twoDaysAgo);
    await prepareModel({ checkpoint: LLAMA, cacheDir, weights: 'int8' });
    expect(gone.filter((folder) => existsSync(folder))).toEqual([]);
    expect(left.filter((folder) => !existsSync(folder))).toEqual([]);
  });

  it('does not take away what the same process writes at the same time', async () => {
    const cacheDir = temporaryFolder();
    const { dir, manifest } = await prepareModel({
      checkpoint: LLAMA,
      cacheDir,
      weights: 'int8',
      // the second looks around while the folder of the first is there under its first name
      writeTokenizer: async () => {
        await prepareModel({ checkpoint: LLAMA, cacheDir, weights: 'fp32' });
      },
    });
    expect(readManifest(dir)).toEqual(manifest);
    expect(readdirSync(cacheDir).filter((name) => name.includes('.partial'))).toEqual([]);
  });
});

describe('weights', () => {
  it('are the floats themselves with fp32', async () => {
    const checkpoint = goldenPath('tiny-qwen2');
    const { dir, manifest } = await prepareModel({ checkpoint, cacheDir: temporaryFolder(), weights: 'fp32' });
    const source = openCheckpoint(checkpoint);
    const parts = ['q_proj', 'k_proj', 'v_proj'].map((part) => `model.layers.1.self_attn.${part}`);
    const rows = parts.flatMap((part) => [...source.readFloat32(`${part}.weight`)]);
    expect([...readStored(dir, manifest, 'model.layers.1.self_attn.qkv_proj.weight')]).toEqual(rows);
    const biases = parts.flatMap((part) => [...source.readFloat32(`${part}.bias`)]);
    expect([...readStored(dir, manifest, 'model.layers.1.self_attn.qkv_proj.bias')]).toEqual(biases);
    expect(manifest.quantization).toMatchObject({ requantized: [], relativeError: 0 });
    source.close();
  });

  it('are the blocks of a Q8_0 file, unchanged', async () => {
    const { dir, manifest } = await prepareModel({ checkpoint: LLAMA, cacheDir: temporaryFolder(), weights: 'int8' });
    const source = openCheckpoint(LLAMA);
    for (const name of ['model.embed_tokens.weight', 'model.layers.1.mlp.down_proj.weight']) {
      expect(readStored(dir, manifest, name)).toEqual(source.readFloat32(name));
    }
    expect(manifest.quantization).toEqual({ numExact: 15, requantized: [], relativeError: 0 });
    source.close();
  });

  it('name what was rounded and how far', async () => {
    const checkpoint = goldenPath('tiny-qwen3');
    const { dir, manifest } = await prepareModel({ checkpoint, cacheDir: temporaryFolder(), weights: 'int4' });
    const source = openCheckpoint(checkpoint);
    const name = 'model.layers.0.mlp.down_proj.weight';
    const report = manifest.quantization.requantized.find((matrix) => matrix.name === name);
    const values = source.readFloat32(name);
    const stored = readStored(dir, manifest, name);
    const worst = values.reduce((most, value, index) => Math.max(most, Math.abs(value - (stored[index] ?? 0))), 0);
    expect(report?.from).toBe('BF16');
    expect(report?.maxError).toBeCloseTo(worst, 6);
    expect(report?.relativeError).toBeGreaterThan(0.01);
    expect(manifest.quantization.relativeError).toBeLessThan(0.1);
    source.close();
  });

  it('are refused when a tensor is missing, by its name', async () => {
    const checkpoint = copyOfQwen2();
    const config = join(checkpoint, 'config.json');
    const three = readFileSync(config, 'utf8').replace('"num_hidden_layers": 2', '"num_hidden_layers": 3');
    writeFileSync(config, three);
    const cacheDir = temporaryFolder();
    await expect(prepareModel({ checkpoint, cacheDir, weights: 'int8' })).rejects.toThrow(/tensor "model\.layers\.2\./);
    expect(readdirSync(cacheDir)).toEqual(['hashes.json']);
  });
});
