import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { openSafetensors } from '../../../src/models/safetensors.ts';
import { floatBytes, safetensorsFile } from '../../support/checkpoint-files.ts';
import { goldenPath } from '../../support/goldens.ts';
import { expectStvError } from '../../support/stv-error.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

function write(bytes: Uint8Array): string {
  return join(temporaryFolder({ 'x.safetensors': bytes }), 'x.safetensors');
}

function readAll(path: string): Map<string, Float32Array> {
  const file = openSafetensors(path);
  try {
    return new Map([...file.tensors].map(([name, tensor]) => [name, file.readFloat32(tensor)]));
  } finally {
    file.close();
  }
}

describe('openSafetensors', () => {
  it('widens F32, F16 and BF16, also subnormals, infinities and the sign of zero', () => {
    const halves = Uint16Array.of(0x3c00, 0xc100, 0x0001, 0x8000, 0x7c00, 0x7bff);
    const brain = Uint16Array.of(0x3f80, 0xc020, 0x0001, 0x8000, 0xff80, 0x7f7f);
    const data = Buffer.concat([floatBytes(1.5, -2), new Uint8Array(halves.buffer), new Uint8Array(brain.buffer)]);
    const path = write(
      safetensorsFile(
        {
          __metadata__: { format: 'pt' },
          single: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
          half: { dtype: 'F16', shape: [2, 3], data_offsets: [8, 20] },
          brain: { dtype: 'BF16', shape: [6], data_offsets: [20, 32] },
        },
        data,
      ),
    );
    const tensors = readAll(path);
    expect([...(tensors.get('single') ?? [])]).toEqual([1.5, -2]);
    expect([...(tensors.get('half') ?? [])]).toEqual([1, -2.5, 2 ** -24, -0, Number.POSITIVE_INFINITY, 65504]);
    expect([...(tensors.get('brain') ?? [])]).toEqual([
      1,
      -2.5,
      2 ** -133,
      -0,
      Number.NEGATIVE_INFINITY,
      Math.fround(3.3895313892515355e38),
    ]);
  });

  it('keeps scalars and empty tensors', () => {
    const header = {
      scalar: { dtype: 'F32', shape: [], data_offsets: [0, 4] },
      empty: { dtype: 'F32', shape: [0, 5], data_offsets: [4, 4] },
    };
    const tensors = readAll(write(safetensorsFile(header, floatBytes(7))));
    expect(tensors.get('scalar')).toEqual(Float32Array.of(7));
    expect(tensors.get('empty')).toHaveLength(0);
  });

  const entry = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };
  it.each([
    ['a header that is not JSON', '{"w": ', 'not valid JSON'],
    ['a header that is a list', [], 'not a JSON object'],
    ['an entry that is null', { w: null }, '"w"'],
    ['an unknown dtype', { w: { ...entry, dtype: 'Q7' } }, '"w" has the unknown dtype "Q7"'],
    ['a negative size', { w: { ...entry, shape: [-2] } }, '"w" has no valid shape'],
    ['a fractional size', { w: { ...entry, shape: [0.5, 4] } }, '"w" has no valid shape'],
    ['nine dimensions', { w: { ...entry, shape: [1, 1, 1, 1, 1, 1, 1, 1, 2] } }, '"w" has no valid shape'],
    ['offsets that are missing', { w: { dtype: 'F32', shape: [2] } }, '"w" has no valid data_offsets'],
    ['an end before the begin', { w: { ...entry, data_offsets: [8, 0] } }, '"w" lies at'],
    ['an end behind the file', { w: { ...entry, shape: [4], data_offsets: [0, 16] } }, '"w" lies at'],
    ['a shape that does not fit the bytes', { w: { ...entry, shape: [3] } }, '"w" of shape [3]'],
    ['a shape whose product is huge', { w: { ...entry, shape: [2 ** 50, 2 ** 50] } }, 'does not agree'],
    ['tensors that overlap', { w: entry, v: { ...entry, shape: [1], data_offsets: [4, 8] } }, 'overlap'],
  ])('refuses %s', (_, header, message) => {
    const path = write(safetensorsFile(header, floatBytes(1, 2)));
    expectStvError(() => openSafetensors(path), 'checkpoint_invalid', path, message);
  });

  it.each([
    ['an empty file', new Uint8Array()],
    ['a header length of 2^63', Buffer.concat([Buffer.from([0, 0, 0, 0, 0, 0, 0, 128]), Buffer.from('{}')])],
    ['a header length past the end', Buffer.concat([Buffer.from([9, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('{}')])],
    ['a header that is not UTF-8', Buffer.from([1, 0, 0, 0, 0, 0, 0, 0, 0xff])],
  ])('refuses %s', (_, bytes) => {
    const path = write(bytes);
    expectStvError(() => openSafetensors(path), 'checkpoint_invalid', path);
  });

  it('refuses to read a dtype that is no float, naming the tensor', () => {
    const header = { w: { dtype: 'I64', shape: [1], data_offsets: [0, 8] } };
    expectStvError(() => readAll(write(safetensorsFile(header, floatBytes(1, 2)))), 'checkpoint_invalid', '"w"', 'I64');
  });

  it('says so when the file has been cut off since it was opened', () => {
    const path = write(safetensorsFile({ w: { dtype: 'F32', shape: [2], data_offsets: [0, 8] } }, floatBytes(1, 2)));
    const file = openSafetensors(path);
    truncateSync(path, readFileSync(path).length - 4);
    const [tensor] = file.tensors.values();
    expectStvError(() => tensor && file.readFloat32(tensor), 'checkpoint_invalid', 'tensor "w"', 'cut off');
    file.close();
  });

  const golden = readFileSync(goldenPath('tiny-qwen2', 'model-00002-of-00002.safetensors'));
  const headerBytes = 8 + Number(golden.readBigUInt64LE());

  it('refuses every cut of a sound file', () => {
    const path = write(golden);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: golden.length - 1 }), (length) => {
        writeFileSync(path, golden.subarray(0, length));
        expectStvError(() => openSafetensors(path), 'checkpoint_invalid', path);
      }),
      { numRuns: 100 },
    );
  });

  it('answers damage in the header with an StvError or with tensors that lie in the file', () => {
    const path = write(golden);
    const change = fc.record({ at: fc.integer({ min: 0, max: headerBytes - 1 }), byte: fc.nat(255) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        const bytes = Buffer.from(golden);
        for (const { at, byte } of changes) bytes[at] = byte;
        writeFileSync(path, bytes);
        try {
          let elements = 0;
          for (const values of readAll(path).values()) elements += values.length;
          expect(elements * 2).toBeLessThanOrEqual(golden.length);
        } catch (error) {
          expect(error).toBeInstanceOf(StvError);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('answers any bytes with an StvError', () => {
    const path = write(golden);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        writeFileSync(path, bytes);
        expectStvError(() => openSafetensors(path), 'checkpoint_invalid', path);
      }),
      { numRuns: 200 },
    );
  });
});
