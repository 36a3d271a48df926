/**
 * ONNX Runtime for the rest of the program: tensors over our own memory, sessions, and runs without copies. Knows nothing of
 * language models.
 */

import { StvError } from '../errors.ts';
import type { ElementType } from './element-type.ts';
import { assertInitializersFit } from './model-initializers.ts';
import { NativeHandle, Ownership } from './native-handle.ts';
import type { OrtFunctions } from './ort-functions.ts';
import { type OrtLibrary, openOrtLibrary, throwStatus } from './ort-library.ts';
import { readStringArray, takeInt32, takePointer } from './out-parameter.ts';
import { PROBE_MODEL } from './probe-model.ts';
import type { RuntimeContext } from './runtime-context.ts';
import { Session } from './session.ts';
import {
  assertThreads,
  deviceUnavailable,
  type LogLevel,
  logLevelNumber,
  type PrepackedWeights,
  type SessionOptions,
  withSessionOptions,
} from './session-options.ts';
import { createCpuTensor, type Tensor } from './tensor.ts';
import { copyTensor } from './tensor-copy.ts';

export interface RuntimeOptions {
  /** A library file, or a folder that holds one. Absent: the library of the `onnxruntime-node` package. */
  readonly libraryPath?: string | undefined;
  /** What ONNX Runtime itself writes to stderr. Default 'error'. */
  readonly logLevel?: LogLevel;
  /**
   * Threads that all sessions without `intraOpThreads` share, the calling one included; 0 = one per physical core. ONNX Runtime
   * keeps one environment per process: the first runtime of a process decides, and later ones must not ask for something else.
   */
  readonly sharedThreads?: number;
}

export class Runtime {
  /** `1.30.0` */
  readonly version: string;
  readonly libraryPath: string;
  readonly #context: RuntimeContext;
  readonly #ownership: Ownership;

