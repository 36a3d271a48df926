/** Roles that another server runs: what a pack and the configuration say about it, as a running remote engine. */
import { type Config, isLoopback } from '../config.ts';
import type { RemoteConfig } from '../engine/remote/remote-config.ts';
import type { RemoteEngine } from '../engine/remote/remote-engine.ts';
import { startRemoteEngine } from '../engine/remote/start-remote-engine.ts';
import { StvError } from '../errors.ts';
import type { Pack, PackRole } from '../models/pack.ts';
import { formatSource } from '../models/source.ts';
import type { RoleName, ServedRole } from './remote-roles.ts';

export interface StartRemotesOptions {
  readonly config: Config;
  readonly report: (report: { readonly what: string }) => void;
  readonly signal?: AbortSignal | undefined;
  /** Default: the process's. */
  readonly env?: NodeJS.ProcessEnv;
}

/** Starts an engine for each remote role and waits until its server answers. Throws like `startRemoteEngine`. */
export async function startRemotes(
  pack: Pack,
  roles: readonly ServedRole[],
  options: StartRemotesOptions,
): Promise<RemoteEngine[]> {
  const started = await Promise.allSettled(roles.map((role) => startRemote(pack, role, options)));
  const engines = started.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  const failed = started.find((result) => result.status === 'rejected');
  if (failed === undefined) return engines;
  await Promise.all(engines.map((engine) => engine.close()));
  throw failed.reason;
}

async function startRemote(
  pack: Pack,
  { role, names }: ServedRole,
  { config, report, signal, env = process.env }: StartRemotesOptions,
): Promise<RemoteEngine> {
  const remote = remoteConfigOf(role, names, { config, env });
  report({ what: `Asking the remote server at ${new URL(remote.url).host}.` });
  return startRemoteEngine({
    remote,
    // one model in both roles carries no role in its name
    label: names.length === 1 ? `${pack.name}/${names[0]}` : pack.name,
    aliases: [...names, ...names.map((name) => `${pack.name}/${name}`)],
    onWait: (what) => report({ what }),
    ...(signal === undefined ? {} : { signal }),
  });
}

/** Throws StvError `config_invalid`: no remote source, a key that is not set, a far server although nothing may be asked. */
export function remoteConfigOf(
  { source, remote, context, templateVariables }: PackRole,
  names: readonly RoleName[],
  { config, env }: { readonly config: Config; readonly env: NodeJS.ProcessEnv },
): RemoteConfig {
  if (source.kind !== 'openai') {
    throw new StvError('config_invalid', `${formatSource(source)} is not a remote server.`);
  }
  const { hostname, host } = new URL(source.url);
  if (config.offline && !isLoopback(hostname)) {
    throw new StvError('config_invalid', `--offline allows no remote server on another machine, not ${host} either.`);
  }
  const contexts = [config.context, context].filter((length) => length !== undefined && length > 0);
  return {
    url: source.url,
    model: source.model,
    apiKey: keyOf(remote?.apiKeyEnv, names, env),
    dialect: remote?.dialect,
    contextLength: contexts[0],
    templateVariables,
    limits: given({
      maxConcurrent: remote?.maxConcurrent ?? config.remoteConcurrency,
      maxQueued: remote?.maxQueued ?? config.maxQueuedSequences,
      maxRetries: remote?.maxRetries,
      connectMs: remote?.connectMs,
      firstEventMs: remote?.firstEventMs,
      stallMs: remote?.stallMs,
    }),
  };
}

/** A variable that a pack names must be set; the roles' own may be. */
function keyOf(named: string | undefined, names: readonly RoleName[], env: NodeJS.ProcessEnv): string | undefined {
  if (named === undefined) {
    const variables = [...names.map((name) => `STV_${name.toUpperCase()}_API_KEY`), 'STV_REMOTE_API_KEY'];
    return variables.map((variable) => env[variable]).find((key) => key !== undefined && key !== '');
  }
  const key = env[named];
  if (key !== undefined && key !== '') return key;
  throw new StvError('config_invalid', `The pack names ${named} for the key of a remote server, and it is not set.`);
}

type Given<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

function given<T extends Readonly<Record<string, number | undefined>>>(values: T): Given<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Given<T>;
}
