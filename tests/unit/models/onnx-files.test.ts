import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { prepareAny } from '../../../src/models/prepare-any.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { FLOAT, type InitializerSpec, protobufMessage, tinyModel } from '../../support/tiny-onnx.ts';

const CONFIG = JSON.stringify({ vocab_size: 8, max_position_embeddings: 16 });

function external(location: string): InitializerSpec {
  return { name: `w.${location}`, type: FLOAT, dims: [2], data: { location, length: 8 } };
}

function graphOf(locations: readonly string[]): Uint8Array {
  return tinyModel({ inputs: [], outputs: [], nodes: [], initializers: locations.map(external) });
}

/** A folder with a graph, whose weights are said to lie in files of these names, and such files. */
function setUp(names: readonly string[], graph = graphOf(names)) {
  const folder = temporaryFolder({ 'model.onnx': graph, 'config.json': CONFIG });
  mkdirSync(path.join(folder, 'parts'));
  const at = (name: string): string => path.join(folder, name);
  for (const name of names) writeFileSync(at(name), '12345678');
  const cacheDir = temporaryFolder();
  return { at, prepare: () => prepareAny({ checkpoint: folder, cacheDir, weights: 'int8' }) };
}

describe('weights beside an ONNX decoder', () => {
  it('are part of its hash and its size, whatever their files are called', async () => {
    const locations = ['weights.bin', 'parts/1.data', 'model.onnx_data'];
    const { at, prepare } = setUp(locations);
    const before = await prepare();
    expect(before.manifest.weightsBytes).toBe(readFileSync(at('model.onnx')).length + 3 * 8);
    expect((await prepare()).isReused).toBe(true);
    for (const name of locations) {
      writeFileSync(at(name), '87654321');
      expect((await prepare()).manifest.sourceDigest, name).not.toBe(before.manifest.sourceDigest);
      writeFileSync(at(name), '12345678');
      expect((await prepare()).manifest.sourceDigest, name).toBe(before.manifest.sourceDigest);
    }
    // what only looks like weights is none
    writeFileSync(at('model.onnx_data.old'), 'x');
    expect((await prepare()).manifest.sourceDigest).toBe(before.manifest.sourceDigest);
  });

  it('are found in constants and in graphs within the graph too', async () => {
    const tensor = protobufMessage([
      [8, 'inner'],
      [
        13,
        protobufMessage([
          [1, 'location'],
          [2, 'inner.bin'],
        ]),
      ],
      [14, 1],
    ]);
    const attribute = (field: number, value: Uint8Array) =>
      protobufMessage([
        [1, 'value'],
        [field, value],
      ]);
    const node = (value: Uint8Array) =>
      protobufMessage([
        [4, 'Constant'],
        [5, value],
      ]);
    const constant = node(attribute(5, tensor));
    const branch = node(attribute(6, protobufMessage([[1, constant]])));
    const model = protobufMessage([
      [1, 10],
      [7, protobufMessage([[1, branch]])],
    ]);
    const { at, prepare } = setUp(['inner.bin'], model);
    const before = await prepare();
    writeFileSync(at('inner.bin'), '87654321');
    expect((await prepare()).manifest.sourceDigest).not.toBe(before.manifest.sourceDigest);
  });

  it.each([
    ['above the folder', '../weights.bin'],
    ['above the folder by a detour', 'parts/../../weights.bin'],
    ['at an absolute place', '/etc/hostname'],
    ['in the folder itself', '.'],
  ])('are refused %s', async (_, location) => {
    await expect(setUp([], graphOf([location])).prepare()).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining(`"${location}"`),
    });
  });

  it('are missed by their name, and so is a graph that is none', async () => {
    const missing = setUp([], graphOf(['gone.bin']));
    const message = expect.stringContaining('gone.bin');
    await expect(missing.prepare()).rejects.toMatchObject({ code: 'checkpoint_invalid', message });
    const broken = setUp([], Buffer.from('\xff'.repeat(40), 'latin1'));
    await expect(broken.prepare()).rejects.toMatchObject({
      code: 'checkpoint_invalid',
      message: expect.stringContaining('model.onnx'),
    });
  });
});
