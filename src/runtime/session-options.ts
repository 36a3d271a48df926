/** What a session can be asked to be, and its translation into an OrtSessionOptions. */

import { dirname } from 'node:path';
import { StvError } from '../errors.ts';
import { loadCudaLibraries } from './cuda-libraries.ts';
import type { NativeHandle } from './native-handle.ts';
import type { OrtFunctions } from './ort-functions.ts';
import { takePointer } from './out-parameter.ts';
import type { RuntimeContext } from './runtime-context.ts';
import type { Tensor } from './tensor.ts';

/** Where a session's nodes run. `options` are the execution provider's own, by its names. */
export type Device =
  | 'cpu'
  | { readonly type: 'webgpu'; readonly options?: Readonly<Record<string, string>> }
  | { readonly type: 'cuda'; readonly deviceId?: number; readonly options?: Readonly<Record<string, string>> };

export type OptimizationLevel = 'none' | 'basic' | 'extended' | 'all';

/** Weights packed for the kernels, shared by the sessions that name it. Made by `Runtime.createPrepackedWeights`. */
export interface PrepackedWeights {
  /** For the other files of this folder. */
  readonly handle: NativeHandle;
  dispose(): void;
}

export interface SessionOptions {
  /** Path of an ONNX file, or its bytes. External data lies beside the file, or where `config` says. */
  readonly model: string | Uint8Array;
  /** Default 'cpu'. */
  readonly device?: Device;
  /**
   * Threads inside one operator, the calling one included; 0 = one per physical core. Absent: the runtime's `sharedThreads`
   * if it has them, else 0. Threads of its own spin for a while after each run: sessions that run by turns do better to share.
   */
  readonly intraOpThreads?: number;
  /** Session config entries by ONNX Runtime's names: `session.intra_op.allow_spinning`, `ep.…`. */
  readonly config?: Readonly<Record<string, string>>;
  /** Default 'all'. */
  readonly optimizationLevel?: OptimizationLevel;
  /** Where to write the optimized graph. */
  readonly optimizedModelPath?: string;
  /**
   * Values that take the place of the model's initializers of the same name, type and shape, not copied: sessions that are
   * given the same tensors share them, and share their packed form too when `prepackedWeights` is the same.
   */
  readonly initializers?: ReadonlyMap<string, Tensor>;
  /** Values for initializers that the model keeps as external data; the data files are then not read. */
  readonly externalInitializers?: ReadonlyMap<string, Tensor>;
  readonly prepackedWeights?: PrepackedWeights;
  /** Turns profiling on; the file's name begins with this path. */
  readonly profilePrefix?: string;
  /** Reuse one plan of memory between runs of the same shapes. Default true. */
  readonly memoryPattern?: boolean;
  /** Keep freed CPU memory for the next run. Default true. */
  readonly cpuArena?: boolean;
  /** Fixes symbolic dimensions by name. */
  readonly freeDimensionOverrides?: Readonly<Record<string, number>>;
  readonly logLevel?: LogLevel;
}

export type LogLevel = 'verbose' | 'info' | 'warning' | 'error' | 'fatal';

const LOG_LEVELS: Readonly<Record<LogLevel, number>> = { verbose: 0, info: 1, warning: 2, error: 3, fatal: 4 };
const OPTIMIZATION_LEVELS: Readonly<Record<OptimizationLevel, number>> = { none: 0, basic: 1, extended: 2, all: 99 };

/** `OrtLoggingLevel`. */
export function logLevelNumber(level: LogLevel): number {
  return LOG_LEVELS[level];
}

/** Throws StvError `runtime_failed` for a number of threads that cannot be. */
export function assertThreads(field: string, threads: number): void {
  if (Number.isInteger(threads) && threads >= 0 && threads <= 4096) return;
  throw new StvError('runtime_failed', `${field} must be an integer between 0 and 4096, not ${threads}.`);
}

function appendCuda(
  functions: OrtFunctions,
  pointer: bigint,
  device: { readonly deviceId?: number; readonly options?: Readonly<Record<string, string>> },
): void {
  const settings = { device_id: String(device.deviceId ?? 0), ...device.options };
  const cuda = takePointer((out) => functions.CreateCUDAProviderOptions(out));
  try {
    functions.UpdateCUDAProviderOptions(
      cuda,
      Object.keys(settings),
      Object.values(settings),
      Object.keys(settings).length,
    );
    functions.SessionOptionsAppendExecutionProvider_CUDA_V2(pointer, cuda);
  } finally {
    functions.ReleaseCUDAProviderOptions(cuda);
  }
}

const DEVICE_NEEDS = {
  webgpu: 'it needs a graphics driver that WebGPU can use (Vulkan on Linux)',
  cuda: 'it needs an NVIDIA GPU and an ONNX Runtime library set with the CUDA provider, named by libraryPath',
} as const;

