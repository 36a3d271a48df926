/** Pack -> weights on this machine -> prepared models -> a running engine. Tells what it does on the way. */
import path from 'node:path';
import { type Config, flagName } from '../config.ts';
import { CombinedEngine, type ObservedEngine } from '../engine/combined-engine.ts';
import type { ModelInfo } from '../engine/engine.ts';
import { DEFAULT_CONTEXT, type LocalModel, startLocalEngine } from '../engine/local-engine.ts';
import { StvError } from '../errors.ts';
import { cacheBytes } from '../models/lane-cache.ts';
import type { Pack, PackRole } from '../models/pack.ts';
import type { AnyPreparedModel } from '../models/prepare-any.ts';
import { prepareApart } from '../models/prepare-apart.ts';
import { kvFormat, type OnnxManifest, type PreparedManifest, readAnyManifest } from '../models/prepared-model.ts';
import { pull, sourcesFolder } from '../models/pull.ts';
import { formatSource } from '../models/source.ts';
import { withinLimit } from '../stv/call-plan.ts';
import { type ChosenDevices, chooseDevices } from './choose-devices.ts';
import { openPack } from './open-pack.ts';
import { isRemote, type RoleName, remotePromptsHint, type ServedRole, withRemoteRoles } from './remote-roles.ts';

/** What is being done, in one line for `/health/ready`, and how far it is. */
export interface LoadReport {
  readonly what: string;
  readonly done?: number;
  readonly total?: number | undefined;
  readonly unit?: 'bytes' | 'items';
}

export interface LoadOptions {
  readonly config: Config;
  readonly report: (report: LoadReport) => void;
  readonly signal?: AbortSignal;
}

export interface LoadedService {
  readonly pack: Pack;
  readonly engine: ObservedEngine;
  readonly models: readonly ModelInfo[];
  /** For the operator. */
  readonly hint?: string | undefined;
}

/** Throws StvError that says what is wrong with the pack, the source, the checkpoint or the machine. */
export async function loadService(options: LoadOptions): Promise<LoadedService> {
  const { config } = options;
  const pack = await openPack(config.pack);
  return { ...(await startPack(withRemoteRoles(pack, config), options)), hint: remotePromptsHint(pack, config) };
}

/** Fetches and converts what a pack names and starts it, an engine of its own. Throws as `loadService`. */
export async function startPack(pack: Pack, options: LoadOptions): Promise<LoadedService> {
  const { config, report } = options;
  const remoteRoles = rolesOf(pack, chooseDevices(config)).filter(isRemote);
  const remotes =
    remoteRoles.length === 0 ? [] : await (await import('./load-remotes.ts')).startRemotes(pack, remoteRoles, options);
  let engine: ObservedEngine;
  try {
    const models = await prepareRoles(pack, options);
    checkMemory(models);
    if (models.length > 0) report({ what: `Starting the engine with ${pack.name}.` });
    const limits = { maxQueuedSequences: config.maxQueuedSequences, maxQueuedTokens: config.maxQueuedTokens };
    const local =
      models.length === 0 ? [] : [await startLocalEngine({ models, limits, hangAfterMs: config.stallSeconds * 1000 })];
    engine = remotes.length === 0 && local[0] !== undefined ? local[0] : new CombinedEngine([...local, ...remotes]);
  } catch (thrown) {
    await Promise.all(remotes.map((remote) => remote.close()));
    throw thrown;
  }
  if (options.signal?.aborted) {
    await engine.close();
    throw new StvError('cancelled', 'Loading was cancelled.');
  }
  return { pack: withinLimit(pack, config.maxOutputTokens), engine, models: engine.models() };
}

/** Brings the weights of a pack onto this machine, none for remote roles; for `stv pull`. */
export async function prepareRoles(pack: Pack, options: LoadOptions): Promise<LocalModel[]> {
  const models: LocalModel[] = [];
  const devices = chooseDevices(options.config);
  for (const entry of rolesOf(pack, devices)) {
    if (!isRemote(entry)) models.push(await prepareRole(pack, entry, devices, options));
  }
  return mergeEqual(models);
}

/** Two spellings of one file are one model: the weights are loaded once. */
function mergeEqual(models: readonly LocalModel[]): LocalModel[] {
  const [first, second] = models;
  if (first === undefined || second === undefined) return [...models];
  const facts = ({ name: _name, aliases: _aliases, ...rest }: LocalModel): string => JSON.stringify(rest);
  if (facts(first) !== facts(second)) return [...models];
  return [
    {
      ...first,
      name: first.name.replace(/\/generator@/, '@'),
      aliases: [...new Set([...first.aliases, ...second.aliases])],
    },
  ];
}

/**
 * Throws StvError `runtime_failed` where weights and full caches do not fit: sooner or later the system would kill the process. `free`:
 * bytes.
 */
