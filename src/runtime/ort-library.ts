/**
 * Finds, loads and checks the ONNX Runtime shared library. Everything native enters the process here; what the functions mean
 * is known to the other files of this folder.
 */

import { readdirSync, realpathSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import koffi, { type LibraryHandle } from 'koffi';
import { StvError } from '../errors.ts';
import { DeviceGate } from './device-gate.ts';
import { ORT_API_VERSION } from './ort-api-table.ts';
import { bindOrtFunctions, type OrtFunctions } from './ort-functions.ts';

/** The `major.minor` whose kernels and table we know; a newer patch of it is welcome. */
export const SUPPORTED_ORT_VERSION = '1.30';

export interface OrtLibrary {
  readonly path: string;
  /** As the library says: `1.30.0`. */
  readonly version: string;
  readonly functions: OrtFunctions;
  readonly webGpuGate: DeviceGate;
  /** The CUDA provider library has been registered for copies. */
  canCopyCuda: boolean;
}

// koffi runs native code on stacks of its own; ONNX Runtime's kernels and Dawn need what a main thread has (8 MiB).
// The sizes are read when the first call makes the stacks, so they are set before any.
const STACK_BYTES = 8 * 1024 * 1024;
koffi.config({ ...koffi.config(), sync_stack_size: STACK_BYTES, async_stack_size: STACK_BYTES });

// Sessions that share packed weights pack them for themselves first and then drop that copy. glibc raises its threshold for
// mapped blocks to the largest block freed, after which such copies leave holes in the heap and the sharing saves nothing:
// measured 18 MB per session of a 17 MB weight, against 0.1 MB with the threshold held down.
const MAPPED_BLOCK_BYTES = 1024 * 1024;
function keepLargeBlocksMapped(): void {
  if (process.platform !== 'linux') return;
  const M_MMAP_THRESHOLD = -3;
  try {
    koffi.load(null).func('mallopt', 'int', ['int', 'int'])(M_MMAP_THRESHOLD, MAPPED_BLOCK_BYTES);
  } catch {
    // a C library without mallopt has no such threshold
  }
}

// A library that koffi forgets is unloaded under the feet of its callers: loaded ones stay for the life of the process.
const keptHandles: LibraryHandle[] = [];
const loaded = new Map<string, OrtLibrary>();

const LIBRARY_FILE_NAMES: Partial<Record<NodeJS.Platform, RegExp>> = {
  linux: /^libonnxruntime\.so(?:\.\d+)*$/u,
  darwin: /^libonnxruntime(?:\.\d+)*\.dylib$/u,
  win32: /^onnxruntime\.dll$/iu,
};

/** The library file in a folder; of several names the longest, which is the one with the full version. */
function libraryIn(folder: string): string | undefined {
  const pattern = LIBRARY_FILE_NAMES[process.platform];
  if (pattern === undefined) return undefined;
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return undefined;
  }
  const name = names
    .filter((candidate) => pattern.test(candidate))
    .sort((a, b) => b.length - a.length || a.localeCompare(b))
    .at(0);
  return name === undefined ? undefined : join(folder, name);
}

/** Path of the library inside the installed `onnxruntime-node` package. Throws StvError `runtime_failed` when there is none. */
export function findPackagedLibrary(): string {
  let packageFolder: string;
  try {
    packageFolder = dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'));
  } catch (error) {
    throw new StvError('runtime_failed', 'The package onnxruntime-node, which holds ONNX Runtime, is not installed.', {
      cause: error,
    });
  }
  const bin = join(packageFolder, 'bin');
  const folders = readdirSync(bin)
    .filter((name) => name.startsWith('napi-v'))
    .sort()
    .map((name) => join(bin, name, process.platform, process.arch));
  for (const folder of folders) {
    const path = libraryIn(folder);
    if (path !== undefined) return path;
  }
  throw new StvError(
    'runtime_failed',
    `The package onnxruntime-node holds no ONNX Runtime library for ${process.platform}/${process.arch}.`,
  );
}

