/** Which ONNX Runtime and which devices serving would take here, by the same choice as `stv serve`. Opens no device. */
import { existsSync } from 'node:fs';
import { type Config, flagName } from '../config.ts';
import { toStvError } from '../errors.ts';
import { hasCudaProvider } from '../runtime/cuda-set.ts';
import { type ChosenDevices, chooseDevices } from './choose-devices.ts';
import { type Finding, fail, ok, warn } from './finding.ts';

export async function checkDevices(config: Config): Promise<Finding[]> {
  let chosen: ChosenDevices | undefined;
  const findings: Finding[] = [];
  try {
    chosen = chooseDevices(config);
  } catch (thrown) {
    findings.push(fail('device', toStvError(thrown).message));
  }
  const libraryPath = chosen?.libraryPath ?? config.libraryPath;
  try {
    const { loadRuntime } = await import('../runtime/runtime.ts');
    const runtime = loadRuntime({ libraryPath });
    if (chosen !== undefined) findings.push(checkDevice(chosen, runtime.providers()));
    findings.unshift(ok('runtime', `ONNX Runtime ${runtime.version} from ${runtime.libraryPath}.`));
    runtime.dispose();
  } catch (thrown) {
    const message = `ONNX Runtime cannot be loaded: ${toStvError(thrown).message} ${runtimeHint(config, libraryPath)}`;
    findings.unshift(fail('runtime', message));
  }
  return findings;
}

function runtimeHint(config: Config, libraryPath: string | undefined): string {
  if (config.libraryPath !== undefined) return `Check ${flagName('libraryPath')}.`;
  return libraryPath === undefined
    ? 'Install the dependencies again (npm ci).'
    : `Remove ${libraryPath} and run \`stv device install cuda\` again.`;
}

const isNvidiaVisible = process.platform !== 'linux' || existsSync('/dev/nvidiactl');

/** `providers`: what the library knows, by ONNX Runtime's names. A driver shows itself only to a model. */
export function checkDevice(
  { of, libraryPath, hint }: ChosenDevices,
  providers: readonly string[],
  hasNvidia = isNvidiaVisible,
): Finding {
  const wanted = new Set(Object.values(of));
  if (wanted.has('webgpu')) {
    return providers.includes('WebGpuExecutionProvider')
      ? warn('device', 'The library offers webgpu; whether a driver is there shows when the server starts.')
      : fail('device', `The library has no webgpu; name one that has with ${flagName('libraryPath')}, or use cpu.`);
  }
  if (wanted.has('cuda')) {
    return hasNvidia
      ? warn('device', 'The library offers cuda; whether its driver fits shows when the server starts.')
      : fail('device', 'No NVIDIA device is visible here; install its driver, or use cpu.');
  }
  if (hint !== undefined) return warn('device', hint);
  return wanted.has('auto') && libraryPath !== undefined && hasCudaProvider(libraryPath)
    ? ok('device', 'The models run on cuda where its driver works, else on the CPU.')
    : ok('device', 'The models run on the CPU.');
}
