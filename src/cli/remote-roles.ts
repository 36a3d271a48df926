/** Which roles another server runs. Apart from what starts them, so that a start without remotes does not load that. */
import type { Config } from '../config.ts';
import type { Pack, PackRole } from '../models/pack.ts';
import { parseSource } from '../models/source.ts';

export type RoleName = keyof Pack['roles'];

/** What one model serves: one role, or both where they name the same. */
export interface ServedRole {
  readonly role: PackRole;
  readonly names: readonly RoleName[];
}

export function isRemote({ role }: ServedRole): boolean {
  return role.source.kind === 'openai';
}

/** Says so where a remote is asked with prompts that were made for weights of the pack's own; undefined where none is. */
export function remotePromptsHint(pack: Pack, config: Config): string | undefined {
  const remotes = { generator: config.generatorRemote, verifier: config.verifierRemote };
  const names = (['generator', 'verifier'] as const).filter(
    (name) => remotes[name] !== undefined && pack.roles[name].source.kind === 'local',
  );
  if (names.length === 0) return undefined;
  return `The remote ${names.join(' and ')} is asked with prompts and formats of the pack ${pack.name}, made for its own weights. --pack smollm2 has general ones.`;
}

/** The pack with the servers that the configuration names in place of its own. Throws StvError `config_invalid`. */
export function withRemoteRoles(pack: Pack, config: Config): Pack {
  const roleOf = (name: RoleName, given: string | undefined): PackRole =>
    given === undefined
      ? pack.roles[name]
      : { source: parseSource(given.startsWith('openai:') ? given : `openai:${given}`), templateVariables: {} };
  return {
    ...pack,
    // it was fitted to the verifier of the pack
    ...(config.verifierRemote === undefined ? {} : { calibration: { kind: 'none' } }),
    roles: {
      generator: roleOf('generator', config.generatorRemote),
      verifier: roleOf('verifier', config.verifierRemote),
    },
  };
}
