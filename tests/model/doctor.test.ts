import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { examine } from '../../src/cli/doctor.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import { BUNDLED_PACKS } from '../../src/models/pack.ts';
import { prepareAny } from '../../src/models/prepare-any.ts';
import { goldenPath } from '../support/goldens.ts';
import { writeOnnxDecoder } from '../support/onnx-decoder.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

async function findings(flags: Partial<Record<keyof Config, unknown>>): Promise<Record<string, string>> {
  const config = loadConfig({
    env: {},
    cwd: '/nonexistent',
    listens: false,
    flags: { dataDir: temporaryFolder(), port: 0, ...flags },
  });
  const found = await examine(config);
  return Object.fromEntries(found.map(({ check, status, message }) => [check, `${status}: ${message}`]));
}

describe('stv doctor', () => {
  it('finds a machine without weights fit to serve, and says what is missing', async () => {
    const found = await findings({});
    expect(found).toMatchObject({
      node: expect.stringMatching(/^ok/),
      runtime: expect.stringMatching(/^ok: ONNX Runtime 1\.30/),
      device: expect.stringMatching(/^ok/),
      'data folder': expect.stringMatching(/^(ok|warn)/),
      pack: expect.stringMatching(/^ok/),
      port: expect.stringMatching(/^ok/),
      keys: expect.stringMatching(/^ok/),
    });
  });

  it('says what stands in the way', async () => {
    const folder = temporaryFolder();
    const taken = createServer().listen(0, '127.0.0.1');
    onTestFinished(() => void taken.close());
    await new Promise((resolve) => taken.once('listening', resolve));
    const { port } = taken.address() as { readonly port: number };
    const library = path.join(folder, 'libonnxruntime.so');
    writeFileSync(library, 'not a library');
    const keys = path.join(folder, 'keys.json');
    writeFileSync(keys, '');
    const found = await findings({
      pack: path.join(folder, 'nothing.gguf'),
      port,
      libraryPath: library,
      apiKeysFile: keys,
    });
    expect(found).toMatchObject({
      runtime: expect.stringMatching(/^fail: .*--library-path/),
      port: expect.stringMatching(/^fail: Another program/),
      keys: expect.stringMatching(/^fail: .*stv key/),
    });
    expect(Object.values(found).filter((text) => text.startsWith('fail')).length).toBeGreaterThanOrEqual(4);
  });

  it('tells weights that are here and not converted from those that are nowhere', async () => {
    const offline = await findings({ pack: 'hf:nobody/nothing', offline: true });
    expect(offline['weights']).toMatch(/^fail: .*stv pull/);
    expect((await findings({ pack: 'hf:nobody/nothing' }))['weights']).toMatch(/^warn: .*stv pull/);
  });

  it('finds what the server would find: the weights of this builder, calibrated, or a ready-made decoder', async () => {
    const dataDir = temporaryFolder();
    const cacheDir = path.join(dataDir, 'models');
    const checkpoint = goldenPath('tiny-llama');
    const weights = async (pack: string): Promise<string | undefined> => (await findings({ dataDir, pack }))['weights'];
    expect(await weights(checkpoint)).toMatch(/^warn: .*not prepared.*stv pull/);
    expect(existsSync(cacheDir), 'a check makes no folder').toBe(false);
    await prepareAny({ checkpoint, cacheDir, weights: 'int8' });
    expect(await weights(checkpoint), 'without calibration').toMatch(/^warn: .*not prepared/);
    await prepareAny({ checkpoint, cacheDir, weights: 'int8', calibrate: true });
    expect(await weights(checkpoint)).toMatch(/^ok: .*converted to int8\.$/);
    const decoder = temporaryFolder();
    writeOnnxDecoder({ checkpoint, folder: decoder });
    expect(await weights(decoder)).toMatch(/^warn: .*not prepared/);
    await prepareAny({ checkpoint: decoder, cacheDir, weights: 'int8', calibrate: true });
    expect(await weights(decoder)).toMatch(/^ok: .*ready-made\.$/);
  });

  it('looks at each role where their weights differ, and at the hash that a pack names', async () => {
    const pack = temporaryFolder();
    cpSync(path.join(BUNDLED_PACKS, 'smollm2'), pack, { recursive: true });
    cpSync(goldenPath('tiny-llama'), path.join(pack, 'tiny'), { recursive: true });
    const file = path.join(pack, 'pack.json');
    const told = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    const write = (generator: object, verifier: object): void =>
      writeFileSync(file, JSON.stringify({ ...told, roles: { generator, verifier } }));
    const dataDir = temporaryFolder();
    write({ source: './tiny' }, { source: './tiny', weights: 'fp32' });
    await prepareAny({
      checkpoint: path.join(pack, 'tiny'),
      cacheDir: path.join(dataDir, 'models'),
      weights: 'fp32',
      calibrate: true,
    });
    const found = await findings({ dataDir, pack });
    expect(found).toMatchObject({
      generator: expect.stringMatching(/^warn: .*not prepared/),
      verifier: expect.stringMatching(/^ok: .*fp32/),
    });
    const named = { source: './tiny', hash: `sha256:${'0'.repeat(64)}` };
    write(named, named);
    for (const folder of [dataDir, temporaryFolder()]) {
      expect((await findings({ dataDir: folder, pack }))['weights']).toMatch(/^fail: .*its pack names/);
    }
  });

  it('does not call a name fit that is neither a pack nor a checkpoint', async () => {
    const found = await findings({ pack: 'nope' });
    expect(found['pack']).toMatch(
      /^fail: nope is neither a pack nor a checkpoint: there is no .*nope\. Check --pack\.$/,
    );
    expect(found).not.toHaveProperty('weights');
  });

  it.each([
    [{ device: 'cuda' }, /^fail: .*--library-path/],
    [{ generatorDevice: 'cuda', verifierDevice: 'webgpu' }, /^fail: One server cannot use cuda and webgpu/],
    [{ device: 'cuda', generatorDevice: 'cpu', verifierDevice: 'cpu' }, /^ok: .*CPU/],
    [{ device: 'webgpu' }, /webgpu/],
  ])('takes devices as the server does: %j', async (flags, words) => {
    const found = await findings(flags);
    expect(found['device']).toMatch(words);
    expect(found['runtime']).toMatch(/^ok/);
  });

  it('says that others can reach an address without keys', async () => {
    expect((await findings({ host: '0.0.0.0' }))['keys']).toMatch(/^fail: .*--api-keys-file/);
  });
});
