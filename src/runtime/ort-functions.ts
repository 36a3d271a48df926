/**
 * The C signatures of the OrtApi functions we call, and the typed JavaScript functions made from them. A wrong signature is a
 * native crash and not an exception, so all of them stand here, one line each, in the words of the C header.
 */

import koffi from 'koffi';
import { ORT_API_NAMES, ortApiIndex } from './ort-api-table.ts';

/** A native address, memory of ours that the call reads or fills, or NULL. */
export type PointerArgument = bigint | ArrayBufferView | null;

/**
 * Letters of a signature, one per parameter: `p` any pointer, `s` UTF-8 string, `f` file path (`ORTCHAR_T *`), `a` array of
 * strings, `h` array of pointers, `i` int or enum, `z` size_t, `l` int64_t.
 */
interface ParameterOf {
  p: PointerArgument;
  s: string;
  f: string;
  a: readonly string[];
  h: readonly bigint[];
  i: number;
  z: number;
  l: number;
}

type Parameters<Signature extends string> = Signature extends `${infer Letter extends keyof ParameterOf}${infer Rest}`
  ? [ParameterOf[Letter], ...Parameters<Rest>]
  : [];

/** Functions that return an `OrtStatus *`: NULL is success. */
const STATUS_SIGNATURES = {
  CreateEnv: 'isp', // level, log id, out
  CreateEnvWithGlobalThreadPools: 'ispp', // level, log id, threading options, out
  CreateThreadingOptions: 'p',
  SetGlobalIntraOpNumThreads: 'pi',
  SetGlobalInterOpNumThreads: 'pi',
  DisableTelemetryEvents: 'p',
  CreateSession: 'pfpp', // env, path, options, out
  CreateSessionFromArray: 'ppzpp', // env, bytes, length, options, out
  CreateSessionWithPrepackedWeightsContainer: 'pfppp', // env, path, options, container, out
  CreateSessionFromArrayWithPrepackedWeightsContainer: 'ppzppp',
  CreateSessionOptions: 'p',
  EnableProfiling: 'pf',
  DisableMemPattern: 'p',
  DisableCpuMemArena: 'p',
  SetSessionLogSeverityLevel: 'pi',
  SetSessionGraphOptimizationLevel: 'pi',
  SetOptimizedModelFilePath: 'pf',
  DisablePerSessionThreads: 'p',
  SetIntraOpNumThreads: 'pi',
  AddFreeDimensionOverrideByName: 'psl',
  AddSessionConfigEntry: 'pss',
  AddInitializer: 'psp',
  AddExternalInitializers: 'pahz', // options, names, values, count
  SessionOptionsAppendExecutionProvider: 'psaaz', // options, provider, keys, values, count
  SessionOptionsAppendExecutionProvider_CUDA_V2: 'pp',
  CreateCUDAProviderOptions: 'p',
  UpdateCUDAProviderOptions: 'paaz',
  SessionGetInputCount: 'pp',
  SessionGetOutputCount: 'pp',
  SessionGetInputName: 'pzpp', // session, index, allocator, out
  SessionGetOutputName: 'pzpp',
  SessionGetInputTypeInfo: 'pzp',
  SessionGetOutputTypeInfo: 'pzp',
  SessionEndProfiling: 'ppp',
  GetOnnxTypeFromTypeInfo: 'pp',
  CastTypeInfoToTensorInfo: 'pp', // the result belongs to the type info
  GetTensorElementType: 'pp',
  GetDimensionsCount: 'pp',
  GetDimensions: 'ppz',
  GetSymbolicDimensions: 'ppz',
  GetAvailableProviders: 'pp',
  ReleaseAvailableProviders: 'pi',
  GetAllocatorWithDefaultOptions: 'p',
  AllocatorFree: 'pp',
  CreateCpuMemoryInfo: 'iip',
  CreateMemoryInfo: 'siiip', // name, allocator type, device id, memory type, out
  CreateAllocator: 'ppp', // session, memory info, out
  CreateTensorWithDataAsOrtValue: 'ppzpzip', // memory info, data, bytes, dims, rank, type, out
  CreateTensorAsOrtValue: 'ppzip', // allocator, dims, rank, type, out
  GetTensorMutableData: 'pp', // value, out
  CopyTensors: 'phhpz', // env, sources, destinations, stream, count
  RegisterExecutionProviderLibrary: 'psf', // env, our name for it, path
  CreatePrepackedWeightsContainer: 'p',
  CreateRunOptions: 'p',
  RunOptionsSetRunTag: 'ps',
  AddRunConfigEntry: 'pss',
  CreateIoBinding: 'pp',
  BindInput: 'psp',
  BindOutput: 'psp',
  SynchronizeBoundInputs: 'p',
  SynchronizeBoundOutputs: 'p',
  RunWithBinding: 'ppp', // session, run options, binding
} as const;

