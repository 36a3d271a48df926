/** Inside camelCase, on the wire snake_case: one mapping for every answer and event. */

type SnakeName<S extends string> = S extends `${infer Head}${infer Tail}`
  ? Head extends Lowercase<Head>
    ? `${Head}${SnakeName<Tail>}`
    : `_${Lowercase<Head>}${SnakeName<Tail>}`
  : S;

/** The type that `toWire` gives. What lies under `metadata` belongs to the caller and stays as it is. */
export type Wire<T> = T extends readonly (infer Item)[]
  ? Wire<Item>[]
  : T extends object
    ? { [K in keyof T as K extends string ? SnakeName<K> : never]: K extends 'metadata' ? T[K] : Wire<T[K]> }
    : T;

const names = new Map<string, string>();

function snakeName(name: string): string {
  let snake = names.get(name);
  if (snake === undefined) {
    snake = name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    // keys are property names of our own types, so this never grows past their number
    names.set(name, snake);
  }
  return snake;
}

/** A copy with every key in snake_case. Plain data only: arrays, objects, strings, finite numbers, booleans, null. */
export function toWire<T>(value: T): Wire<T> {
  return convert(value) as Wire<T>;
}

function convert(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(convert);
  if (typeof value !== 'object' || value === null) return value;
  const result: Record<string, unknown> = {};
  for (const [key, inner] of Object.entries(value)) {
    if (inner === undefined) continue;
    result[snakeName(key)] = key === 'metadata' ? inner : convert(inner);
  }
  return result;
}
