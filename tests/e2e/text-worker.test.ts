/** Encoding in its worker, which only the built program has. */
import { setMaxListeners } from 'node:events';
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

it('a job that nobody waits for any more is never begun', async () => {
  const service = await open();
  const ms = await msOf(() => service.tokenize(0, long));
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  const first = service.tokenize(0, long);
  const cancelled = Array.from({ length: 200 }, () => service.tokenize(0, long, controller.signal));
  const outcomes = Promise.allSettled(cancelled);
  const last = msOf(() => service.tokenize(0, 'x = 5'));
  controller.abort(new Error('gone'));
  for (const outcome of await outcomes) expect(outcome).toMatchObject({ reason: { message: 'gone' } });
  await first;
  expect(await last).toBeLessThan(100 * ms);
  await expect(service.tokenize(0, 'x', controller.signal)).rejects.toThrow('gone');
});

it('what waits when it is closed ends too', async () => {
  const service = await open();
  const outcomes = Promise.allSettled([service.tokenize(0, long), service.tokenize(0, 'x = 5')]);
  await service.close();
  for (const { status } of await outcomes) expect(status).toBe('rejected');
  await expect(service.tokenize(0, 'x = 5')).rejects.toMatchObject({ code: 'draining' });
});