/** What the messages of the CUDA provider and its loader mean for whoever has to act on them; the first that fits. */
const CUDA_REASONS: readonly (readonly [RegExp, string])[] = [
  [/libcuda\.so\S*: cannot open/iu, 'this machine has no NVIDIA driver (libcuda.so.1)'],
  [
    /lib(?:cudart|cublas\w*|curand|cufft|cudnn\w*)\.so\S*: cannot open/iu,
    "NVIDIA's CUDA libraries are missing; `stv device install cuda` brings them",
  ],
  [/driver version is insufficient/iu, 'the NVIDIA driver is too old for the CUDA version of these libraries'],
  [/no CUDA-capable device|cudaErrorNoDevice|failure 100\b/iu, 'no NVIDIA GPU is visible to this process'],
  [/invalid device ordinal|failure 101\b/iu, 'there is no GPU of this number'],
  [
    /providers_cuda\S*: cannot open|providers_cuda\S* .*does not exist/iu,
    'the CUDA provider is not beside the ONNX Runtime library; `stv device install cuda` brings both',
  ],
  [
    /providers_cuda\S*.*(?:undefined symbol|version `)/iu,
    'the CUDA provider is of another version than the ONNX Runtime library beside it',
  ],
];

/** The error for a device that cannot be had, from what ONNX Runtime threw. */
export function deviceUnavailable(device: Exclude<Device, 'cpu'>, cause: unknown): StvError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const known = device.type === 'cuda' ? CUDA_REASONS.find(([pattern]) => pattern.test(reason)) : undefined;
  const why = known?.[1] ?? DEVICE_NEEDS[device.type];
  const message = `The device ${device.type} is not available: ${why}. ${reason}`;
  return new StvError('device_unavailable', message, { cause });
}

/** Adds the device's execution provider. Throws StvError `device_unavailable` when the library has none or it cannot start. */
function appendDevice({ functions, library }: RuntimeContext, pointer: bigint, device: Device): void {
  if (device === 'cpu') return;
  const libraryPath = library.path;
  try {
    switch (device.type) {
      case 'webgpu': {
        const settings = device.options ?? {};
        const keys = Object.keys(settings);
        functions.SessionOptionsAppendExecutionProvider(pointer, 'WebGPU', keys, Object.values(settings), keys.length);
        return;
      }
      case 'cuda':
        loadCudaLibraries(dirname(libraryPath));
        appendCuda(functions, pointer, device);
        return;
      default:
        device satisfies never;
    }
  } catch (error) {
    throw deviceUnavailable(device, error);
  }
}

/** Operators run one after the other, which is ONNX Runtime's default: threads across them would have nothing to do. */
function applyThreads({ functions, hasSharedThreads }: RuntimeContext, pointer: bigint, options: SessionOptions): void {
  const { intraOpThreads } = options;
  if (intraOpThreads === undefined && hasSharedThreads) {
    functions.DisablePerSessionThreads(pointer);
    return;
  }
  assertThreads('intraOpThreads', intraOpThreads ?? 0);
  functions.SetIntraOpNumThreads(pointer, intraOpThreads ?? 0);
}

function applyOptions(context: RuntimeContext, pointer: bigint, options: SessionOptions): void {
  const { functions } = context;
  applyThreads(context, pointer, options);
  functions.SetSessionGraphOptimizationLevel(pointer, OPTIMIZATION_LEVELS[options.optimizationLevel ?? 'all']);
  if (options.logLevel !== undefined) functions.SetSessionLogSeverityLevel(pointer, LOG_LEVELS[options.logLevel]);
  if (options.memoryPattern === false) functions.DisableMemPattern(pointer);
  if (options.cpuArena === false) functions.DisableCpuMemArena(pointer);
  if (options.profilePrefix !== undefined) functions.EnableProfiling(pointer, options.profilePrefix);
  if (options.optimizedModelPath !== undefined)
    functions.SetOptimizedModelFilePath(pointer, options.optimizedModelPath);
  for (const [name, value] of Object.entries(options.config ?? {}))
    functions.AddSessionConfigEntry(pointer, name, value);
  for (const [name, value] of Object.entries(options.freeDimensionOverrides ?? {})) {
    functions.AddFreeDimensionOverrideByName(pointer, name, value);
  }
  for (const [name, tensor] of options.initializers ?? []) {
    functions.AddInitializer(pointer, name, tensor.handle.pointer);
  }
  const external = options.externalInitializers;
  if (external !== undefined && external.size > 0) {
    const values = Array.from(external.values(), (tensor) => tensor.handle.pointer);
    functions.AddExternalInitializers(pointer, [...external.keys()], values, values.length);
  }
  appendDevice(context, pointer, options.device ?? 'cpu');
}

/** Calls `use` with an OrtSessionOptions that is released afterwards. */
export function withSessionOptions<Result>(
  context: RuntimeContext,
  options: SessionOptions,
  use: (pointer: bigint) => Result,
): Result {
  const { functions } = context;
  const pointer = takePointer((out) => functions.CreateSessionOptions(out));
  try {
    applyOptions(context, pointer, options);
    return use(pointer);
  } finally {
    functions.ReleaseSessionOptions(pointer);
  }
}
