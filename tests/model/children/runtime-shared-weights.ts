/**
 * Six sessions with shared threads over one 16 MiB weight, as `shared` or as `separate`; prints how much memory the process took and what they computed.
 */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { loadRuntime } from '../../../src/runtime/runtime.ts';
import { quantizedModel } from '../../support/runtime-models.ts';

const isShared = process.argv[2] === 'shared';
const SIZE = 4096;
const folder = mkdtempSync(path.join(tmpdir(), 'runtime-shared-'));
const bytes = new Uint8Array(SIZE * SIZE).map((_, index) => (index * 2654435761) >>> 24);
writeFileSync(path.join(folder, 'weights.bin'), bytes);

const runtime = loadRuntime({ sharedThreads: 2 });
const weights = runtime.createTensor('uint8', [SIZE, SIZE / 32, 32], bytes);
const prepackedWeights = runtime.createPrepackedWeights();
const x = runtime.createTensor('float32', [1, SIZE]);
x.data.forEach((_, index) => {
  x.data[index] = Math.sin(index);
});

const before = process.memoryUsage.rss();
const sums: number[] = [];
const sessions = Array.from({ length: 6 }, (_, index) => {
  const model = path.join(folder, `${index}.onnx`);
  // graphs that differ, like those for different numbers of lanes
  writeFileSync(model, quantizedModel(index % 2 === 0 ? 'Abs' : 'Neg', SIZE));
  const initializers = new Map([['weights', weights]]);
  const session = runtime.createSession({
    model,
    ...(isShared ? { initializers, prepackedWeights } : {}),
  });
  const binding = session.createBinding();
  const z = runtime.createTensor('float32', [1, SIZE]);
  binding.bindInput('x', x);
  binding.bindOutput('z', z);
  session.run(binding);
  sums.push(z.data.reduce((sum, value) => sum + Math.abs(value), 0));
  return session;
});
const growthMiB = Math.round((process.memoryUsage.rss() - before) / 2 ** 20);
for (const session of sessions) session.dispose();
rmSync(folder, { recursive: true });
process.stdout.write(JSON.stringify({ growthMiB, numSums: new Set(sums).size, sum: sums[0] }));
