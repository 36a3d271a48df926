/**
 * API keys: who may do what. Keys are kept and compared as SHA-256 digests only. No HTTP here.
 *
 * The file is JSON, `{"keys": [{"name": "grader", "key": "…" | "sha256": "<64 hex>", "scopes": ["infer"]}]}`, or plain
 * lines `KEY [scope,scope] [name] [limit=value …]` where KEY may be `sha256:<64 hex>`; `#` begins a comment line. Scope default:
 * `infer`. An entry in JSON may hold `limits`, an object of the same names.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { StvError } from './errors.ts';
import { type KeyLimits, readLimits, readLimitWords } from './quotas/limits.ts';

export const scopes = ['infer', 'traces', 'metrics', 'admin'] as const;
export type Scope = (typeof scopes)[number];

export interface ApiKey {
  /** Stable and harmless to log: the name of the file, or the first characters of the digest. */
  readonly id: string;
  readonly scopes: ReadonlySet<Scope>;
  /** Its own limits; those of the configuration hold for what is not named here. */
  readonly limits: KeyLimits;
}

interface StoredKey extends ApiKey {
  readonly digest: Buffer;
  /** The file holds the key itself, not its digest. */
  readonly isPlain: boolean;
}

export interface ApiKeys {
  /** False: nobody configured keys, everything on loopback is allowed. */
  readonly isRequired: boolean;
  /** The key that a secret belongs to, found in time that does not depend on the secret. */
  find(secret: string): ApiKey | undefined;
  /** The limits of the key with this id; undefined where there is none (any more). */
  limitsOf(id: string): KeyLimits | undefined;
  /** Ids of keys that lie in the file in plain text, for a warning. */
  readonly plain: readonly string[];
}

/** The caller when no keys are configured. */
export const anonymous: ApiKey = { id: 'anonymous', scopes: new Set(scopes), limits: {} };

export const noApiKeys: ApiKeys = {
  isRequired: false,
  find: () => undefined,
  limitsOf: () => undefined,
  plain: [],
};

/** Reads the keys file. Throws `config_invalid` naming the entry, never its secret. */
export function loadApiKeys(file: string): ApiKeys {
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    throw new StvError('config_invalid', `The API keys file ${file} cannot be read: ${(error as Error).message}.`);
  }
  return createApiKeys(parseKeys(content, file));
}

function createApiKeys(keys: readonly StoredKey[]): ApiKeys {
  return {
    isRequired: true,
    find(secret) {
      const digest = sha256(secret);
      let found: StoredKey | undefined;
      // every entry is compared, so that neither position nor prefix shows in the time
      for (const key of keys) if (timingSafeEqual(key.digest, digest)) found = key;
      return found;
    },
    limitsOf: (id) => keys.find((key) => key.id === id)?.limits,
    plain: keys.filter(({ isPlain }) => isPlain).map(({ id }) => id),
  };
}

function parseKeys(content: string, file: string): StoredKey[] {
  const entries = content.trimStart().startsWith('{') ? fromJson(content, file) : fromLines(content, file);
  if (entries.length === 0) throw new StvError('config_invalid', `The API keys file ${file} holds no key.`);
  const names = new Set<string>();
  for (const entry of entries) {
    if (names.has(entry.id)) {
      throw new StvError('config_invalid', `The API keys file ${file} names the key ${entry.id} twice.`);
    }
    names.add(entry.id);
  }
  return entries;
}

function fromLines(content: string, file: string): StoredKey[] {
  return content.split(/\r?\n/).flatMap((line, index) => {
    const [secret, ...words] = line.trim().split(/\s+/);
    if (secret === undefined || secret === '' || secret.startsWith('#')) return [];
    const where = `${file}, line ${index + 1}`;
    const [scopeList, name, ...more] = words.filter((word) => !word.includes('='));
    if (more.length > 0) throw new StvError('config_invalid', `${where}: after the name come limits, name=value.`);
    const limits = readLimitWords(
      words.filter((word) => word.includes('=')),
      where,
    );
    return [toKey(secret, { scopes: scopeList?.split(','), name, limits }, where)];
  });
}

function fromJson(content: string, file: string): StoredKey[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(content);
  } catch {
    throw new StvError('config_invalid', `The API keys file ${file} is not valid JSON.`);
  }
  const list = (parsed as { keys?: unknown }).keys;
  if (!Array.isArray(list)) throw new StvError('config_invalid', `The API keys file ${file} has no list \`keys\`.`);
  return list.map((entry: unknown, index) => {
    const where = `${file}, key ${index + 1}`;
    const { key, sha256: digest, scopes: given, name, limits = {} } = (entry ?? {}) as Record<string, unknown>;
    const secret = typeof digest === 'string' ? `sha256:${digest}` : key;
    if (typeof secret !== 'string' || secret === '') {
      throw new StvError('config_invalid', `${where}: needs a text \`key\` or \`sha256\`.`);
    }
    if (given !== undefined && !(Array.isArray(given) && given.every((scope) => typeof scope === 'string'))) {
      throw new StvError('config_invalid', `${where}: \`scopes\` must be a list of names.`);
    }
    if (typeof limits !== 'object' || limits === null || Array.isArray(limits)) {
      throw new StvError('config_invalid', `${where}: \`limits\` must be an object.`);
    }
    const checked = readLimits(limits as Record<string, unknown>, where);
    return toKey(secret, { scopes: given, name: typeof name === 'string' ? name : undefined, limits: checked }, where);
  });
}

interface KeyFields {
  readonly scopes: readonly string[] | undefined;
  readonly name: string | undefined;
  readonly limits: KeyLimits;
}

function toKey(secret: string, { scopes: given, name, limits }: KeyFields, where: string): StoredKey {
  const isDigest = secret.startsWith('sha256:');
  const hex = secret.slice('sha256:'.length);
  if (isDigest && !/^[0-9a-f]{64}$/i.test(hex)) {
    throw new StvError('config_invalid', `${where}: a sha256 digest has 64 hexadecimal digits.`);
  }
  const digest = isDigest ? Buffer.from(hex, 'hex') : sha256(secret);
  const granted = new Set<Scope>();
  for (const scope of given ?? ['infer']) {
    const known = scopes.find((candidate) => candidate === scope);
    if (known === undefined) {
      throw new StvError('config_invalid', `${where}: the scope ${scope} is unknown; there are ${scopes.join(', ')}.`);
    }
    granted.add(known);
  }
  const id = name ?? `key-${digest.toString('hex', 0, 4)}`;
  return { id, scopes: granted, limits, digest, isPlain: !isDigest };
}

/**
 * A new random key and its line for the keys file, which holds the digest only; `limits` are words `name=value`. Throws
 * `config_invalid` for unknown scopes and limits.
 */
export function makeKeyLine(
  name: string,
  granted: readonly string[],
  limits: readonly string[] = [],
): { readonly key: string; readonly line: string } {
  const key = `stv-${randomBytes(24).toString('base64url')}`;
  if (!/^[\w.-]{1,64}$/.test(name)) {
    throw new StvError(
      'config_invalid',
      'The name of a key has 1 to 64 letters, digits, dots, hyphens or underscores.',
    );
  }
  const where = 'The new key';
  const entry = toKey(key, { scopes: granted, name, limits: readLimitWords(limits, where) }, where);
  const words = Object.entries(entry.limits).map(([limit, value]) => `${limit}=${value}`);
  const digest = `sha256:${entry.digest.toString('hex')}`;
  return { key, line: [digest, [...entry.scopes].join(','), name, ...words].join(' ') };
}

function sha256(secret: string): Buffer {
  return createHash('sha256').update(secret, 'utf8').digest();
}