export function checkMemory(models: readonly LocalModel[], free = process.availableMemory()): void {
  let weights = 0;
  let caches = 0;
  for (const model of models) {
    const manifest = readAnyManifest(model.dir);
    weights += manifest.weightsBytes;
    caches += cacheBytesOf(model, manifest);
  }
  if (weights + caches <= free) return;
  const [forWeights, forCaches, left] = [weights, caches, free].map((bytes) => (bytes / 1e9).toFixed(1));
  const message = `The weights take ${forWeights} GB of memory, the caches up to ${forCaches} GB, and ${left} GB are free.`;
  throw new StvError(
    'runtime_failed',
    weights <= free ? `${message} Lower ${flagName('numSlots')} or ${flagName('context')}.` : message,
  );
}

/** Of a model on the CPU; a GPU's memory is asked for when the model is loaded, and a ready-made decoder makes its own. */
function cacheBytesOf(
  { device, numSlots, maxLength = DEFAULT_CONTEXT, kv = 'auto' }: LocalModel,
  manifest: PreparedManifest | OnnxManifest,
): number {
  if (device !== 'cpu' || numSlots === undefined || 'onnx' in manifest) return 0;
  const length = Math.min(maxLength, manifest.config.maxPositionEmbeddings);
  return cacheBytes(manifest.config, { numSlots, maxLength: length, kv: kvFormat(kv, manifest) });
}

function rolesOf({ roles: { generator, verifier } }: Pack, { of }: ChosenDevices): ServedRole[] {
  const isOneModel = roleKey(generator) === roleKey(verifier) && of.generator === of.verifier;
  if (isOneModel) return [{ role: generator, names: ['generator', 'verifier'] }];
  return [
    { role: generator, names: ['generator'] },
    { role: verifier, names: ['verifier'] },
  ];
}

/** Roles with equal keys share one model: the weights are loaded once. */
function roleKey({ source, weights, kv, context, templateVariables, remote }: PackRole): string {
  return JSON.stringify([formatSource(source), weights, kv, context, templateVariables, remote]);
}

async function prepareRole(
  pack: Pack,
  { role, names }: ServedRole,
  devices: ChosenDevices,
  { config, report, signal }: LoadOptions,
): Promise<LocalModel> {
  const source = formatSource(role.source);
  report({ what: `Looking for ${source}.` });
  const pulled = await pull(role.source, {
    cacheDir: sourcesFolder(config.dataDir),
    offline: config.offline,
    env: config.hfToken === undefined ? process.env : { ...process.env, HF_TOKEN: config.hfToken },
    onProgress: ({ file, bytesDone, bytesTotal }) =>
      report({ what: `Fetching ${file} of ${source}`, done: bytesDone, total: bytesTotal, unit: 'bytes' }),
    ...(role.hash === undefined ? {} : { expectedHash: role.hash }),
    ...(signal === undefined ? {} : { signal }),
  });
  const prepared = await prepareApart({
    checkpoint: pulled.path,
    cacheDir: path.join(config.dataDir, 'models'),
    weights: role.weights ?? config.weights,
    calibrate: true,
    // what is fetched was checked when it came
    ...(role.source.kind === 'local' && role.hash !== undefined ? { expectedDigest: role.hash } : {}),
    onProgress: ({ phase, done, total }) =>
      report(
        phase === 'hash'
          ? { what: `Checking ${source}`, done, total, unit: 'bytes' }
          : { what: `Converting ${source} to ${role.weights ?? config.weights}`, done, total, unit: 'items' },
      ),
    ...(signal === undefined ? {} : { signal }),
  });
  return toLocalModel({ pack, role, names, prepared, config, devices });
}

interface ToLocalModel {
  readonly pack: Pack;
  readonly role: PackRole;
  readonly names: readonly RoleName[];
  readonly prepared: AnyPreparedModel;
  readonly config: Config;
  readonly devices: ChosenDevices;
}

function toLocalModel({ pack, role, names, prepared, config, devices }: ToLocalModel): LocalModel {
  const { digest } = prepared.manifest;
  const context = config.context > 0 ? config.context : role.context;
  const packName = role.packName ?? pack.name;
  // one model in both roles carries no role in its name
  const full = names.length === 1 ? `${packName}/${names[0]}` : packName;
  return {
    name: `${full}@${digest}`,
    aliases: [...names, ...names.map((name) => `${packName}/${name}`)],
    digest,
    dir: prepared.dir,
    templateVariables: role.templateVariables,
    numSlots: config.numSlots,
    kv: role.kv ?? config.kv,
    ...(context === undefined ? {} : { maxLength: context }),
    ...(config.threads > 0 ? { threads: config.threads } : {}),
    ...(devices.libraryPath === undefined ? {} : { libraryPath: devices.libraryPath }),
    device: devices.of[names[0] ?? 'generator'],
  };
}
