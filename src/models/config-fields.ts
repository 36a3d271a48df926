/** Checked access to the loosely typed fields of a `config.json` object or of GGUF metadata. */
import { checkpointInvalid } from './checkpoint-file.ts';

interface NumberRule {
  readonly min?: number;
  readonly max?: number;
  /** Taken when the field is absent or null; without it the field is required. */
  readonly fallback?: number;
}

export class ConfigFields {
  readonly path: string;
  readonly #fields: ReadonlyMap<string, unknown>;
  readonly #prefix: string;

  /** `prefix` is put before every name that is asked for, e.g. `llama.` or `rope_scaling.`. */
  constructor(path: string, fields: ReadonlyMap<string, unknown>, prefix = '') {
    this.path = path;
    this.#fields = fields;
    this.#prefix = prefix;
  }

  /** The raw value; null counts as absent. */
  value(name: string): unknown {
    return this.#fields.get(this.#prefix + name) ?? undefined;
  }

  has(name: string): boolean {
    return this.value(name) !== undefined;
  }

  integer(name: string, rule: NumberRule = {}): number {
    const value = this.number(name, rule);
    if (!Number.isSafeInteger(value)) throw this.#wrong(name, 'an integer', value);
    return value;
  }

  number(name: string, rule: NumberRule = {}): number {
    const value = this.value(name) ?? rule.fallback;
    if (value === undefined) throw checkpointInvalid(this.path, `its configuration lacks "${this.#prefix}${name}".`);
    if (typeof value !== 'number' || !Number.isFinite(value)) throw this.#wrong(name, 'a number', value);
    const { min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY } = rule;
    if (value < min || value > max) throw this.#wrong(name, `between ${min} and ${max}`, value);
    return value;
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.value(name) ?? fallback;
    if (typeof value !== 'boolean') throw this.#wrong(name, 'true or false', value);
    return value;
  }

  string(name: string): string | undefined {
    const value = this.value(name);
    if (value !== undefined && typeof value !== 'string') throw this.#wrong(name, 'a string', value);
    return value;
  }

  /** The fields of a nested JSON object; undefined when absent. */
  object(name: string): ConfigFields | undefined {
    const value = this.value(name);
    if (value === undefined) return undefined;
    if (typeof value !== 'object' || Array.isArray(value)) throw this.#wrong(name, 'an object', value);
    const fields = new Map(Object.entries(value as object).map(([key, field]) => [`${name}.${key}`, field]));
    return new ConfigFields(this.path, fields, `${name}.`);
  }

  #wrong(name: string, wanted: string, value: unknown): Error {
    const shown = (JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `${part}` : part)) ?? '').slice(
      0,
      80,
    );
    return checkpointInvalid(this.path, `"${this.#prefix}${name}" must be ${wanted}, but it is ${shown}.`);
  }
}
