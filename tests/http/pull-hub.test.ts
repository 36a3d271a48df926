import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type PulledSource, type PullOptions, type PullProgress, pull } from '../../src/models/pull.ts';
import { type HubFault, type HubServer, REPO, startHub } from '../support/hub-server.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

function bytes(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 31 + seed * 17 + (index >> 8)) & 255);
}

const CHECKPOINT = {
  'config.json': '{"model_type":"llama"}',
  'tokenizer.json': '{}',
  'tokenizer_config.json': '{}',
  'model.safetensors': bytes(300_000, 1),
  'pytorch_model.bin': bytes(2_000, 2),
  'README.md': '# Tiny',
  'onnx/model.onnx': bytes(2_000, 3),
};

interface Pulling {
  readonly hub: HubServer;
  readonly cacheDir: string;
  pull(source?: string, options?: Partial<PullOptions>): Promise<PulledSource>;
}

async function pulling(files: Readonly<Record<string, Uint8Array | string>> = CHECKPOINT): Promise<Pulling> {
  const hub = await startHub(files);
  const cacheDir = temporaryFolder();
  return {
    hub,
    cacheDir,
    pull: (source = `hf:${REPO}`, options = {}) =>
      pull(source, { cacheDir, env: { HF_ENDPOINT: hub.url }, retryDelayMs: 1, ...options }),
  };
}

/** By `equals`: comparing 300,000 elements one by one takes seconds. */
function expectFile(hub: HubServer, folder: string, name: string): void {
  const wanted = hub.files.get(name) ?? Buffer.alloc(0);
  expect(readFileSync(join(folder, name)).equals(wanted), `${name} is not what the hub has`).toBe(true);
}

/** Every file below the cache that could be taken for a whole one. */
function finishedFiles(cacheDir: string): string[] {
  return (readdirSync(cacheDir, { recursive: true }) as string[])
    .filter(
      (name) =>
        !/\.(part|partial|lock)$|\.partial\//u.test(name) && !/(^|\/)(hf|refs|acme--tiny|c{40}[^/]*)$/u.test(name),
    )
    .sort();
}

describe('pulling a checkpoint folder', () => {
  it('takes what a checkpoint needs and nothing else', async () => {
    const { hub, pull } = await pulling();
    const { path, hash } = await pull();
    const names = ['config.json', 'model.safetensors', 'source.json', 'tokenizer.json', 'tokenizer_config.json'];
    expect(readdirSync(path).sort()).toEqual(names);
    expectFile(hub, path, 'model.safetensors');
    expect(hash).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(JSON.parse(readFileSync(join(path, 'source.json'), 'utf8'))).toMatchObject({
      revision: hub.commit,
      source: `hf:${REPO}@main`,
    });
  });

  it('takes all shards and their index', async () => {
    const shards = {
      'model-00001-of-00002.safetensors': bytes(5_000, 4),
      'model-00002-of-00002.safetensors': bytes(5_000, 5),
    };
    const { 'model.safetensors': _, ...rest } = CHECKPOINT;
    const { pull } = await pulling({
      ...rest,
      ...shards,
      'model.safetensors.index.json': '{}',
      'consolidated.safetensors': bytes(5_000, 6),
    });
    const names = readdirSync((await pull()).path);
    expect(names.filter((name) => name.includes('safetensors')).sort()).toEqual([
      ...Object.keys(shards),
      'model.safetensors.index.json',
    ]);
  });

  it('takes the one file of weights that has an index all the same', async () => {
    const { pull } = await pulling({ ...CHECKPOINT, 'model.safetensors.index.json': '{}' });
    const names = readdirSync((await pull()).path);
    expect(names.filter((name) => name.includes('safetensors'))).toEqual(['model.safetensors']);
  });

  it('refuses an index without shards', async () => {
    const { 'model.safetensors': _, ...rest } = CHECKPOINT;
    const { pull } = await pulling({ ...rest, 'model.safetensors.index.json': '{}' });
    await expect(pull()).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringMatching(/no shards .* for its model\.safetensors\.index\.json/),
    });
  });

  it('reports bytes done and in all, and ends with all', async () => {
    const { pull } = await pulling();
    const reports: PullProgress[] = [];
    await pull(undefined, { onProgress: (progress) => reports.push(progress) });
    const total = 300_000 + 22 + 2 + 2;
    expect(reports.at(-1)).toMatchObject({ bytesDone: total, bytesTotal: total, source: `hf:${REPO}@main` });
    const done = reports.map(({ bytesDone }) => bytesDone);
    expect(done).toEqual([...done].sort((a, b) => a - b));
  });

  it('asks the hub again only when told to', async () => {
    const { hub, pull } = await pulling();
    const first = await pull();
    const asked = hub.requests.length;
    expect(await pull()).toEqual(first);
    expect(hub.requests.length).toBe(asked);
    hub.commit = 'd'.repeat(40);
    hub.files.set('model.safetensors', bytes(4_000, 9));
    expect(await pull()).toEqual(first);
    const moved = await pull(undefined, { refresh: true });
    expect(moved.hash).not.toBe(first.hash);
    expect(await pull()).toEqual(moved);
  });

  it('fetches again what was damaged in the cache', async () => {
    const { pull } = await pulling();
    const { path } = await pull();
    truncateSync(join(path, 'model.safetensors'), 1_000);
    await pull();
    expect(readFileSync(join(path, 'model.safetensors')).length).toBe(300_000);
  });

  it('says which file the repository lacks', async () => {
    const { 'tokenizer.json': _, ...files } = CHECKPOINT;
    const { pull, cacheDir } = await pulling(files);
    await expect(pull()).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringMatching(/acme\/tiny.*no tokenizer\.json/),
    });
    expect(finishedFiles(cacheDir)).toEqual([]);
  });

  it('serves two callers at once with one download', async () => {
    const { hub, pull } = await pulling();
    const [a, b] = await Promise.all([pull(), pull()]);
    expect(a).toEqual(b);
    expect(hub.requests.filter((line) => line.includes('/storage/model.safetensors'))).toHaveLength(1);
  });
});

