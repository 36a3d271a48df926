import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { readGguf } from '../../../src/models/gguf.ts';
import { CONFIG_LIMITS } from '../../../src/models/model-config.ts';
import { openCheckpoint } from '../../../src/models/open-checkpoint.ts';
import { floatBytes, type GgufFileParts, ggufFile, uint32, uint64 } from '../../support/checkpoint-files.ts';
import { goldenGgufPath } from '../../support/goldens.ts';
import { expectStvError } from '../../support/stv-error.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

function write(bytes: Uint8Array): string {
  return join(temporaryFolder({ 'x.gguf': bytes }), 'x.gguf');
}

const weight = { name: 'w', dims: [2, 3], type: 0, bytes: floatBytes(1, 2, 3, 4, 5, 6) };

describe('readGguf', () => {
  it.each([2, 3])('reads metadata and tensor infos of version %i', (version) => {
    const path = write(
      ggufFile({
        version,
        metadata: {
          count: { type: 'uint32', value: 7 },
          large: { type: 'uint64', value: 2n ** 60n },
          small: { type: 'uint64', value: 5n },
          rate: { type: 'float32', value: 0.5 },
          yes: { type: 'bool', value: true },
          name: { type: 'string', value: 'Grüße, 数学' },
          tokens: { type: 'strings', value: ['', 'a', 'Ġthe', '🙂'] },
          kinds: { type: 'int32s', value: [1, -3] },
        },
        tensors: [weight, { name: 'v', dims: [32], type: 8, bytes: new Uint8Array(34) }],
      }),
    );
    const gguf = readGguf(path);
    expect(Object.fromEntries(gguf.metadata)).toEqual({
      count: 7,
      large: 2n ** 60n,
      small: 5,
      rate: 0.5,
      yes: true,
      name: 'Grüße, 数学',
      tokens: ['', 'a', 'Ġthe', '🙂'],
      kinds: Int32Array.of(1, -3),
    });
    expect(gguf.tensors.get('w')).toMatchObject({ type: 'F32', shape: [3, 2], numElements: 6, numBytes: 24 });
    expect(gguf.tensors.get('v')).toMatchObject({ type: 'Q8_0', shape: [32], numBytes: 34 });
    const { offset } = gguf.tensors.get('w') ?? { offset: -1 };
    expect(offset % 32).toBe(0);
    expect(readFileSync(path).readFloatLE(offset)).toBe(1);
  });

  it('reads strings that are longer than its window', () => {
    const long = 'ab'.repeat(3 << 19);
    const metadata = { long: { type: 'string', value: long }, after: { type: 'uint32', value: 1 } } as const;
    const gguf = readGguf(write(ggufFile({ metadata })));
    expect(gguf.metadata.get('long') === long).toBe(true);
    expect(gguf.metadata.get('after')).toBe(1);
  });

  const huge = 2n ** 62n;
  const raw = (...parts: readonly Uint8Array[]): GgufFileParts => ({
    metadata: { key: { type: 'raw', value: Buffer.concat(parts) } },
  });
  it.each<[string, GgufFileParts, string]>([
    ['version 1', { version: 1 }, 'GGUF version 1'],
    ['a big-endian file', { version: 0x03000000 }, 'big-endian'],
    ['more tensors than bytes', { numTensors: huge }, 'number of tensors'],
    ['a few tensors too many', { tensors: [weight], numTensors: 5n }, 'announces 5 tensors'],
    ['more metadata than bytes', { numMetadata: 2n ** 40n }, 'metadata entries'],
    ['a string longer than the file', raw(uint32(8), uint64(1n << 30n)), 'bytes of "key"'],
    ['an array longer than the file', raw(uint32(9), uint32(0), uint64(1n << 31n)), 'elements of "key"'],
    ['a string array longer than the file', raw(uint32(9), uint32(8), uint64(1n << 27n)), 'strings of "key"'],
    ['an array of arrays', raw(uint32(9), uint32(9), uint64(1n)), 'array of arrays'],
    ['an unknown value type', raw(uint32(13), uint64(0n)), 'unknown type 13'],
    ['an unknown tensor type', { tensors: [{ ...weight, type: 99 }] }, '"w" has the unknown type number 99'],
    ['five dimensions', { tensors: [{ ...weight, dims: [1, 1, 1, 2, 3] }] }, '"w" has 5 dimensions'],
    ['rows that are no whole blocks', { tensors: [{ ...weight, type: 8 }] }, 'not a multiple of 32'],
    ['a tensor that is cut off', { tensors: [{ ...weight, dims: [2, 4] }] }, '"w" needs bytes'],
    ['a tensor of impossible size', { tensors: [{ ...weight, dims: [2 ** 50, 2 ** 50] }] }, '"w" needs bytes'],
    ['the same tensor twice', { tensors: [weight, weight] }, '"w" occurs twice'],
    [
      'tensors that overlap',
      {
        tensors: [
          { ...weight, dims: [9, 3] },
          { ...weight, name: 'v', bytes: new Uint8Array(200) },
        ],
      },
      'overlap',
    ],
    ['a strange alignment', { metadata: { 'general.alignment': { type: 'uint32', value: 24 } } }, 'power of two'],
  ])('refuses %s', (_, parts, message) => {
    const path = write(ggufFile(parts));
    expectStvError(() => readGguf(path), 'checkpoint_invalid', path, message);
  });

  it('refuses more strings than a vocabulary can have, though the file is large enough to hold them', () => {
    const count = CONFIG_LIMITS.vocabSize * 4 + 1;
    const array = Buffer.concat([uint32(9), uint32(8), uint64(BigInt(count))]);
    const path = write(ggufFile({ metadata: { key: { type: 'raw', value: array } } }));
    truncateSync(path, count * 8 + 200); // a hole, which takes no disk: empty strings
    expectStvError(() => readGguf(path), 'checkpoint_invalid', path, '"key"', 'limit');
  });

  it('refuses what is no GGUF file', () => {
    expectStvError(() => readGguf(write(Buffer.from('PK..............'))), 'checkpoint_invalid', 'magic');
    expectStvError(() => readGguf('/does/not/exist.gguf'), 'checkpoint_invalid', '/does/not/exist.gguf', 'ENOENT');
  });

  const golden = readFileSync(goldenGgufPath('tiny-llama'));
  const { tensors } = readGguf(goldenGgufPath('tiny-llama'));
  const dataStart = Math.min(...[...tensors.values()].map(({ offset }) => offset));
  const dataEnd = Math.max(...[...tensors.values()].map(({ offset, numBytes }) => offset + numBytes));

  it('refuses every cut of a sound file', () => {
    const path = write(golden);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: dataEnd - 1 }), (length) => {
        writeFileSync(path, golden.subarray(0, length));
        expectStvError(() => readGguf(path), 'checkpoint_invalid', path);
      }),
      { numRuns: 100 },
    );
  });

  it('answers damage in the header with an StvError or with tensors that lie in the file', () => {
    const path = write(golden);
    const position = fc.integer({ min: 0, max: dataStart - 8 });
    const change = fc.oneof(
      fc.record({ at: position, bytes: fc.uint8Array({ minLength: 1, maxLength: 2 }) }),
      // lengths and counts are words of eight bytes: large ones, as damage in the upper bytes makes them
      fc.record({ at: position, bytes: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value) => uint64(value)) }),
      fc.record({ at: position, bytes: fc.nat({ max: 1 << 20 }).map((value) => uint64(BigInt(value))) }),
    );
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), (changes) => {
        const damaged = Buffer.from(golden);
        for (const { at, bytes } of changes) damaged.set(bytes, at);
        writeFileSync(path, damaged);
        try {
          const checkpoint = openCheckpoint(path);
          let elements = 0;
          for (const name of checkpoint.tensors.keys()) elements += checkpoint.readFloat32(name).length;
          checkpoint.close();
          // the densest type that can be read has 4.5 bits per element
          expect((elements * 4.5) / 8).toBeLessThanOrEqual(golden.length);
        } catch (error) {
          expect(error).toBeInstanceOf(StvError);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('answers any bytes after the magic number with an StvError', () => {
    const path = write(golden);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        writeFileSync(path, Buffer.concat([Buffer.from('GGUF'), uint32(3), bytes]));
        try {
          expect(readGguf(path).tensors.size * 24).toBeLessThanOrEqual(bytes.length);
        } catch (error) {
          expect(error).toBeInstanceOf(StvError);
        }
      }),
      { numRuns: 300 },
    );
  });
});
