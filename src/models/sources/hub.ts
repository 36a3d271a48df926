/** `hf:` sources: which files of a repository on the hub are needed, and fetching them. */
import { mkdir, readFile, rename, statfs, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { HUB_URL, HubApiError, listFiles, modelInfo } from '@huggingface/hub';
import { EnvHttpProxyAgent, fetch as undiciFetch } from 'undici';
import { StvError } from '../../errors.ts';
import { formatSource, type Source } from '../source.ts';
import { bytesOnDisk, downloadFile, type ExpectedFile, type Fetch } from './download-file.ts';
import {
  findStored,
  partialFolder,
  publish,
  type StoredFile,
  type StoredSource,
  withSourceLock,
} from './source-cache.ts';

export type HubSource = Extract<Source, { kind: 'hf' }>;

interface HubProgress {
  readonly file: string;
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

export interface HubOptions {
  /** Of the sources of this kind. */
  readonly folder: string;
  readonly offline: boolean;
  /** Ask the hub what the revision stands for now, even when it is known. */
  readonly refresh: boolean;
  /** `HF_ENDPOINT`, `HF_TOKEN` and the proxies are read from it. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: HubProgress) => void;
  readonly retryDelayMs?: number;
}

interface RemoteFile extends ExpectedFile {
  readonly path: string;
}

const MAX_RETRIES = 5;
const CONFIG_FILES: ReadonlySet<string> = new Set([
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
]);
const INDEX = 'model.safetensors.index.json';
const SHARD = /^model-\d+-of-\d+\.safetensors$/u;

/** Finds the repository's files in the cache, or fetches them. */
export async function pullFromHub(source: HubSource, options: HubOptions): Promise<StoredSource> {
  const home = join(options.folder, source.repo.replace('/', '--'));
  const known = await knownCommit(home, source);
  if (known !== undefined && (options.offline || !options.refresh)) {
    const stored = await findStored(folderOf(home, known, source));
    if (stored !== undefined) return stored;
  }
  if (options.offline) {
    throw new StvError(
      'download_failed',
      `${formatSource(source)} is not in the cache and --offline forbids to fetch it; run "stv pull ${formatSource(source)}" with a network.`,
    );
  }
  const hub = hubAccess(options);
  try {
    const commit = await resolveCommit(source, hub);
    const folder = folderOf(home, commit, source);
    const stored = await withSourceLock(folder, options.signal, async () => {
      return (await findStored(folder)) ?? (await fetchAll(source, { commit, folder, hub, options }));
    });
    await rememberCommit(home, source, commit);
    return stored;
  } finally {
    await hub.close();
  }
}

/** One folder for a commit; a single GGUF file of it has its own, so that several can be kept. */
function folderOf(home: string, commit: string, source: HubSource): string {
  return join(home, source.file === undefined ? commit : `${commit}-${plainName(source.file)}`);
}

function plainName(file: string): string {
  return file.replace(/[^\w.-]/gu, '_');
}

/** One for each folder of a revision: a branch may have moved between the pulls of two files. */
function refPath(home: string, { revision, file }: Pick<HubSource, 'revision' | 'file'>): string {
  const ref = encodeURIComponent(revision);
  return join(home, 'refs', file === undefined ? ref : `${ref}#${plainName(file)}`);
}

async function knownCommit(home: string, { revision, file }: HubSource): Promise<string | undefined> {
  if (/^[0-9a-f]{40}$/u.test(revision)) return revision;
  const ofFile = file === undefined ? undefined : await readRef(refPath(home, { revision, file }));
  // files were once remembered under the revision alone
  return ofFile ?? (await readRef(refPath(home, { revision })));
}

async function readRef(path: string): Promise<string | undefined> {
  const commit = await readFile(path, 'utf8').catch(() => undefined);
  return commit !== undefined && /^[0-9a-f]{40}$/u.test(commit) ? commit : undefined;
}

async function rememberCommit(home: string, source: HubSource, commit: string): Promise<void> {
  const path = refPath(home, source);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(`${path}.${process.pid}`, commit);
  await rename(`${path}.${process.pid}`, path);
}

interface HubAccess {
  readonly url: string;
  readonly accessToken?: string;
  readonly fetch: Fetch;
  close(): Promise<void>;
}

function hubAccess(options: HubOptions): HubAccess {
  const { env, signal } = options;
  const agent = new EnvHttpProxyAgent({
    headersTimeout: 60_000,
    bodyTimeout: 60_000,
    ...(env['HTTP_PROXY'] === undefined ? {} : { httpProxy: env['HTTP_PROXY'] }),
    ...(env['HTTPS_PROXY'] === undefined ? {} : { httpsProxy: env['HTTPS_PROXY'] }),
    ...(env['NO_PROXY'] === undefined ? {} : { noProxy: env['NO_PROXY'] }),
  });
  const token = env['HF_TOKEN'];
  return {
    url: (env['HF_ENDPOINT'] || HUB_URL).replace(/\/+$/u, ''),
    ...(token === undefined || token === '' ? {} : { accessToken: token }),
    // undici's own fetch takes the dispatcher; its Response is the platform's in all but the declaration
    fetch: (url, init) =>
      undiciFetch(url, {
        ...init,
        dispatcher: agent,
        ...(init.signal === undefined && signal !== undefined ? { signal } : {}),
      }) as unknown as Promise<Response>,
    close: () => agent.close(),
  };
}

function hubParameters(hub: HubAccess): { hubUrl: string; fetch: typeof fetch; accessToken?: string } {
  return {
    hubUrl: hub.url,
    fetch: hub.fetch as unknown as typeof fetch,
    ...(hub.accessToken === undefined ? {} : { accessToken: hub.accessToken }),
  };
}

function explain(source: HubSource, error: unknown): unknown {
  if (!(error instanceof HubApiError)) return error;
  const name = formatSource(source);
  const { statusCode } = error;
  if (statusCode === 401 || statusCode === 403) {
    return new StvError(
      'download_failed',
      `${name}: the hub refuses access (${statusCode}); the repository does not exist, or is private or gated and HF_TOKEN has no access.`,
      { cause: error },
    );
  }
  if (statusCode === 404) {
    return new StvError('download_failed', `${name}: the hub knows no such repository or revision.`, { cause: error });
  }
  return new StvError('download_failed', `${name}: the hub answered ${statusCode}.`, { cause: error });
}

async function resolveCommit(source: HubSource, hub: HubAccess): Promise<string> {
  try {
    const info = await modelInfo({
      name: source.repo,
      revision: source.revision,
      additionalFields: ['sha'],
      ...hubParameters(hub),
    });
    const sha: unknown = info.sha;
    if (typeof sha !== 'string' || !/^[0-9a-f]{40}$/u.test(sha)) {
      throw new StvError('download_failed', `${formatSource(source)}: the hub names no commit for this revision.`);
    }
    return sha;
  } catch (error) {
    throw explain(source, error);
  }
}

interface FetchContext {
  readonly commit: string;
  readonly folder: string;
  readonly hub: HubAccess;
  readonly options: HubOptions;
}

async function fetchAll(source: HubSource, context: FetchContext): Promise<StoredSource> {
  const { commit, folder, hub, options } = context;
  const { files, entry } = await chooseFiles(source, commit, hub);
  const partial = partialFolder(folder);
  await mkdir(partial, { recursive: true });
  const bytesTotal = files.reduce((sum, file) => sum + file.size, 0);
  let bytesMissing = bytesTotal;
  for (const { path, size } of files) bytesMissing -= Math.min(size, await bytesOnDisk(join(partial, basename(path))));
  await requireSpace(partial, bytesMissing, formatSource(source));

  const stored: StoredFile[] = [];
  let finished = 0;
  for (const file of files) {
    const name = basename(file.path);
    const address = file.path.split('/').map(encodeURIComponent).join('/');
    const sha256 = await downloadFile(
      `${hub.url}/${source.repo}/resolve/${commit}/${address}`,
      join(partial, name),
      file,
      {
        fetch: hub.fetch,
        headers: hub.accessToken === undefined ? {} : { authorization: `Bearer ${hub.accessToken}` },
        maxRetries: MAX_RETRIES,
        retryDelayMs: options.retryDelayMs ?? 500,
        onBytes: (bytes) => options.onProgress?.({ file: name, bytesDone: finished + bytes, bytesTotal }),
        ...(options.signal && { signal: options.signal }),
      },
    );
    finished += file.size;
    options.onProgress?.({ file: name, bytesDone: finished, bytesTotal });
    stored.push({ name, size: file.size, sha256 });
  }
  return publish(folder, {
    format: 1,
    source: formatSource(source),
    revision: commit,
    ...(entry === undefined ? {} : { entry }),
    files: stored,
  });
}

/** A download that cannot fit is refused before it fills the disk for everybody else. */
async function requireSpace(folder: string, bytes: number, source: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= bytes) return;
  throw new StvError('disk_full', `${source} needs ${bytes} more bytes and ${folder} has ${bavail * bsize} left.`);
}

async function chooseFiles(
  source: HubSource,
  commit: string,
  hub: HubAccess,
): Promise<{ readonly files: readonly RemoteFile[]; readonly entry?: string }> {
  const all = new Map<string, RemoteFile>();
  try {
    const repo = { type: 'model', name: source.repo } as const;
    const recursive = source.file?.includes('/') === true;
    for await (const { type, path, size, oid, lfs } of listFiles({
      repo,
      revision: commit,
      recursive,
      ...hubParameters(hub),
    })) {
      if (type !== 'file') continue;
      if (lfs !== undefined) all.set(path, { path, size: lfs.size, sha256: lfs.oid.replace(/^sha256:/u, '') });
      else all.set(path, { path, size, ...(oid === undefined ? {} : { gitBlob: oid }) });
    }
  } catch (error) {
    throw explain(source, error);
  }
  const missing = (what: string): StvError =>
    new StvError('download_failed', `${formatSource(source)}: the repository holds no ${what}.`);
  if (source.file !== undefined) {
    const file = all.get(source.file);
    if (file === undefined) throw missing(source.file);
    return { files: [file], entry: basename(file.path) };
  }

  const names = [...all.keys()].filter((name) => !/[\\/]/u.test(name));
  const weights = weightFiles(names);
  if (weights.length === 1 && weights[0] === INDEX) throw missing(`shards model-*-of-*.safetensors for its ${INDEX}`);
  if (weights.length > 0) {
    const wanted = names.filter((name) => CONFIG_FILES.has(name));
    for (const name of ['config.json', 'tokenizer.json']) if (!wanted.includes(name)) throw missing(name);
    return { files: [...wanted, ...weights].flatMap((name) => all.get(name) ?? []) };
  }
  const gguf = names.filter((name) => name.toLowerCase().endsWith('.gguf'));
  const only = gguf.length === 1 ? all.get(gguf[0] ?? '') : undefined;
  if (only !== undefined) return { files: [only], entry: only.path };
  if (gguf.length === 0) throw missing('safetensors and no GGUF file');
  throw new StvError(
    'download_failed',
    `${formatSource(source)}: the repository holds several GGUF files; name one, e.g. hf:${source.repo}#${gguf.sort()[0]} (there are ${gguf.join(', ')}).`,
  );
}

/** The safetensors of the model itself: one file, which may have an index all the same, or sharded with an index. */
function weightFiles(names: readonly string[]): readonly string[] {
  if (names.includes('model.safetensors')) return ['model.safetensors'];
  if (names.includes(INDEX)) return [INDEX, ...names.filter((name) => SHARD.test(name))];
  const others = names.filter((name) => name.endsWith('.safetensors'));
  return others.length === 1 ? others : [];
}