describe('a lock', () => {
  it('of a process that died does not hold the next one up', async () => {
    const { hub, pull, cacheDir } = await pulling();
    const lock = join(cacheDir, 'hf/acme--tiny', `${hub.commit}.lock`);
    await mkdir(dirname(lock), { recursive: true });
    writeFileSync(lock, '');
    const old = new Date(Date.now() - 60_000);
    utimesSync(lock, old, old);
    expect(existsSync((await pull()).path)).toBe(true);
    expect(existsSync(lock)).toBe(false);
  });

  it('of a living process is waited for, unless cancelled', async () => {
    const { hub, pull, cacheDir } = await pulling();
    const lock = join(cacheDir, 'hf/acme--tiny', `${hub.commit}.lock`);
    await mkdir(dirname(lock), { recursive: true });
    writeFileSync(lock, '');
    const signal = AbortSignal.timeout(300);
    await expect(pull(undefined, { signal })).rejects.toMatchObject({ code: 'cancelled' });
    expect(existsSync(lock)).toBe(true);
  });
});

describe('pulling a GGUF file', () => {
  it('takes the only one, or the one that is named', async () => {
    const { pull, hub } = await pulling({ 'a-Q8_0.gguf': bytes(3_000, 1), 'README.md': 'x' });
    const { path, hash } = await pull();
    expect(path).toMatch(/a-Q8_0\.gguf$/);
    expect(hash).toBe(
      `sha256:${createHash('sha256')
        .update(hub.files.get('a-Q8_0.gguf') ?? '')
        .digest('hex')}`,
    );
    hub.files.set('sub/b.gguf', bytes(3_000, 2));
    const named = await pull(`hf:${REPO}@v1#sub/b.gguf`);
    expect(readFileSync(named.path).equals(hub.files.get('sub/b.gguf') ?? Buffer.alloc(0))).toBe(true);
    await expect(pull(`hf:${REPO}@v1#c.gguf`)).rejects.toMatchObject({ message: expect.stringContaining('no c.gguf') });
  });

  it('finds each file again offline, also when the branch has moved between them', async () => {
    const { hub, pull, cacheDir } = await pulling({ 'a.gguf': bytes(3_000, 1), 'b.gguf': bytes(3_000, 2) });
    const a = await pull(`hf:${REPO}#a.gguf`);
    hub.commit = 'd'.repeat(40);
    const b = await pull(`hf:${REPO}#b.gguf`);
    await hub.stop();
    expect(await pull(`hf:${REPO}#a.gguf`, { offline: true })).toEqual(a);
    expect(await pull(`hf:${REPO}#b.gguf`, { offline: true })).toEqual(b);
    // as it was remembered once
    const refs = join(cacheDir, 'hf/acme--tiny/refs');
    renameSync(join(refs, 'main#a.gguf'), join(refs, 'main'));
    expect(await pull(`hf:${REPO}#a.gguf`, { offline: true })).toEqual(a);
  });

  it('asks which one is meant', async () => {
    const { pull } = await pulling({ 'b.gguf': bytes(10, 1), 'a.gguf': bytes(10, 2) });
    await expect(pull()).rejects.toMatchObject({ message: expect.stringContaining(`hf:${REPO}#a.gguf`) });
  });

  it('refuses one that is not the one a pack has pinned', async () => {
    const { pull } = await pulling({ 'a.gguf': bytes(3_000, 1) });
    const expectedHash = `sha256:${'0'.repeat(64)}`;
    await expect(pull(undefined, { expectedHash })).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining(expectedHash),
    });
  });
});

