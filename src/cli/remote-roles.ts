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
