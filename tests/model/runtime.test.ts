import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { InferenceSession, Tensor as StockTensor } from 'onnxruntime-node';
import { afterAll, describe, expect, it } from 'vitest';
import { StvError } from '../../src/errors.ts';
import { ORT_API_NAMES, ORT_API_VERSION } from '../../src/runtime/ort-api-table.ts';
import { findPackagedLibrary, openOrtLibrary } from '../../src/runtime/ort-library.ts';
import { loadRuntime } from '../../src/runtime/runtime.ts';
import { ATTENTION, attentionModel, binaryModel, matMulModel } from '../support/runtime-models.ts';
import { FLOAT, FLOAT16, INT32, INT64, tinyModel, UINT8 } from '../support/tiny-onnx.ts';

const runtime = loadRuntime();
afterAll(() => runtime.dispose());

const one = { intraOpThreads: 1 } as const;

/** Deterministic values in -1 .. 1. */
function values(count: number, seed: number): Float32Array {
  let state = seed >>> 0 || 1;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

function failure(action: () => unknown): StvError {
  try {
    action();
  } catch (error) {
    if (error instanceof StvError) return error;
    throw error;
  }
  throw new Error('The action did not throw.');
}

describe('the library', () => {
  it('is the one inside onnxruntime-node, with the CPU among its providers', () => {
    expect(runtime.libraryPath).toBe(findPackagedLibrary());
    expect(runtime.libraryPath).toContain('onnxruntime-node');
    expect(runtime.version).toMatch(/^1\.30\.\d+$/u);
    expect(runtime.providers()).toContain('CPUExecutionProvider');
  });

  it('can be named by its file or its folder', () => {
    for (const libraryPath of [findPackagedLibrary(), path.dirname(findPackagedLibrary())]) {
      const named = loadRuntime({ libraryPath });
      expect(named.libraryPath).toBe(runtime.libraryPath);
      named.dispose();
    }
  });

  it('is refused when its version is not the supported one, with both versions and the path', () => {
    const error = failure(() => openOrtLibrary(undefined, '1.31'));
    expect(error.code).toBe('runtime_failed');
    expect(error.message).toContain(runtime.version);
    expect(error.message).toContain('1.31');
    expect(error.message).toContain(runtime.libraryPath);
  });

  it('is refused when it is missing, no library, or another one', () => {
    for (const libraryPath of ['/nowhere/libonnxruntime.so', 'package.json', process.execPath, tmpdir()]) {
      const error = failure(() => loadRuntime({ libraryPath }));
      expect(error.code).toBe('runtime_failed');
      expect(error.message).toContain(path.basename(libraryPath));
    }
  });

  it('has its functions where the table says', () => {
    expect(ORT_API_VERSION).toBe(30);
    expect(ORT_API_NAMES).toHaveLength(425);
    expect(new Set(ORT_API_NAMES).size).toBe(425);
    // entries that the headers of ONNX Runtime assert at compile time, spread over the table
    const anchors = {
      Run: 9,
      ReleaseSessionOptions: 100,
      GetAvailableProviders: 125,
      AddInitializer: 150,
      RunAsync: 260,
    };
    for (const [name, index] of Object.entries(anchors)) expect(ORT_API_NAMES[index]).toBe(name);
  });
});

describe('results', () => {
  it('equal the stock binding on a matrix product, also in async runs and with a new batch size', async () => {
    const session = runtime.createSession({ ...one, model: matMulModel() });
    const stock = await InferenceSession.create(matMulModel(), { intraOpNumThreads: 1 });
    const binding = session.createBinding();
    for (const rows of [1, 4, 2]) {
      const data = values(rows * 3, rows);
      const a = runtime.createTensor('float32', [rows, 3], data);
      const c = runtime.createTensor('float32', [rows, 2]);
      binding.bindInput('a', a);
      binding.bindOutput('c', c);
      const expected = await stock.run({ a: new StockTensor('float32', data, [rows, 3]) });
      session.run(binding);
      expect(c.data).toEqual(expected['c']?.data);
      c.data.fill(0);
      await session.runAsync(binding, { tag: `rows-${rows}` });
      expect(c.data).toEqual(expected['c']?.data);
    }
    await stock.release();
    session.dispose();
  });

  it('follow changes of the bound memory without binding again', () => {
    const session = runtime.createSession({ ...one, model: binaryModel('Add', FLOAT) });
    const binding = session.createBinding();
    const memory = new Float32Array(100);
    const x = runtime.createTensor('float32', [3], memory.subarray(10, 13));
    const z = runtime.createTensor('float32', [3], memory.subarray(50, 53));
    binding.bindInput('x', x);
    binding.bindInput('y', x);
    binding.bindOutput('z', z);
    for (const base of [1, 5]) {
      memory.set([base, base + 1, base + 2], 10);
      session.run(binding);
      expect([...memory.subarray(49, 54)]).toEqual([0, 2 * base, 2 * base + 2, 2 * base + 4, 0]);
    }
    session.dispose();
  });

  it.each([
    ['int32', INT32, [5, -7, 1], [2, 3, -4], [7, -4, -3]],
    ['int64', INT64, [5n, -7n, 2n ** 40n], [2n, 3n, 1n], [7n, -4n, 2n ** 40n + 1n]],
    // 1.0 + 1.0 = 2.0, 0.5 + 1.5 = 2.0, 0 + -1.0 = -1.0 in half precision
    ['float16', FLOAT16, [0x3c00, 0x3800, 0], [0x3c00, 0x3e00, 0xbc00], [0x4000, 0x4000, 0xbc00]],
  ] as const)('are right for %s', (type, onnxType, left, right, sum) => {
    const session = runtime.createSession({ ...one, model: binaryModel('Add', onnxType) });
    const binding = session.createBinding();
    const x = runtime.createTensor(type, [3]);
    const y = runtime.createTensor(type, [3]);
    const z = runtime.createTensor(type, [3]);
    // the element type decides which of the two array kinds it is
    (x.data as unknown as { set(from: ArrayLike<unknown>): void }).set(left);
    (y.data as unknown as { set(from: ArrayLike<unknown>): void }).set(right);
    binding.bindInput('x', x);
    binding.bindInput('y', y);
    binding.bindOutput('z', z);
    session.run(binding);
    expect([...z.data]).toEqual([...sum]);
    session.dispose();
  });

  it('are right for 8-bit integers, booleans, scalars and empty tensors', () => {
    const session = runtime.createSession({
      ...one,
      model: tinyModel({
        inputs: [
          { name: 'bytes', type: UINT8, dims: ['n'] },
          { name: 'scalar', type: FLOAT, dims: [] },
        ],
        outputs: [
          { name: 'flags', type: 9, dims: ['n'] },
          { name: 'negated', type: FLOAT, dims: [] },
        ],
        nodes: [
          { op: 'Cast', inputs: ['bytes'], outputs: ['flags'], attributes: { to: 9 } },
          { op: 'Neg', inputs: ['scalar'], outputs: ['negated'] },
        ],
      }),
    });
    expect(session.inputs).toEqual([
      { name: 'bytes', type: 'uint8', dims: ['n'] },
      { name: 'scalar', type: 'float32', dims: [] },
    ]);
    const binding = session.createBinding();
    const negated = runtime.createTensor('float32', []);
    binding.bindInput('scalar', runtime.createTensor('float32', [], Float32Array.of(2.5)));
    binding.bindOutput('negated', negated);
    for (const bytes of [Uint8Array.of(0, 3, 255), new Uint8Array(0)]) {
      const flags = runtime.createTensor('bool', [bytes.length]);
      binding.bindInput('bytes', runtime.createTensor('uint8', [bytes.length], bytes));
      binding.bindOutput('flags', flags);
      session.run(binding);
      expect([...flags.data]).toEqual(Array.from(bytes, (byte) => (byte === 0 ? 0 : 1)));
      expect(negated.data[0]).toBe(-2.5);
    }
    session.dispose();
  });

  it('equal the stock binding on attention whose cache is bound in place', async () => {
    const { numHeads, numKeyValueHeads, headDim, maxLength } = ATTENTION;
    const session = runtime.createSession({ ...one, model: attentionModel() });
    const stock = await InferenceSession.create(attentionModel(), { intraOpNumThreads: 1 });
    const cacheDims = [1, numKeyValueHeads, maxLength, headDim];
    // two slots of one slab: the second is the cache, the first must stay as it is
    const size = numKeyValueHeads * maxLength * headDim;
    const slabs = [new Float32Array(2 * size), new Float32Array(2 * size)];
    const [key, value] = slabs.map((slab) => runtime.createTensor('float32', cacheDims, slab.subarray(size)));
    if (key === undefined || value === undefined) throw new Error('There are two slabs.');
    const binding = session.createBinding();
    binding.bindInput('past_key', key);
    binding.bindOutput('present_key', key);
    binding.bindInput('past_value', value);
    binding.bindOutput('present_value', value);

    let stockKey = new StockTensor('float32', new Float32Array(size), cacheDims);
    let stockValue = new StockTensor('float32', new Float32Array(size), cacheDims);
    let past = 0;
    for (const tokens of [4, 1, 3, 1]) {
      const inputs = {
        query: [values(tokens * numHeads * headDim, past + 1), [1, tokens, numHeads * headDim]],
        key: [values(tokens * numKeyValueHeads * headDim, past + 2), [1, tokens, numKeyValueHeads * headDim]],
        value: [values(tokens * numKeyValueHeads * headDim, past + 3), [1, tokens, numKeyValueHeads * headDim]],
      } satisfies Record<string, [Float32Array, number[]]>;
      const total = past + tokens;
      for (const [name, [data, dims]] of Object.entries(inputs)) {
        binding.bindInput(name, runtime.createTensor('float32', dims, data));
      }
      binding.bindInput('last_position', runtime.createTensor('int32', [1], Int32Array.of(total - 1)));
      binding.bindInput('total_length', runtime.createTensor('int32', [1], Int32Array.of(total)));
      const attention = runtime.createTensor('float32', [1, tokens, numHeads * headDim]);
      binding.bindOutput('attention', attention);
      session.run(binding);

      const expected = await stock.run({
        query: new StockTensor('float32', ...inputs.query),
        key: new StockTensor('float32', ...inputs.key),
        value: new StockTensor('float32', ...inputs.value),
        past_key: stockKey,
        past_value: stockValue,
        last_position: new StockTensor('int32', Int32Array.of(total - 1), [1]),
        total_length: new StockTensor('int32', Int32Array.of(total), [1]),
      });
      stockKey = expected['present_key'] as typeof stockKey;
      stockValue = expected['present_value'] as typeof stockValue;
      expect(attention.data).toEqual(expected['attention']?.data);
      expect(attention.data.some((x) => x !== 0)).toBe(true);
      const live = total * headDim; // one key-value head: its rows come first
      expect(key.data.subarray(0, live)).toEqual((stockKey.data as Float32Array).subarray(0, live));
      expect(value.data.subarray(0, live)).toEqual((stockValue.data as Float32Array).subarray(0, live));
      past = total;
    }
    for (const slab of slabs) expect(slab.subarray(0, size).every((x) => x === 0)).toBe(true);
    await stock.release();
    session.dispose();
  });
});

describe('sessions', () => {
  it('say what is wrong with a model, a name, a type or a shape', () => {
    const session = runtime.createSession({ ...one, model: matMulModel() });
    const binding = session.createBinding();
    const a = runtime.createTensor('float32', [1, 3]);
    const c = runtime.createTensor('float32', [1, 2]);
    const cases: [() => unknown, string][] = [
      [() => runtime.createSession({ model: '/nowhere/model.onnx' }), '/nowhere/model.onnx'],
      [() => runtime.createSession({ model: new Uint8Array(12) }), 'protobuf'],
      [() => runtime.createSession({ ...one, model: binaryModel('NoSuchOperator', FLOAT) }), 'NoSuchOperator'],
      [() => runtime.createSession({ model: matMulModel(), intraOpThreads: -1 }), 'intraOpThreads'],
      [() => binding.bindInput('b', a), 'no input named b'],
      [() => binding.bindOutput('a', c), 'no output named a'],
      [() => binding.bindInput('a', runtime.createTensor('int32', [1, 3])), 'float32, not int32'],
      [() => binding.bindInput('a', runtime.createTensor('float32', [1, 4])), '[n, 3], not [1, 4]'],
      [() => binding.bindInput('a', runtime.createTensor('float32', [3])), '[n, 3], not [3]'],
      [() => session.run(binding), 'input a'],
      [() => session.endProfiling(), 'profilePrefix'],
      [() => runtime.createTensor('float32', [2, 2], new Float32Array(3)), '16 bytes, but the data has 12'],
      [() => runtime.createTensor('float32', [1], new Uint8Array(8).subarray(1, 5)), 'multiple of 4 bytes, not at 1'],
      [() => runtime.createTensor('float32', [-1]), 'not -1'],
      [() => runtime.createTensor('float32', [1.5]), 'not 1.5'],
      [() => runtime.createTensor('float32', [2 ** 50]), 'no memory'],
    ];
    for (const [action, text] of cases) {
      const error = failure(action);
      expect(error.code).toBe('runtime_failed');
      expect(error.message).toContain(text);
    }
    binding.bindInput('a', a);
    expect(failure(() => session.run(binding)).message).toContain('any output');
    // a shape that only the run can find wrong
    binding.bindOutput('c', runtime.createTensor('float32', [5, 2]));
    expect(failure(() => session.run(binding)).message).toMatch(/ONNX Runtime: RunWithBinding: .*shape/isu);
    binding.bindOutput('c', c);
    session.run(binding);
    session.dispose();
  });

  it('run only their own bindings, and each binding once at a time', async () => {
    const [first, second] = [matMulModel(), matMulModel()].map((model) => runtime.createSession({ ...one, model }));
    if (first === undefined || second === undefined) throw new Error('There are two sessions.');
    const binding = first.createBinding();
    binding.bindInput('a', runtime.createTensor('float32', [1, 3]));
    binding.bindOutput('c', runtime.createTensor('float32', [1, 2]));
    expect(failure(() => second.run(binding)).message).toContain('made itself');
    const running = first.runAsync(binding);
    expect(failure(() => first.run(binding)).message).toContain('not ended');
    expect(failure(() => binding.clearInputs()).message).toContain('not ended');
    await expect(first.runAsync(binding)).rejects.toThrow('not ended');
    await running;
    first.run(binding);
    binding.clearInputs();
    expect(failure(() => first.run(binding)).message).toContain('input a');
    first.dispose();
    second.dispose();
  });

  it('leave the event loop free while they run asynchronously', async () => {
    const size = 1200;
    const model = tinyModel({
      inputs: [{ name: 'x', type: FLOAT, dims: [size, size] }],
      outputs: [{ name: 'y', type: FLOAT, dims: [size, size] }],
      nodes: [{ op: 'MatMul', inputs: ['x', 'x'], outputs: ['y'] }],
    });
    const session = runtime.createSession({ ...one, model });
    const binding = session.createBinding();
    binding.bindInput('x', runtime.createTensor('float32', [size, size]));
    binding.bindOutput('y', runtime.createTensor('float32', [size, size]));
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    await session.runAsync(binding);
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(0);
    session.dispose();
  });

  it('write a profile, fix free dimensions and save the optimized graph', () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'runtime-'));
    try {
      const session = runtime.createSession({
        ...one,
        model: binaryModel('Add', FLOAT),
        profilePrefix: path.join(folder, 'profile'),
        optimizedModelPath: path.join(folder, 'optimized.onnx'),
        freeDimensionOverrides: { n: 4 },
        config: { 'session.intra_op.allow_spinning': '0' },
        memoryPattern: false,
        cpuArena: false,
        optimizationLevel: 'basic',
        logLevel: 'fatal',
      });
      expect(session.inputs[0]?.dims).toEqual([4]);
      const binding = session.createBinding();
      binding.bindInput('x', runtime.createTensor('float32', [4]));
      binding.bindInput('y', runtime.createTensor('float32', [4]));
      binding.bindOutput('z', runtime.createTensor('float32', [4]));
      session.run(binding);
      const profile = session.endProfiling();
      expect(profile.startsWith(path.join(folder, 'profile'))).toBe(true);
      expect(readFileSync(profile, 'utf8')).toContain('"op_name" : "Add"');
      expect(existsSync(path.join(folder, 'optimized.onnx'))).toBe(true);
      session.dispose();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('go on working after their runtime was disposed, and end with a clear error after their own end', async () => {
    const brief = loadRuntime();
    const session = brief.createSession({ ...one, model: matMulModel() });
    const binding = session.createBinding();
    const a = brief.createTensor('float32', [1, 3], Float32Array.of(1, 0, 0));
    const c = brief.createTensor('float32', [1, 2]);
    binding.bindInput('a', a);
    binding.bindOutput('c', c);
    brief.dispose();
    brief.dispose();
    expect(failure(() => brief.createTensor('float32', [1])).message).toContain('runtime was disposed');
    session.run(binding);
    expect([...c.data]).toEqual([1, 2]);
    a.dispose();
    expect(failure(() => a.data).message).toContain('tensor was disposed');
    expect(failure(() => session.run(binding)).message).toContain('input a was disposed');
    binding.bindInput('a', runtime.createTensor('float32', [1, 3]));
    const running = session.runAsync(binding);
    session.dispose();
    binding.dispose();
    await running;
    expect(failure(() => session.run(binding)).message).toContain('session was disposed');
    expect(failure(() => session.createBinding()).message).toContain('session was disposed');
    expect(failure(() => binding.bindInput('a', c)).message).toContain('binding was disposed');
  });
});

describe('copies', () => {
  it('go between tensors of the same size only', () => {
    const from = runtime.createTensor('int64', [2, 2], BigInt64Array.of(1n, 2n, 3n, 4n));
    const to = runtime.createTensor('int64', [4]);
    runtime.copy(from, to);
    expect([...to.data]).toEqual([1n, 2n, 3n, 4n]);
    expect(failure(() => runtime.copy(from, runtime.createTensor('int64', [5]))).message).toContain('cannot be copied');
    expect(failure(() => runtime.copy(from, runtime.createTensor('float64', [4]))).message).toContain('float64');
  });

  it('notice memory that was transferred away', () => {
    const session = runtime.createSession({ ...one, model: matMulModel() });
    const binding = session.createBinding();
    const memory = new Float32Array(3);
    binding.bindInput('a', runtime.createTensor('float32', [1, 3], memory));
    binding.bindOutput('c', runtime.createTensor('float32', [1, 2]));
    structuredClone(memory.buffer, { transfer: [memory.buffer] });
    expect(failure(() => session.run(binding)).message).toContain('lost its memory');
    session.dispose();
  });
});

describe('devices that this machine lacks', () => {
  it('are refused as unavailable, with what they need', () => {
    // the packaged library has no CUDA provider beside it, on any machine
    const error = failure(() =>
      runtime.createSession({ model: matMulModel(), device: { type: 'cuda', options: { gpu_mem_limit: '1000000' } } }),
    );
    expect(error.code).toBe('device_unavailable');
    expect(error.message).toContain('The device cuda is not available');
    expect(error.message).toContain('libraryPath');
  });
});
