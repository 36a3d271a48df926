/** Runs the device paths on WebGPU beside the CPU and prints one JSON line for each finding. Needs a Vulkan driver. */

import { StvError } from '../../../src/errors.ts';
import type { Binding } from '../../../src/runtime/binding.ts';
import { loadRuntime } from '../../../src/runtime/runtime.ts';
import type { Session } from '../../../src/runtime/session.ts';
import { ATTENTION, attentionModel, binaryModel, matMulModel } from '../../support/runtime-models.ts';
import { FLOAT } from '../../support/tiny-onnx.ts';

const { gc } = globalThis;
if (gc === undefined) throw new Error('Run with --expose-gc.');

const runtime = loadRuntime({ logLevel: 'fatal' });
const device = { type: 'webgpu' } as const;

function outcome(name: string, result: unknown): void {
  process.stdout.write(`${JSON.stringify([name, result])}\n`);
}

async function refusal(action: () => unknown): Promise<string> {
  try {
    await action();
  } catch (error) {
    if (error instanceof StvError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'not refused';
}

function values(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, index) => Math.sin(index * 1.7 + seed));
}

function maxDifference(left: Float32Array, right: Float32Array): number {
  return left.reduce((max, value, index) => Math.max(max, Math.abs(value - (right[index] ?? Number.NaN))), 0);
}

// the first device session of the process
const product = runtime.createSession({ model: matMulModel(), device });
outcome('location', product.location);

{
  const binding = product.createBinding();
  const a = product.createDeviceTensor('float32', [1, 3]);
  const c = product.createDeviceTensor('float32', [1, 2]);
  runtime.copy(runtime.createTensor('float32', [1, 3], Float32Array.of(1, 2, 3)), a);
  binding.bindInput('a', a);
  binding.bindOutput('c', c);
  product.run(binding);
  const back = runtime.createTensor('float32', [1, 2]);
  runtime.copy(c, back);
  outcome('device to device', [...back.data]);
  // a tensor of the process is copied when it is bound, an output when the run ends
  const host = runtime.createTensor('float32', [1, 2]);
  binding.bindInput('a', runtime.createTensor('float32', [1, 3], Float32Array.of(1, 0, 0)));
  binding.bindOutput('c', host);
  binding.synchronizeInputs();
  product.run(binding);
  binding.synchronizeOutputs();
  outcome('host to host', [...host.data]);
  outcome('data of a device tensor', await refusal(() => a.data));
}

for (const type of ['float32', 'float16', 'int8', 'uint8', 'int32', 'int64'] as const) {
  const from = runtime.createTensor(type, [7]);
  const bytes = new Uint8Array(from.data.buffer, from.data.byteOffset, from.data.byteLength);
  bytes.forEach((_, index) => {
    bytes[index] = (index * 37 + 11) & 255;
  });
  const there = product.createDeviceTensor(type, [7]);
  const further = product.createDeviceTensor(type, [7]);
  const back = runtime.createTensor(type, [7]);
  runtime.copy(from, there);
  runtime.copy(there, further);
  runtime.copy(further, back);
  outcome(
    `copies of ${type}`,
    Buffer.from(bytes).equals(Buffer.from(back.data.buffer, back.data.byteOffset, bytes.length)),
  );
}