describe('a connection that is cut', () => {
  it('is taken up where it ended', async () => {
    const { hub, pull } = await pulling();
    hub.faults.set('model.safetensors', { cutAfter: 100_000, times: 2 });
    const { path } = await pull();
    expectFile(hub, path, 'model.safetensors');
    const ranges = hub.requests
      .filter((line) => line.startsWith('GET /storage/model'))
      .map((line) => line.split(' ')[2]);
    expect(ranges[0]).toBeUndefined();
    expect(ranges).toHaveLength(3);
    expect(Number(ranges[2]?.match(/\d+/)?.[0])).toBeGreaterThan(Number(ranges[1]?.match(/\d+/)?.[0]));
  });

  it('is taken up by the next pull, and finished files are not fetched twice', async () => {
    const { hub, pull, cacheDir } = await pulling();
    const fault: HubFault = { cutAfter: 100_000 };
    hub.faults.set('model.safetensors', fault);
    const first = pull(undefined, {
      onProgress: ({ file }) => {
        // the connection after the cut one is refused for good
        if (file === 'model.safetensors') fault.status = 403;
      },
    });
    await expect(first).rejects.toMatchObject({ code: 'download_failed', message: expect.stringContaining('403') });
    expect(finishedFiles(cacheDir)).toEqual([]);
    hub.faults.clear();
    hub.requests.length = 0;
    const { path } = await pull();
    expectFile(hub, path, 'model.safetensors');
    expect(hub.requests.some((line) => /storage\/model\.safetensors bytes=[1-9]/.test(line))).toBe(true);
    expect(hub.requests.some((line) => line.includes('resolve') && line.includes('tokenizer.json'))).toBe(false);
  });

  it.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)(
    'needs space for what is missing only (needs root: mounts a small disk)',
    async () => {
      const { hub, pull, cacheDir } = await pulling();
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=400k', 'tmpfs', cacheDir]);
      try {
        const partial = join(cacheDir, 'hf/acme--tiny', `${hub.commit}.partial`);
        await mkdir(partial, { recursive: true });
        writeFileSync(join(partial, 'model.safetensors.part'), bytes(250_000, 1));
        const { path } = await pull();
        expectFile(hub, path, 'model.safetensors');
        hub.files.set('model.safetensors', bytes(500_000, 1));
        hub.commit = 'd'.repeat(40);
        await expect(pull(undefined, { refresh: true })).rejects.toMatchObject({ code: 'disk_full' });
      } finally {
        execFileSync('umount', [cacheDir]);
      }
    },
  );

  it('begins anew where the server cannot go on', async () => {
    const { hub, pull } = await pulling();
    hub.faults.set('model.safetensors', { cutAfter: 100_000, times: 1, ignoreRange: true });
    const { path } = await pull();
    expectFile(hub, path, 'model.safetensors');
  });

  it('begins anew when what was there belongs to another file', async () => {
    const { hub, pull, cacheDir } = await pulling();
    const part = join(cacheDir, 'hf/acme--tiny', `${hub.commit}.partial`, 'model.safetensors.part');
    await mkdir(dirname(part), { recursive: true });
    writeFileSync(part, bytes(50_000, 77));
    const { path } = await pull();
    expectFile(hub, path, 'model.safetensors');
  });

  it('is given up when it never brings anything', async () => {
    const { hub, pull } = await pulling();
    hub.faults.set('model.safetensors', { cutAfter: 0 });
    await expect(pull()).rejects.toMatchObject({ code: 'download_failed', message: expect.stringContaining(REPO) });
    expect(hub.requests.filter((line) => line.startsWith('GET /storage/model')).length).toBe(6);
  });
});

