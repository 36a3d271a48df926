/** A pack in which a role was exchanged: which of a pack's parts belong to which role. */
import type { Pack, PackRole } from './pack.ts';

/** What a swap exchanges; `both` takes a pack, or a checkpoint in both roles, whole. */
export type SwapRole = 'generator' | 'verifier' | 'both';

/**
 * `current` with a role of `other`. From a pack the role brings what was made for its weights: prompts, formats, sampling
 * defaults, the verifier's calibration. A bare checkpoint takes over all of that, except a calibration: it was fitted to other weights.
 */
export function packWithRole(current: Pack, role: SwapRole, other: Pack, isBare: boolean): Pack {
  const weightsOf = (name: 'generator' | 'verifier'): PackRole =>
    isBare
      ? { ...current.roles[name], source: other.roles[name].source, hash: undefined, packName: other.name }
      : { ...other.roles[name], packName: other.name };
  let swapped: Pack = current;
  if (role !== 'verifier') {
    swapped = { ...swapped, roles: { ...swapped.roles, generator: weightsOf('generator') } };
    if (!isBare) swapped = withGeneratorParts(swapped, other);
  }
  if (role !== 'generator') {
    swapped = { ...swapped, roles: { ...swapped.roles, verifier: weightsOf('verifier') } };
    swapped = isBare ? { ...swapped, calibration: { kind: 'none' } } : withVerifierParts(swapped, other);
  }
  if (role !== 'both' || isBare) return swapped;
  const { name, version, license, path, digest } = other;
  return { ...swapped, name, version, license, path, digest };
}

function withGeneratorParts(pack: Pack, { prompts, answer, defaults, reasoning }: Pack): Pack {
  const { reasoning: _, ...rest } = pack;
  return {
    ...rest,
    prompts: { ...pack.prompts, attempt: prompts.attempt, refine: prompts.refine },
    answer,
    defaults: { ...pack.defaults, generator: defaults.generator },
    ...(reasoning === undefined ? {} : { reasoning }),
  };
}

function withVerifierParts(pack: Pack, { prompts, feedback, verdict, calibration, defaults }: Pack): Pack {
  const { verifyWithReference: _, ...rest } = pack.prompts;
  const informed = prompts.verifyWithReference;
  return {
    ...pack,
    prompts: {
      ...rest,
      verify: prompts.verify,
      ...(informed === undefined ? {} : { verifyWithReference: informed }),
    },
    feedback,
    verdict,
    calibration,
    defaults: { ...pack.defaults, verifier: defaults.verifier },
  };
}
