/** The library set for CUDA as `stv device install cuda` leaves it: one folder with ONNX Runtime, its provider and NVIDIA's libraries. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

const PROVIDER = process.platform === 'win32' ? 'onnxruntime_providers_cuda.dll' : 'libonnxruntime_providers_cuda.so';

/** Folder of the set below the data folder. */
export function cudaSetFolder(dataDir: string): string {
  return join(dataDir, 'devices', 'cuda');
}

/** The set's folder where it is installed. */
export function installedCudaSet(dataDir: string): string | undefined {
  const folder = cudaSetFolder(dataDir);
  return hasCudaProvider(folder) ? folder : undefined;
}

/** Whether the CUDA provider lies beside an ONNX Runtime library (a file or its folder). */
export function hasCudaProvider(libraryPath: string): boolean {
  return existsSync(join(libraryPath, PROVIDER)) || existsSync(join(dirname(libraryPath), PROVIDER));
}
