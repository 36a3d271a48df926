import { cpSync, mkdirSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { findInFolders } from '../../../src/models/model-folders.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const bundled = fileURLToPath(new URL('../../../packs/smollm2/', import.meta.url));

function setUp() {
  const base = realpathSync(temporaryFolder());
  const [models = '', shared = '', outside = ''] = ['models', 'shared', 'outside'].map((name) => {
    mkdirSync(path.join(base, name));
    return path.join(base, name);
  });
  for (const folder of [shared, outside]) writeFileSync(path.join(folder, 'model.safetensors'), 'secret weights');
  mkdirSync(path.join(models, 'bare'));
  writeFileSync(path.join(models, 'bare', 'config.json'), '{}');
  cpSync(bundled, path.join(models, 'pack'), { recursive: true });
  return { models, shared, outside, find: (name: string) => findInFolders(name, [models, shared]) };
}

describe('files of a named folder', () => {
  it('may be links to files in one of the folders', async () => {
    const { models, shared, find } = setUp();
    symlinkSync(path.join(shared, 'model.safetensors'), path.join(models, 'bare', 'model.safetensors'));
    symlinkSync(shared, path.join(models, 'pack', 'weights'));
    // a folder that holds itself is looked at once
    symlinkSync(path.join(models, 'pack'), path.join(models, 'pack', 'again'));
    expect(await find('bare')).toMatchObject({ isBare: true });
    expect(await find('pack')).toMatchObject({ isBare: false, pack: { name: 'smollm2' } });
  });

  it.each([
    ['a file of a checkpoint', 'bare', 'model.safetensors', 'model.safetensors'],
    ['a file of a pack', 'pack', 'weights.gguf', 'model.safetensors'],
    ['a folder of a pack', 'pack', 'weights', '.'],
    ['a file that is not there', 'bare', 'tokenizer.json', 'missing'],
  ])('are refused when they lead out: %s', async (_what, name, link, target) => {
    const { models, outside, find } = setUp();
    symlinkSync(path.join(outside, target), path.join(models, name, link));
    // where it leads is not told
    const message = expect.not.stringContaining('outside');
    await expect(find(name)).rejects.toMatchObject({ code: 'model_load_failed', message });
  });

  it('are refused when a link inside leads to a folder with a link out', async () => {
    const { models, shared, outside, find } = setUp();
    mkdirSync(path.join(shared, 'weights'));
    symlinkSync(path.join(outside, 'model.safetensors'), path.join(shared, 'weights', 'model.safetensors'));
    symlinkSync(path.join(shared, 'weights'), path.join(models, 'pack', 'weights'));
    await expect(find('pack')).rejects.toMatchObject({ code: 'model_load_failed' });
  });

  it('is not found where the folder itself is a link out', async () => {
    const { models, outside, find } = setUp();
    symlinkSync(outside, path.join(models, 'linked'));
    await expect(find('linked')).rejects.toMatchObject({ code: 'model_not_found' });
  });
});
