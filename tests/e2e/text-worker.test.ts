/** Encoding in its worker, which only the built program has. */
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import type { TextService } from '../../src/engine/text-service.ts';

const root = path.resolve(import.meta.dirname, '../..');
const { openTextService } = (await import(path.join(root, 'dist/engine/text-service.js'))) as {
  openTextService: typeof import('../../src/engine/text-service.ts').openTextService;
};
const long = 'Step 1: 3x + 4 = 19, so 3x = 15. '.repeat(8000);

async function open(timeoutMs?: number): Promise<TextService> {
  const service = await openTextService([{ dir: path.join(root, 'packs/stv-mini/generator') }], timeoutMs);
  onTestFinished(() => service.close());
  return service;
}

async function msOf(work: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await work();
  return performance.now() - begun;
}

it('a job that waits behind others is not late', async () => {
  const alone = await open();
  await alone.tokenize(0, long);
  const ms = await msOf(() => alone.tokenize(0, long));
  const service = await open(5 * ms);
  const counts = await Promise.all(Array.from({ length: 16 }, () => service.tokenize(0, long)));
  expect(new Set(counts.map(({ length }) => length)).size).toBe(1);
});

it('a job that takes too long fails alone', async () => {
  const alone = await open();
  const ms = await msOf(() => alone.tokenize(0, long));
  const service = await open(5 * ms);
  const late = service.tokenize(0, long.repeat(50));
  const others = ['x = 5', 'y = 6'].map((text) => service.tokenize(0, text));
  await expect(late).rejects.toMatchObject({ code: 'internal' });
  for (const tokens of await Promise.all(others)) expect(tokens.length).toBeGreaterThan(2);
  expect((await service.tokenize(0, 'x = 5')).length).toBeGreaterThan(2);
});
