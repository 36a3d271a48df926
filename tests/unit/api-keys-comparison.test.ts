/** How keys are compared: no test of time, which a busy machine would fail, but that nothing else can decide. */
import { timingSafeEqual } from 'node:crypto';
import path from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { type ApiKeys, loadApiKeys } from '../../src/api-keys.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

vi.mock('node:crypto', async (importOriginal) => {
  const crypto = await importOriginal<typeof import('node:crypto')>();
  return { ...crypto, timingSafeEqual: vi.fn(crypto.timingSafeEqual) };
});

const compare = vi.mocked(timingSafeEqual);
const secrets = ['stv-first', 'stv-second', 'stv-third', 'stv-fourth'];
const load = (): ApiKeys => loadApiKeys(path.join(temporaryFolder({ keys: secrets.join('\n') }), 'keys'));

afterEach(() => {
  compare.mockClear();
});

it.each([...secrets, 'stv-firs', 'stv-first-and-more', '', 'x'.repeat(10_000), 'grüße 🦊'])(
  'compares %j with every key, as digests of 32 bytes',
  (secret) => {
    const found = load().find(secret);
    expect(found !== undefined).toBe(secrets.includes(secret));
    expect(compare).toHaveBeenCalledTimes(secrets.length);
    const sizes = compare.mock.calls.flatMap((pair) => pair.map(({ byteLength }) => byteLength));
    expect(new Set(sizes)).toEqual(new Set([32]));
    const asked = new Set(compare.mock.calls.map(([, digest]) => Buffer.from(digest as Uint8Array).toString('hex')));
    expect(asked.size, 'the same digest each time').toBe(1);
  },
);

it('lets the comparison in constant time alone decide', () => {
  const keys = load();
  for (let n = 0; n < secrets.length; n++) compare.mockReturnValueOnce(false);
  expect(keys.find('stv-first'), 'another way to find it').toBeUndefined();
  compare.mockReturnValueOnce(true);
  expect(keys.find('stv-unknown')).toBe(keys.find('stv-first'));
});