  /** Made by `loadRuntime`. */
  constructor(library: OrtLibrary, { logLevel = 'error', sharedThreads }: RuntimeOptions) {
    const { functions } = library;
    this.version = library.version;
    this.libraryPath = library.path;
    const env = new NativeHandle(createEnvironment(functions, logLevelNumber(logLevel), sharedThreads), {
      kind: 'runtime',
      release: functions.ReleaseEnv,
    });
    functions.DisableTelemetryEvents(env.pointer);
    // OrtDeviceAllocator = 0, OrtMemTypeDefault = 0
    const cpuMemory = new NativeHandle(
      takePointer((out) => functions.CreateCpuMemoryInfo(0, 0, out)),
      { kind: 'runtime', release: functions.ReleaseMemoryInfo, parents: [env] },
    );
    env.letGo();
    this.#ownership = new Ownership(this, cpuMemory);
    this.#context = {
      library,
      functions,
      env,
      hasSharedThreads: sharedThreads !== undefined,
      cpuMemory,
      allocator: takePointer((out) => functions.GetAllocatorWithDefaultOptions(out)),
      throwStatus: (functionName, status) => throwStatus(functionName, status, functions),
    };
  }

  /** Execution providers that the library knows, by ONNX Runtime's names. Their drivers may still be missing. */
  providers(): string[] {
    this.#ownership.assertUsable();
    const { functions } = this.#context;
    const list = new BigUint64Array(new ArrayBuffer(8));
    const count = takeInt32((out) => functions.GetAvailableProviders(list, out));
    const pointer = list[0] ?? 0n;
    const names = readStringArray(pointer, count);
    functions.ReleaseAvailableProviders(pointer, count);
    return names;
  }

  /**
   * A tensor in the memory of the process. `data` is used in place and kept alive, never copied, so a `subarray` of one large
   * array makes a tensor of a part of it; without `data`, fresh zeroed memory.
   */
  createTensor<Type extends ElementType>(
    type: Type,
    dims: readonly number[],
    data?: ArrayBufferView | ArrayBufferLike,
  ): Tensor<Type> {
    this.#ownership.assertUsable();
    return createCpuTensor(this.#context.functions, type, { dims, data, memoryInfo: this.#context.cpuMemory });
  }

  /**
   * Copies the elements of one tensor to another of the same type and number of elements, wherever the two lie.
   * Throws StvError `runtime_failed` when they do not fit or the device has no way to copy.
   */
  copy(from: Tensor, to: Tensor): void {
    this.#ownership.assertUsable();
    copyTensor(this.#context, from, to);
  }

  /** A container in which several sessions keep one packed copy of the `initializers` they share. */
  createPrepackedWeights(): PrepackedWeights {
    this.#ownership.assertUsable();
    return new PrepackedWeightsContainer(this.#context);
  }

  /**
   * Loads a model; blocks until it is ready to run.
   * Throws StvError `device_unavailable` when the device cannot be had, `runtime_failed` for everything else.
   */
  createSession(options: SessionOptions): Session {
    this.#ownership.assertUsable();
    const { device = 'cpu' } = options;
    const gate = device !== 'cpu' && device.type === 'webgpu' ? this.#context.library.webGpuGate : undefined;
    gate?.assertFree();
    const initializers = [...(options.initializers ?? []), ...(options.externalInitializers ?? [])];
    if (initializers.length > 0) {
      assertInitializersFit(options.model, initializers, device === 'cpu' ? 'cpu' : device.type);
    }
    const pointer = createNativeSession(this.#context, options);
    const { functions, cpuMemory } = this.#context;
    const handle = new NativeHandle(pointer, {
      kind: 'session',
      release: functions.ReleaseSession,
      gate,
      parents: [
        cpuMemory,
        ...(options.prepackedWeights === undefined ? [] : [options.prepackedWeights.handle]),
        ...initializers.map(([, tensor]) => tensor.handle),
      ],
    });
    return new Session(this.#context, handle, device);
  }

  /** Harmless when repeated. Sessions and tensors already made go on working; new ones can no longer be made. */
  dispose(): void {
    this.#ownership.dispose();
  }
}

function createEnvironment(functions: OrtFunctions, logLevel: number, sharedThreads: number | undefined): bigint {
  if (sharedThreads === undefined) return takePointer((out) => functions.CreateEnv(logLevel, 'stv', out));
  assertThreads('sharedThreads', sharedThreads);
  const threading = takePointer((out) => functions.CreateThreadingOptions(out));
  try {
    functions.SetGlobalIntraOpNumThreads(threading, sharedThreads);
    functions.SetGlobalInterOpNumThreads(threading, 1);
    return takePointer((out) => functions.CreateEnvWithGlobalThreadPools(logLevel, 'stv', threading, out));
  } finally {
    functions.ReleaseThreadingOptions(threading);
  }
}

class PrepackedWeightsContainer implements PrepackedWeights {
  readonly #ownership: Ownership;

  constructor({ functions, cpuMemory }: RuntimeContext) {
    const handle = new NativeHandle(
      takePointer((out) => functions.CreatePrepackedWeightsContainer(out)),
      {
        kind: 'prepacked weights container',
        release: functions.ReleasePrepackedWeightsContainer,
        parents: [cpuMemory],
      },
    );
    this.#ownership = new Ownership(this, handle);
  }

  get handle(): NativeHandle {
    this.#ownership.assertUsable();
    return this.#ownership.handle;
  }

  dispose(): void {
    this.#ownership.dispose();
  }
}

/** Throws StvError `device_unavailable` where not even the smallest model loads on the device. */
function createNativeSession(context: RuntimeContext, options: SessionOptions): bigint {
  const { device = 'cpu' } = options;
  try {
    return loadModel(context, options);
  } catch (error) {
    if (device === 'cpu' || (error instanceof StvError && error.code === 'device_unavailable')) throw error;
    try {
      context.functions.ReleaseSession(loadModel(context, { model: PROBE_MODEL, device }));
    } catch (probeError) {
      throw deviceUnavailable(device, probeError);
    }
    throw error;
  }
}

function loadModel(context: RuntimeContext, options: SessionOptions): bigint {
  const { functions, env } = context;
  const { model } = options;
  const container = options.prepackedWeights?.handle.pointer;
  return withSessionOptions(context, options, (settings) =>
    takePointer((out) => {
      const e = env.pointer;
      if (typeof model === 'string') {
        if (container === undefined) functions.CreateSession(e, model, settings, out);
        else functions.CreateSessionWithPrepackedWeightsContainer(e, model, settings, container, out);
      } else {
        const size = model.byteLength;
        if (container === undefined) functions.CreateSessionFromArray(e, model, size, settings, out);
        else functions.CreateSessionFromArrayWithPrepackedWeightsContainer(e, model, size, settings, container, out);
      }
    }),
  );
}

/**
 * Loads ONNX Runtime. The library itself is loaded once per process and stays; each call gives a runtime of its own.
 * Throws StvError `runtime_failed` when the library is missing, is something else, or is not version 1.30.
 */
export function loadRuntime(options: RuntimeOptions = {}): Runtime {
  return new Runtime(openOrtLibrary(options.libraryPath), options);
}
