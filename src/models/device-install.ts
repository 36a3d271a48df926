/**
 * Fetches the library set of a device and puts it in place whole or not at all: wheels through the machine's pip, each checked
 * against a hash that is written here, their shared libraries side by side in one folder.
 */
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { StvError } from '../errors.ts';
import { downloadWheel, runPython } from './sources/pypi.ts';
import { partialFolder, sha256File, withSourceLock } from './sources/source-cache.ts';

export interface LibraryPackage {
  readonly package: string;
  readonly version: string;
  /** Of the wheel. */
  readonly sha256: string;
  /** Names of the shared libraries that are taken. */
  readonly libraries: readonly string[];
}

/** ONNX Runtime with CUDA 13 and what its provider links to, for Linux x64. */
export const CUDA_PACKAGES: readonly LibraryPackage[] = [
  {
    package: 'onnxruntime-gpu',
    version: '1.30.0',
    sha256: '4fbf0c5d7b5fb99266c2e8a802e3e64af68bdc383e0f3c7349b985f1087eedaa',
    libraries: ['libonnxruntime.so.1.30.0', 'libonnxruntime_providers_cuda.so', 'libonnxruntime_providers_shared.so'],
  },
  {
    package: 'nvidia-cuda-runtime',
    version: '13.5.37',
    sha256: 'df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d',
    libraries: ['libcudart.so.13'],
  },
  {
    package: 'nvidia-cublas',
    version: '13.10.0.20',
    sha256: 'dcc6d63884c53d07e267ce7e6feac17b2538cebaafec5db865736c3e28e4dc84',
    libraries: ['libcublas.so.13', 'libcublasLt.so.13'],
  },
  {
    package: 'nvidia-curand',
    version: '10.4.5.25',
    sha256: '22bb226a857e5888fe6b54ae465fc4371296bcff13a35f79e19691bcf454f529',
    libraries: ['libcurand.so.10'],
  },
];

/** The same wheel on every machine: its libraries do not depend on the Python that fetches it. */
const PIP_ARGUMENTS = ['--python-version', '3.11', '--implementation', 'cp', '--abi', 'cp311', '--abi', 'none'];
const PLATFORMS = ['manylinux_2_28_x86_64', 'manylinux_2_27_x86_64', 'manylinux2014_x86_64', 'manylinux1_x86_64'];

/** Takes the named files out of a wheel, flat. Names in the archive are compared, never used as paths. */
const UNPACK = `
import shutil, sys, zipfile
wheel, out, wanted = sys.argv[1], sys.argv[2], sys.argv[3:]
with zipfile.ZipFile(wheel) as archive:
    found = {i.filename.rpartition('/')[2]: i for i in archive.infolist() if not i.is_dir()}
    missing = [name for name in wanted if name not in found]
    if missing:
        sys.exit('it holds no ' + ', '.join(missing))
    for name in wanted:
        with archive.open(found[name]) as source, open(out + '/' + name, 'wb') as target:
            shutil.copyfileobj(source, target, 1 << 20)
`;

export interface InstallOptions {
  /** Where the set is put; replaced when it is there. */
  readonly folder: string;
  readonly packages: readonly LibraryPackage[];
  readonly onProgress?: (progress: {
    readonly file: string;
    readonly bytesDone: number;
    readonly bytesTotal?: number;
  }) => void;
  readonly signal?: AbortSignal;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly python?: string;
}

/** Throws StvError `download_failed` (no network, another hash, a wheel without the libraries), `disk_full` or `cancelled`. */
export async function installLibraries(options: InstallOptions): Promise<void> {
  const { folder, signal } = options;
  try {
    await withSourceLock(folder, signal, () => install(options));
  } catch (thrown) {
    if (signal?.aborted) throw new StvError('cancelled', 'The installation was cancelled.', { cause: thrown });
    throw thrown;
  }
}

/** With the lock: whatever is half-written belongs to nobody. */
async function install(options: InstallOptions): Promise<void> {
  const { folder, packages } = options;
  const partial = partialFolder(folder);
  for (const name of await readdir(dirname(folder))) {
    // once there was one for each process
    if (name.startsWith(basename(partial))) await rm(join(dirname(folder), name), { recursive: true, force: true });
  }
  const libraries = join(partial, 'libraries');
  await mkdir(libraries, { recursive: true });
  try {
    for (const wanted of packages) await installPackage(wanted, { ...options, partial, libraries });
    await writeFile(join(libraries, 'packages.json'), `${JSON.stringify(packages, null, 2)}\n`);
    await rm(folder, { recursive: true, force: true });
    await rename(libraries, folder);
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
}

async function installPackage(
  wanted: LibraryPackage,
  options: InstallOptions & { readonly partial: string; readonly libraries: string },
): Promise<void> {
  const { partial, libraries, onProgress, signal, env = process.env, python } = options;
  const wheels = join(partial, wanted.package);
  await mkdir(wheels);
  const spelled = `${wanted.package}==${wanted.version}`;
  const run = {
    env,
    pipArguments: [...PIP_ARGUMENTS, ...PLATFORMS.flatMap((platform) => ['--platform', platform])],
    ...(onProgress && { onProgress }),
    ...(signal && { signal }),
    ...(python === undefined ? {} : { python }),
  };
  await downloadWheel({ kind: 'pypi', package: wanted.package, version: wanted.version }, wheels, run);
  const wheel = (await readdir(wheels)).find((file) => file.endsWith('.whl'));
  if (wheel === undefined) throw new StvError('download_failed', `${spelled}: pip brought no wheel.`);
  const path = join(wheels, wheel);
  const sha256 = (await sha256File(path, signal)).replace(/^sha256:/u, '');
  if (sha256 !== wanted.sha256) {
    throw new StvError('download_failed', `${spelled}: the wheel has the hash ${sha256}, not ${wanted.sha256}.`);
  }
  const unpacked = await runPython(['-I', '-c', UNPACK, path, libraries, ...wanted.libraries], run, () => undefined);
  if (unpacked.code !== 0) {
    const isFull = /No space left on device/u.test(unpacked.stderr);
    const last = unpacked.stderr.trim().split('\n').at(-1) ?? '';
    throw isFull
      ? new StvError('disk_full', `The disk is full: ${spelled} could not be unpacked.`)
      : new StvError('download_failed', `${spelled}: the wheel cannot be used: ${last.slice(0, 300)}.`);
  }
  await rm(wheels, { recursive: true, force: true });
}