{
  // one step after the other, the cache bound in place: on the device, and in the memory of the process
  const { numHeads, numKeyValueHeads, headDim, maxLength } = ATTENTION;
  const cacheDims = [1, numKeyValueHeads, maxLength, headDim];
  const side = (
    session: Session,
  ): { session: Session; binding: Binding; caches: ReturnType<Session['createDeviceTensor']>[] } => {
    const binding = session.createBinding();
    const caches = ['key', 'value'].map((name) => {
      const cache = session.createDeviceTensor('float32', cacheDims);
      runtime.copy(runtime.createTensor('float32', cacheDims), cache);
      binding.bindInput(`past_${name}`, cache);
      binding.bindOutput(`present_${name}`, cache);
      return cache;
    });
    return { session, binding, caches };
  };
  const onDevice = side(runtime.createSession({ model: attentionModel(), device }));
  const onCpu = side(runtime.createSession({ model: attentionModel() }));
  let past = 0;
  for (const tokens of [4, 1, 3, 1]) {
    const total = past + tokens;
    const results = [onDevice, onCpu].map(({ session, binding }) => {
      for (const [name, width] of [
        ['query', numHeads * headDim],
        ['key', numKeyValueHeads * headDim],
        ['value', numKeyValueHeads * headDim],
      ] as const) {
        const data = values(tokens * width, past + name.length);
        binding.bindInput(name, runtime.createTensor('float32', [1, tokens, width], data));
      }
      binding.bindInput('last_position', runtime.createTensor('int32', [1], Int32Array.of(total - 1)));
      binding.bindInput('total_length', runtime.createTensor('int32', [1], Int32Array.of(total)));
      const attention = runtime.createTensor('float32', [1, tokens, numHeads * headDim]);
      binding.bindOutput('attention', attention);
      session.run(binding);
      return attention.data;
    });
    const [left, right] = results;
    if (left === undefined || right === undefined) throw new Error('There are two sides.');
    outcome(`attention after ${past} and ${tokens}`, {
      isClose: maxDifference(left, right) < 1e-5,
      isSomething: left.some((x) => Math.abs(x) > 0.01),
    });
    past = total;
  }
  const live = past * headDim; // one key-value head: its rows come first
  for (const [index, name] of ['keys', 'values'].entries()) {
    const copies = [onDevice, onCpu].map(({ caches }) => {
      const copy = runtime.createTensor('float32', cacheDims);
      const cache = caches[index];
      if (cache !== undefined) runtime.copy(cache, copy);
      return copy.data.subarray(0, live);
    });
    const [left, right] = copies;
    if (left === undefined || right === undefined) throw new Error('There are two sides.');
    outcome(`cached ${name}`, { isClose: maxDifference(left, right) < 1e-5, isSomething: left.some((x) => x !== 0) });
  }
}

{
  // one run at a time in the whole process; what is released meanwhile waits
  const binding = product.createBinding();
  const output = runtime.createTensor('float32', [1, 2]);
  const spare = product.createDeviceTensor('float32', [1000]);
  binding.bindInput('a', runtime.createTensor('float32', [1, 3], Float32Array.of(0, 0, 1)));
  binding.bindOutput('c', output);
  const other = runtime.createSession({ model: matMulModel(), device });
  const otherBinding = other.createBinding();
  otherBinding.bindInput('a', runtime.createTensor('float32', [1, 3]));
  otherBinding.bindOutput('c', runtime.createTensor('float32', [1, 2]));
  const running = product.runAsync(binding);
  outcome('second run', await refusal(() => other.run(otherBinding)));
  outcome('second async run', await refusal(() => other.runAsync(otherBinding)));
  outcome('bind during a run', await refusal(() => otherBinding.clearInputs()));
  outcome('allocate during a run', await refusal(() => other.createDeviceTensor('float32', [1])));
  outcome('copy during a run', await refusal(() => runtime.copy(spare, runtime.createTensor('float32', [1000]))));
  outcome('create during a run', await refusal(() => runtime.createSession({ model: matMulModel(), device })));
  for (const item of [spare, otherBinding, other]) item.dispose();
  await running;
  outcome('after it', [...output.data]);
  product.run(binding);
}

outcome(
  'bad model',
  await refusal(() => runtime.createSession({ model: binaryModel('NoSuchOperator', FLOAT), device })),
);

for (let index = 0; index < 20; index++) {
  const session = runtime.createSession({ model: matMulModel(), device });
  const binding = session.createBinding();
  binding.bindInput('a', session.createDeviceTensor('float32', [1, 3]));
  binding.bindOutput('c', session.createDeviceTensor('float32', [1, 2]));
  session.run(binding);
  gc();
  await new Promise((resolve) => setImmediate(resolve));
}
outcome('end', {});
