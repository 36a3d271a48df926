import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { examine } from '../../src/cli/doctor.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

async function findings(flags: Partial<Record<keyof Config, unknown>>): Promise<Record<string, string>> {
  const config = loadConfig({ env: {}, cwd: '/nonexistent', flags: { dataDir: temporaryFolder(), port: 0, ...flags } });
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

  it('does not call a name fit that is neither a pack nor a checkpoint', async () => {
    const found = await findings({ pack: 'nope' });
    expect(found['pack']).toMatch(
      /^fail: nope is neither a pack nor a checkpoint: there is no .*nope\. Check --pack\.$/,
    );
    expect(found).not.toHaveProperty('weights');
  });

  it('knows what the library offers', async () => {
    expect((await findings({ device: 'cuda' }))['device']).toMatch(/^fail: .*--library-path/);
  });
});