/** Throws StvError `runtime_failed` unless `version` is `supported` itself or a patch of it. */
function assertSupportedVersion(version: string, supported: string, path: string): void {
  const [major, minor] = version.split('.');
  if (`${major}.${minor}` === supported) return;
  throw new StvError(
    'runtime_failed',
    `The ONNX Runtime library ${path} is version ${version}, but version ${supported} is needed.`,
  );
}

/** Names of `OrtErrorCode`, by value. */
const ERROR_CODES = [
  'ok',
  'fail',
  'invalid argument',
  'no such file',
  'no model',
  'engine error',
  'runtime exception',
  'invalid protobuf',
  'model loaded',
  'not implemented',
  'invalid graph',
  'execution provider failed',
  'model load cancelled',
  'model requires compilation',
  'not found',
];

/** The place in ONNX Runtime's own source that some messages begin with, before the error itself. */
const SOURCE_LOCATION = /^\S+\.(?:cc|h):\d+ .*?\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : /su;

/** Releases the status and throws it as StvError `runtime_failed` with ONNX Runtime's own message. */
export function throwStatus(functionName: string, status: bigint, functions: OrtFunctions): never {
  const code = functions.GetErrorCode(status);
  const message = functions.GetErrorMessage(status).replace(SOURCE_LOCATION, '').trim();
  functions.ReleaseStatus(status);
  throw new StvError(
    'runtime_failed',
    `ONNX Runtime: ${functionName}: ${ERROR_CODES[code] ?? `code ${code}`}: ${message}`,
  );
}

function load(path: string, supported: string): OrtLibrary {
  let base: bigint;
  try {
    keepLargeBlocksMapped();
    const handle = koffi.load(path);
    keptHandles.push(handle);
    base = handle.func('OrtGetApiBase', 'void *', [])();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StvError('runtime_failed', `The ONNX Runtime library ${path} cannot be loaded: ${reason}`, {
      cause: error,
    });
  }
  // struct OrtApiBase { const OrtApi *(*GetApi)(uint32_t); const char *(*GetVersionString)(void); }
  const getApi = koffi.decode(koffi.decode(base, 0, 'void *'), koffi.proto('void *', ['uint32_t']));
  const getVersionString = koffi.decode(koffi.decode(base, 8, 'void *'), koffi.proto('const char *', []));
  const version: string = getVersionString();
  assertSupportedVersion(version, supported, path);
  const api: bigint | null = getApi(ORT_API_VERSION);
  if (api === null) {
    throw new StvError(
      'runtime_failed',
      `The ONNX Runtime library ${path} lacks version ${ORT_API_VERSION} of its API.`,
    );
  }
  return {
    path,
    version,
    functions: bindOrtFunctions(api, throwStatus),
    webGpuGate: new DeviceGate(),
    canCopyCuda: false,
  };
}

/**
 * Loads a library once per process and checks its version before anything of it is called.
 * `path` is a library file or a folder that holds one; absent, the library of the `onnxruntime-node` package.
 * Throws StvError `runtime_failed` for a file that is not ONNX Runtime or not the `supported` `major.minor`.
 */
export function openOrtLibrary(path?: string, supported: string = SUPPORTED_ORT_VERSION): OrtLibrary {
  let file = path ?? findPackagedLibrary();
  try {
    if (statSync(file).isDirectory()) file = libraryIn(file) ?? file;
    file = realpathSync(file);
  } catch (error) {
    throw new StvError('runtime_failed', `The ONNX Runtime library ${file} does not exist.`, { cause: error });
  }
  const known = loaded.get(file);
  if (known !== undefined) {
    assertSupportedVersion(known.version, supported, file);
    return known;
  }
  const library = load(file, supported);
  loaded.set(file, library);
  return library;
}