describe('a pull that fails', () => {
  it.each(['model.safetensors', 'tokenizer_config.json'])('discards %s with another hash', async (name) => {
    const { hub, pull, cacheDir } = await pulling();
    const wrong = Buffer.from(hub.files.get(name) ?? '');
    wrong[1] = (wrong[1] ?? 0) ^ 1;
    hub.faults.set(name, { content: wrong });
    await expect(pull()).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringMatching(/hash|SHA-256/),
    });
    expect(finishedFiles(cacheDir)).toEqual([]);
    expect((readdirSync(cacheDir, { recursive: true }) as string[]).filter((file) => file.includes(`${name}`))).toEqual(
      [],
    );
    hub.faults.clear();
    expectFile(hub, (await pull()).path, name);
  });

  it('does not store more than was promised', async () => {
    const { hub, pull } = await pulling();
    hub.faults.set('model.safetensors', { content: bytes(600_000, 1) });
    await expect(pull()).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining('more than the 300000'),
    });
  });

  it('ends at once when it is cancelled, and goes on later', async () => {
    const { hub, pull, cacheDir } = await pulling();
    hub.faults.set('model.safetensors', { stallAfter: 100_000 });
    const controller = new AbortController();
    const cancelled = pull(undefined, {
      signal: controller.signal,
      onProgress: ({ file }) => file === 'model.safetensors' && controller.abort(),
    });
    await expect(cancelled).rejects.toMatchObject({ code: 'cancelled' });
    expect(finishedFiles(cacheDir)).toEqual([]);
    expect((readdirSync(cacheDir, { recursive: true }) as string[]).some((name) => name.endsWith('.lock'))).toBe(false);
    hub.faults.clear();
    expect(existsSync((await pull()).path)).toBe(true);
  });

  it.runIf(existsSync('/dev/full'))('says so when the disk is full', async () => {
    const { hub, pull, cacheDir } = await pulling();
    const part = join(cacheDir, 'hf/acme--tiny', `${hub.commit}.partial`, 'model.safetensors.part');
    await mkdir(dirname(part), { recursive: true });
    symlinkSync('/dev/full', part);
    await expect(pull()).rejects.toMatchObject({ code: 'disk_full', message: expect.stringContaining(REPO) });
    expect(finishedFiles(cacheDir)).toEqual([]);
  });

  it('stays off the network when offline', async () => {
    const { hub, pull } = await pulling();
    await expect(pull(undefined, { offline: true })).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringMatching(/--offline.*stv pull hf:acme\/tiny@main/),
    });
    expect(hub.requests).toEqual([]);
    const stored = await pull();
    await hub.stop();
    expect(await pull(undefined, { offline: true, refresh: true })).toEqual(stored);
  });

  it('says what the hub says', async () => {
    const { hub, pull } = await pulling();
    await expect(pull('hf:acme/other')).rejects.toMatchObject({
      message: expect.stringContaining('no such repository'),
    });
    await expect(pull(`hf:${REPO}@v9`)).rejects.toMatchObject({ message: expect.stringContaining(`hf:${REPO}@v9`) });
    hub.token = 'hf_secret';
    await expect(pull()).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining('HF_TOKEN'),
    });
    expect((await pull(undefined, { env: { HF_ENDPOINT: `${hub.url}/`, HF_TOKEN: 'hf_secret' } })).path).toContain(
      'acme--tiny',
    );
    await hub.stop();
    await expect(pull(`hf:${REPO}@v1`)).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining('ECONNREFUSED'),
    });
  });
});

describe('local paths', () => {
  it('are taken as they are', async () => {
    const folder = temporaryFolder({ 'config.json': '{}', 'm.gguf': 'GGUF' });
    const cacheDir = temporaryFolder();
    expect(await pull(folder, { cacheDir })).toEqual({ path: folder });
    expect(await pull(join(folder, 'm.gguf'), { cacheDir })).toEqual({ path: join(folder, 'm.gguf') });
    expect(readdirSync(cacheDir)).toEqual([]);
  });

  it('must hold a checkpoint', async () => {
    const cacheDir = temporaryFolder();
    await expect(pull(cacheDir, { cacheDir })).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining('config.json'),
    });
    await expect(pull('/none/at/all', { cacheDir })).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining('/none/at/all'),
    });
  });
});
