/** Which device each role runs on and which ONNX Runtime library that takes, from the configuration and what is installed. */
import { existsSync } from 'node:fs';
import { type Config, flagName } from '../config.ts';
import { StvError } from '../errors.ts';
import type { DeviceName } from '../models/open-on-device.ts';
import { hasCudaProvider, installedCudaSet } from '../runtime/cuda-set.ts';
import type { RoleName } from './remote-roles.ts';

export interface ChosenDevices {
  readonly of: Readonly<Record<RoleName, DeviceName>>;
  /** Absent: the library of the `onnxruntime-node` package. */
  readonly libraryPath: string | undefined;
  /** What an operator should know: a GPU that is not used. */
  readonly hint?: string;
}

type DeviceConfig = Pick<Config, 'device' | 'generatorDevice' | 'verifierDevice' | 'libraryPath' | 'dataDir'>;

/** Throws StvError `device_unavailable` for a device that has no library here. */
export function chooseDevices(config: DeviceConfig, hasNvidia = existsSync('/dev/nvidiactl')): ChosenDevices {
  const own = (device: Config['generatorDevice']): DeviceName => (device === 'same' ? config.device : device);
  const of = { generator: own(config.generatorDevice), verifier: own(config.verifierDevice) };
  const wanted = new Set(Object.values(of));
  if (wanted.has('cuda') && wanted.has('webgpu')) {
    throw new StvError(
      'device_unavailable',
      'One server cannot use cuda and webgpu: they come with different ONNX Runtime libraries.',
    );
  }
  const set = installedCudaSet(config.dataDir);
  const isCudaWanted = wanted.has('cuda') || (wanted.has('auto') && !wanted.has('webgpu') && hasNvidia);
  const libraryPath = config.libraryPath ?? (isCudaWanted ? set : undefined);
  const hasCuda = libraryPath !== undefined && hasCudaProvider(libraryPath);
  if (wanted.has('cuda') && !hasCuda) {
    throw new StvError(
      'device_unavailable',
      libraryPath === undefined
        ? `The device cuda is not available: its libraries are not installed. Run \`stv device install cuda\`, or name a CUDA build with ${flagName('libraryPath')}.`
        : `The device cuda is not available: the CUDA provider does not lie beside ${libraryPath}.`,
    );
  }
  const hint =
    isCudaWanted && !hasCuda
      ? 'An NVIDIA GPU is here and not used: `stv device install cuda` fetches the libraries for it.'
      : undefined;
  return { of, libraryPath, ...(hint === undefined ? {} : { hint }) };
}