const VOID_SIGNATURES = {
  ReleaseStatus: 'p',
  ReleaseEnv: 'p',
  ReleaseThreadingOptions: 'p',
  ReleaseSessionOptions: 'p',
  ReleaseCUDAProviderOptions: 'p',
  ReleaseSession: 'p',
  ReleaseTypeInfo: 'p',
  ReleaseMemoryInfo: 'p',
  ReleaseAllocator: 'p',
  ReleaseValue: 'p',
  ReleasePrepackedWeightsContainer: 'p',
  ReleaseRunOptions: 'p',
  ReleaseIoBinding: 'p',
  ClearBoundInputs: 'p',
} as const;

type StatusName = keyof typeof STATUS_SIGNATURES;
type VoidName = keyof typeof VOID_SIGNATURES;

type StatusFunction<Name extends StatusName> = (...parameters: Parameters<(typeof STATUS_SIGNATURES)[Name]>) => void;
type VoidFunction<Name extends VoidName> = (...parameters: Parameters<(typeof VOID_SIGNATURES)[Name]>) => void;

/** Returns the status instead of throwing, and can run on another thread. */
export interface RawFunction {
  (...parameters: PointerArgument[]): bigint | null;
  async(...parameters: [...PointerArgument[], (error: Error | null, status: bigint | null) => void]): void;
}

/** Functions with a status throw what `onFailure` makes of it. */
export type OrtFunctions = { readonly [Name in StatusName]: StatusFunction<Name> } & {
  readonly [Name in VoidName]: VoidFunction<Name>;
} & {
  readonly GetErrorCode: (status: bigint) => number;
  readonly GetErrorMessage: (status: bigint) => string;
  readonly TensorTypeAndShape_HasShape: (info: bigint) => boolean;
  /** `RunWithBinding` without the check: the hot path, and the one call that may run beside the event loop. */
  readonly runWithBindingRaw: RawFunction;
};

/** C type of each letter. Paths are `wchar_t *` on Windows, `char *` elsewhere. */
function cType(letter: string): string {
  switch (letter) {
    case 'p':
      return 'void *';
    case 's':
      return 'const char *';
    case 'f':
      return process.platform === 'win32' ? 'const char16_t *' : 'const char *';
    case 'a':
      return 'const char **';
    case 'h':
      return 'void **';
    case 'i':
      return 'int';
    case 'z':
      return 'size_t';
    case 'l':
      return 'int64_t';
    default:
      throw new Error(`No C type for the signature letter ${letter}.`);
  }
}

type NativeFunction = ((...parameters: unknown[]) => unknown) & Pick<RawFunction, 'async'>;

/**
 * Makes the typed functions from the table that `OrtApiBase.GetApi` returned.
 * `onFailure` gets the function's name and a status that is not NULL; it must release the status and throw.
 */
export function bindOrtFunctions(
  api: bigint,
  onFailure: (functionName: string, status: bigint, functions: OrtFunctions) => never,
): OrtFunctions {
  const pointers = new BigUint64Array(koffi.view(api, ORT_API_NAMES.length * 8));
  const functions: Record<string, unknown> = {};
  const native = (name: string, result: string, signature: string): NativeFunction => {
    const pointer = pointers[ortApiIndex(name)];
    if (pointer === undefined || pointer === 0n) throw new Error(`The ONNX Runtime API table has no ${name}.`);
    return koffi.decode(pointer, koffi.proto(result, Array.from(signature, cType)));
  };
  for (const [name, signature] of Object.entries(VOID_SIGNATURES)) functions[name] = native(name, 'void', signature);
  for (const [name, signature] of Object.entries(STATUS_SIGNATURES)) {
    const call = native(name, 'void *', signature);
    functions[name] = (...parameters: unknown[]): void => {
      const status = call(...parameters) as bigint | null;
      if (status !== null) onFailure(name, status, functions as OrtFunctions);
    };
  }
  functions['GetErrorCode'] = native('GetErrorCode', 'int', 'p');
  functions['GetErrorMessage'] = native('GetErrorMessage', 'const char *', 'p');
  functions['TensorTypeAndShape_HasShape'] = native('TensorTypeAndShape_HasShape', 'bool', 'p');
  functions['runWithBindingRaw'] = native('RunWithBinding', 'void *', 'ppp');
  return functions as OrtFunctions;
}
