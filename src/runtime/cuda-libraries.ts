/**
 * NVIDIA's libraries that lie in the folder of an ONNX Runtime library with CUDA: loaded first, so that the provider finds them where
 * the system has none. The loader knows a loaded library by its name and asks for no path.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import koffi, { type LibraryHandle } from 'koffi';

/** In the order in which they need each other. */
const ORDER = ['cudart', 'nvJitLink', 'nvrtc', 'cublasLt', 'cublas', 'curand', 'cufft', 'cudnn'];

// a library that koffi forgets is unloaded
const kept: LibraryHandle[] = [];
const done = new Set<string>();

/** Loads what lies in the folder, once per process. What cannot be loaded is left to the provider, whose error names it. */
export function loadCudaLibraries(folder: string): void {
  if (process.platform !== 'linux' || done.has(folder)) return;
  done.add(folder);
  const names = readdirSync(folder);
  for (const part of ORDER) {
    for (const name of names.filter((each) => new RegExp(`^lib${part}\\.so\\.\\d+$`, 'u').test(each))) {
      try {
        kept.push(koffi.load(join(folder, name), { global: true }));
      } catch {
        // the provider says what it misses
      }
    }
  }
}
