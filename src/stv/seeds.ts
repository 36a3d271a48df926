/**
 * Seeds of all generations of a run, derived from its one seed, so that a chain, a round or a vote can be repeated alone.
 *
 * The hash: start with h = seed; for each of the words chain, round, role (generator 0, verifier 1), vote in this order
 * h = fmix32((h xor word) + 0x9e3779b9), all modulo 2^32, where fmix32 is the finalizer of MurmurHash3.
 * For one seed and equal other words, different words give different results, because every step is a bijection.
 */
import { randomInt } from 'node:crypto';
import type { Role } from './usage.ts';

export interface SeedPlace {
  readonly chain: number;
  readonly round: number;
  readonly role: Role;
  readonly vote: number;
}

function fmix32(word: number): number {
  let hash = word;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** Unsigned 32-bit. */
export function deriveSeed(seed: number, { chain, round, role, vote }: SeedPlace): number {
  let hash = seed >>> 0;
  for (const word of [chain, round, role === 'generator' ? 0 : 1, vote]) {
    hash = fmix32(((hash ^ word) + 0x9e3779b9) >>> 0);
  }
  return hash;
}

/**
 * Seeds of the votes of one verification request. Vote 0 has the request's own seed: a request with the seed of any vote
 * and `votes: 1` repeats that vote.
 */
export function voteSeed(seed: number, vote: number): number {
  return vote === 0 ? seed : deriveSeed(seed, { chain: 0, round: 0, role: 'verifier', vote });
}

/** Seed of the `tries`-th generation (from 1) in place of one that had to be thrown away. */
export function retrySeed(seed: number, tries: number): number {
  return deriveSeed(seed, { chain: tries, round: 0, role: 'verifier', vote: 0 });
}

/** Unsigned 32-bit, unpredictable. */
export function drawSeed(): number {
  return randomInt(2 ** 32);
}
