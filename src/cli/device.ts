/** `stv device`: which devices models can run on here, and the libraries that a device needs. */
import type { Config } from '../config.ts';
import { toStvError } from '../errors.ts';
import { cudaSetFolder, installedCudaSet } from '../runtime/cuda-set.ts';
import { createProgressLine } from './progress.ts';

export interface DeviceFinding {
  readonly device: 'cpu' | 'webgpu' | 'cuda';
  readonly isAvailable: boolean;
  readonly detail: string;
}

/** Tries each device with the smallest of models. */
export async function probeDevices(config: Pick<Config, 'dataDir' | 'libraryPath'>): Promise<DeviceFinding[]> {
  const cuda = config.libraryPath ?? installedCudaSet(config.dataDir);
  return [
    await probe('cpu', config.libraryPath),
    await probe('webgpu', config.libraryPath),
    cuda === undefined
      ? { device: 'cuda', isAvailable: false, detail: 'Its libraries are not installed: `stv device install cuda`.' }
      : await probe('cuda', cuda),
  ];
}

async function probe(device: DeviceFinding['device'], libraryPath: string | undefined): Promise<DeviceFinding> {
  try {
    const [{ loadRuntime }, { Placement }] = await Promise.all([
      import('../runtime/runtime.ts'),
      import('../runtime/placement.ts'),
    ]);
    const runtime = loadRuntime({ libraryPath, logLevel: 'fatal' });
    const placement = new Placement(runtime, device === 'cpu' ? 'cpu' : { type: device });
    placement.dispose();
    const detail = `ONNX Runtime ${runtime.version} from ${runtime.libraryPath}.`;
    runtime.dispose();
    return { device, isAvailable: true, detail };
  } catch (thrown) {
    return { device, isAvailable: false, detail: toStvError(thrown).message };
  }
}

export async function listDevices(config: Config, isJson: boolean): Promise<void> {
  const found = await probeDevices(config);
  if (isJson) {
    process.stdout.write(`${JSON.stringify({ object: 'devices', devices: found }, null, 2)}\n`);
    return;
  }
  for (const { device, isAvailable, detail } of found) {
    process.stdout.write(`${device.padEnd(7)} ${isAvailable ? 'yes' : 'no '}  ${detail}\n`);
  }
}

/** Fetches and unpacks the libraries for CUDA into the data folder. Throws StvError `download_failed`, `disk_full`, `cancelled`. */
export async function installCuda(config: Config, isJson: boolean): Promise<void> {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    const { StvError } = await import('../errors.ts');
    throw new StvError('device_unavailable', 'The libraries for CUDA are published for Linux x64 only.');
  }
  const { CUDA_PACKAGES, installLibraries } = await import('../models/device-install.ts');
  const progress = createProgressLine();
  const controller = new AbortController();
  const interrupt = (): void => controller.abort(new Error('interrupted'));
  process.once('SIGINT', interrupt);
  process.once('SIGTERM', interrupt);
  const folder = cudaSetFolder(config.dataDir);
  try {
    await installLibraries({
      folder,
      packages: CUDA_PACKAGES,
      signal: controller.signal,
      onProgress: ({ file, bytesDone, bytesTotal }) => progress.update(`Fetching ${file}`, bytesDone, bytesTotal),
    });
  } finally {
    process.off('SIGINT', interrupt);
    process.off('SIGTERM', interrupt);
    progress.finish();
  }
  const found = await probe('cuda', folder);
  if (isJson) {
    process.stdout.write(`${JSON.stringify({ object: 'device_install', folder, ...found }, null, 2)}\n`);
    return;
  }
  process.stdout.write(`${folder}\n`);
  const { isAvailable, detail } = found;
  if (!isAvailable) process.stderr.write(`Installed, but: ${detail}\n`);
}
