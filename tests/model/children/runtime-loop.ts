/**
 * Creates, runs and releases in a loop under forced garbage collection, and prints what that did to the memory of the process.
 * Parameter: `dispose` gives everything back by hand, `forget` leaves it to the garbage collector.
 */

import { loadRuntime } from '../../../src/runtime/runtime.ts';
import { FLOAT, tinyModel } from '../../support/tiny-onnx.ts';

const { gc } = globalThis;
if (gc === undefined) throw new Error('Run with --expose-gc.');

const mode = process.argv[2];
const SIZE = 512; // 1 MiB of weights per session
const weights = new Float32Array(SIZE * SIZE).fill(1);
const model = tinyModel({
  inputs: [{ name: 'x', type: FLOAT, dims: ['n', SIZE] }],
  outputs: [{ name: 'y', type: FLOAT, dims: ['n', SIZE] }],
  nodes: [{ op: 'MatMul', inputs: ['x', 'w'], outputs: ['y'] }],
  initializers: [{ name: 'w', type: FLOAT, dims: [SIZE, SIZE], data: weights }],
});
const runtime = loadRuntime();

async function round(index: number): Promise<void> {
  const session = runtime.createSession({
    model,
    intraOpThreads: 1,
    prepackedWeights: runtime.createPrepackedWeights(),
  });
  const binding = session.createBinding();
  const x = runtime.createTensor('float32', [2, SIZE]);
  const y = runtime.createTensor('float32', [2, SIZE]);
  x.data.fill(index);
  binding.bindInput('x', x);
  binding.bindOutput('y', y);
  for (let run = 0; run < 5; run++) {
    if (run % 2 === 0) session.run(binding, { tag: 'loop' });
    else await session.runAsync(binding);
    if (y.data[SIZE] !== index * SIZE) throw new Error(`Round ${index} computed ${y.data[SIZE]}.`);
    // bound again and again: a binding must let go of what it held before
    binding.bindOutput('y', run % 2 === 0 ? runtime.createTensor('float32', [2, SIZE]) : y);
    binding.bindOutput('y', y);
  }
  if (mode === 'dispose') for (const item of [x, session, binding, y]) item.dispose();
}

async function collect(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) {
    gc?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function rounds(count: number): Promise<number> {
  for (let index = 0; index < count; index++) {
    await round(index);
    if (index % 5 === 0) await collect();
  }
  await collect();
  return process.memoryUsage.rss();
}

const before = await rounds(40);
const after = await rounds(200);
runtime.dispose();
process.stdout.write(JSON.stringify({ growthMiB: Math.round((after - before) / 2 ** 20) }));
