/**
 * Uses the runtime wrongly in every way we know, under forced garbage collection, and prints what came of each: the message of
 * the error, or the result. A crash shows as a missing line and a signal instead of an exit code.
 */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { StvError } from '../../../src/errors.ts';
import type { Binding } from '../../../src/runtime/binding.ts';
import { loadRuntime } from '../../../src/runtime/runtime.ts';
import type { Session } from '../../../src/runtime/session.ts';
import type { Tensor } from '../../../src/runtime/tensor.ts';
import { matMulModel, quantizedModel, sumModel } from '../../support/runtime-models.ts';

const { gc } = globalThis;
if (gc === undefined) throw new Error('Run with --expose-gc.');

const runtime = loadRuntime({ logLevel: 'fatal' });
const folder = mkdtempSync(path.join(tmpdir(), 'runtime-misuse-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

interface Parts {
  readonly session: Session;
  readonly binding: Binding;
  readonly a: Tensor<'float32'>;
  readonly c: Tensor<'float32'>;
}

/** A session that computes [22, 28] from [1, 2, 3], ready to run. */
function parts(): Parts {
  const session = runtime.createSession({ model: matMulModel(), intraOpThreads: 1 });
  const binding = session.createBinding();
  const a = runtime.createTensor('float32', [1, 3], Float32Array.of(1, 2, 3));
  const c = runtime.createTensor('float32', [1, 2]);
  binding.bindInput('a', a);
  binding.bindOutput('c', c);
  return { session, binding, a, c };
}

/** Collects, lets the finalizers run, and writes over whatever memory became free. */
async function churn(): Promise<void> {
  for (let turn = 0; turn < 4; turn++) {
    gc?.();
    await new Promise((resolve) => setImmediate(resolve));
    const rubbish = Array.from({ length: 200 }, (_, index) => new Float32Array(1 + (index % 40)).fill(1e30));
    if (rubbish.length !== 200) throw new Error('The rubbish is gone.');
  }
}

function outcome(name: string, result: unknown): void {
  process.stdout.write(`${JSON.stringify([name, result])}\n`);
}

async function attempt(name: string, action: () => unknown): Promise<void> {
  try {
    outcome(name, { value: await action() });
  } catch (error) {
    if (!(error instanceof StvError)) throw error;
    outcome(name, { code: error.code, message: error.message });
  }
}

await attempt('run after the session was disposed', () => {
  const { session, binding } = parts();
  session.dispose();
  session.run(binding);
});

await attempt('run after the binding was disposed', () => {
  const { session, binding } = parts();
  binding.dispose();
  session.run(binding);
});

await attempt('async run after the session was disposed', async () => {
  const { session, binding } = parts();
  session.dispose();
  await churn();
  await session.runAsync(binding);
});

await attempt('run with a disposed tensor', () => {
  const { session, binding, a } = parts();
  a.dispose();
  session.run(binding);
});

await attempt('bind a disposed tensor', () => {
  const { binding, a } = parts();
  a.dispose();
  binding.bindInput('a', a);
});

await attempt('wrong shape in a run', () => {
  const { session, binding } = parts();
  binding.bindOutput('c', runtime.createTensor('float32', [1000, 2]));
  session.run(binding);
});

await attempt('output of too few rows', () => {
  const { session, binding } = parts();
  binding.bindInput('a', runtime.createTensor('float32', [1000, 3]));
  session.run(binding);
});

await attempt('end profiling that never began', () => parts().session.endProfiling());

await attempt('dispose of everything twice, parents first', () => {
  const own = loadRuntime();
  const session = own.createSession({ model: matMulModel() });
  const binding = session.createBinding();
  const a = own.createTensor('float32', [1, 3]);
  binding.bindInput('a', a);
  for (let time = 0; time < 2; time++) for (const item of [own, session, a, binding]) item.dispose();
  return 'nothing happened';
});

await attempt('keep only session and binding', async () => {
  const output = new Float32Array(2);
  const kept = (() => {
    const { session, binding } = parts();
    binding.bindOutput('c', runtime.createTensor('float32', [1, 2], output));
    return { session, binding };
  })();
  await churn();
  kept.session.run(kept.binding);
  return [...output];
});

await attempt('keep only the binding', async () => {
  const output = new Float32Array(2);
  const binding = (() => {
    const made = parts().binding;
    made.bindOutput('c', runtime.createTensor('float32', [1, 2], output));
    return made;
  })();
  await churn();
  binding.session.run(binding);
  return [...output];
});

await attempt('keep only a tensor of a forgotten runtime', async () => {
  const tensor = (() => loadRuntime().createTensor('float32', [3], Float32Array.of(7, 8, 9)))();
  await churn();
  const { session, binding } = parts();
  binding.bindInput('a', runtime.createTensor('float32', [1, 3], tensor.data));
  const c = runtime.createTensor('float32', [1, 2]);
  binding.bindOutput('c', c);
  session.run(binding);
  return [...c.data];
});

await attempt('forget everything during an async run', async () => {
  const output = new Float32Array(2);
  const running = (() => {
    const { session, binding } = parts();
    binding.bindOutput('c', runtime.createTensor('float32', [1, 2], output));
    return session.runAsync(binding);
  })();
  await churn();
  await running;
  return [...output];
});

await attempt('dispose of everything during an async run', async () => {
  const { session, binding, a, c } = parts();
  const output = c.data;
  const running = session.runAsync(binding);
  for (const item of [a, c, session, binding]) item.dispose();
  await churn();
  await running;
  return [...output];
});

await attempt('async runs of many bindings at once', async () => {
  const { session, a } = parts();
  const outputs = Array.from({ length: 40 }, () => runtime.createTensor('float32', [1, 2]));
  await Promise.all(
    outputs.map((output) => {
      const binding = session.createBinding();
      binding.bindInput('a', a);
      binding.bindOutput('c', output);
      return session.runAsync(binding);
    }),
  );
  return outputs.every(({ data }) => data[0] === 22 && data[1] === 28);
});

const SIZE = 64;
const modelPath = path.join(folder, 'quantized.onnx');
writeFileSync(modelPath, quantizedModel('Relu', SIZE));
writeFileSync(path.join(folder, 'weights.bin'), new Uint8Array(SIZE * SIZE));

await attempt('forget shared weights and their container', async () => {
  const session = (() => {
    const weights = runtime.createTensor('uint8', [SIZE, SIZE / 32, 32], new Uint8Array(SIZE * SIZE).fill(129));
    const prepackedWeights = runtime.createPrepackedWeights();
    const made = runtime.createSession({
      model: modelPath,
      initializers: new Map([['weights', weights]]),
      prepackedWeights,
    });
    prepackedWeights.dispose();
    weights.dispose();
    return made;
  })();
  await churn();
  const binding = session.createBinding();
  const x = runtime.createTensor('float32', [1, SIZE]);
  const z = runtime.createTensor('float32', [1, SIZE]);
  x.data.fill(1);
  binding.bindInput('x', x);
  binding.bindOutput('z', z);
  session.run(binding);
  // (129 - 128) * 0.01 for each of 64 inputs
  return Math.round((z.data[5] ?? 0) * 1000) / 1000;
});

await attempt('forget a shared initializer that is read in each run', async () => {
  // small arrays: their memory is reused at once when nothing holds it
  const size = 32;
  const sessions = Array.from({ length: 50 }, () => {
    const w = runtime.createTensor('float32', [size], new Float32Array(size).fill(2));
    const made = runtime.createSession({ model: sumModel(size), intraOpThreads: 1, initializers: new Map([['w', w]]) });
    w.dispose();
    return made;
  });
  await churn();
  const sums = new Set<number>();
  for (const session of sessions) {
    const binding = session.createBinding();
    const y = runtime.createTensor('float32', [size]);
    binding.bindInput('x', runtime.createTensor('float32', [size]));
    binding.bindOutput('y', y);
    session.run(binding);
    for (const sum of y.data) sums.add(sum);
  }
  return [...sums];
});

await attempt('a disposed initializer', () => {
  const weights = runtime.createTensor('uint8', [SIZE, SIZE / 32, 32]);
  weights.dispose();
  runtime.createSession({ model: modelPath, initializers: new Map([['weights', weights]]) });
});

await attempt('a disposed container', () => {
  const prepackedWeights = runtime.createPrepackedWeights();
  prepackedWeights.dispose();
  runtime.createSession({ model: modelPath, prepackedWeights });
});

await attempt('an initializer of the wrong shape', () => {
  const weights = runtime.createTensor('uint8', [1, 1, 32]);
  runtime.createSession({ model: modelPath, initializers: new Map([['weights', weights]]) });
});

await attempt('an initializer of the wrong type', () => {
  const weights = runtime.createTensor('float32', [SIZE, SIZE / 32, 32]);
  runtime.createSession({ model: modelPath, initializers: new Map([['weights', weights]]) });
});

await attempt('an external initializer of the wrong shape', () => {
  const weights = runtime.createTensor('uint8', [SIZE]);
  runtime.createSession({ model: modelPath, externalInitializers: new Map([['weights', weights]]) });
});

await attempt('initializers for what is no model', () => {
  const weights = runtime.createTensor('float32', [1]);
  runtime.createSession({ model: Uint8Array.of(0x3a, 0xff), initializers: new Map([['weights', weights]]) });
});

await attempt('an initializer that the model does not have', () => {
  const weights = runtime.createTensor('float32', [1]);
  runtime.createSession({ model: matMulModel(), initializers: new Map([['nothing', weights]]) });
});

await attempt('a model cut short at every length', () => {
  const whole = matMulModel();
  let numRefused = 0;
  for (let length = 0; length < whole.length; length++) {
    try {
      runtime.createSession({ model: whole.slice(0, length) }).dispose();
    } catch (error) {
      if (!(error instanceof StvError)) throw error;
      numRefused++;
    }
  }
  return numRefused > whole.length / 2;
});

await attempt('shared threads after an environment without them', () => {
  loadRuntime({ sharedThreads: 2 }).createSession({ model: matMulModel() });
});

await attempt('a negative number of threads', () => {
  loadRuntime({ sharedThreads: -1 });
});

await churn();
outcome('end', {});

// the process ends while ONNX Runtime computes on another thread, with everything still open
const { session, binding } = parts();
for (let run = 0; run < 3; run++) session.run(binding);
void session.runAsync(binding);
process.exit(0);
