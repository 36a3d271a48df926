/** Seeded damage to real files: bytes, numbers at their limits, and JSON whose values change their kind, size or number. */

export type Random = () => number;

/** mulberry32: the same inputs for the same seed on every machine. */
export function randomOf(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function below(random: Random, bound: number): number {
  return Math.floor(random() * bound);
}

export function pick<T>(random: Random, items: readonly T[]): T {
  return items[below(random, items.length)] as T;
}

const limits = [
  0n,
  1n,
  2n,
  7n,
  8n,
  0x7fn,
  0xffn,
  0x7fffn,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x100000000n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 62n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 1n,
];

/** A damaged copy; most damage falls into the first `headBytes`, where the structure is. */
export function mutateBytes(random: Random, source: Uint8Array, headBytes: number): Buffer {
  let bytes = Buffer.from(source);
  for (let times = 1 + below(random, 4); times > 0; times--) {
    const reach = random() < 0.9 ? Math.min(headBytes, bytes.length) : bytes.length;
    const at = below(random, Math.max(1, reach));
    switch (below(random, 8)) {
      case 0:
        if (at < bytes.length) bytes[at] = (bytes[at] as number) ^ (1 << below(random, 8));
        break;
      case 1:
        if (at < bytes.length) bytes[at] = below(random, 256);
        break;
      case 2:
        if (at + 4 <= bytes.length) bytes.writeUInt32LE(Number(pick(random, limits) & 0xffffffffn), at);
        break;
      case 3:
        if (at + 8 <= bytes.length) bytes.writeBigUInt64LE(pick(random, limits), at);
        break;
      case 4:
        bytes = bytes.subarray(0, at);
        break;
      case 5: {
        const length = 1 + below(random, 64);
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
        break;
      }
      case 6: {
        const from = below(random, Math.max(1, reach));
        const piece = bytes.subarray(from, from + 1 + below(random, 64));
        bytes = Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at)]);
        break;
      }
      default:
        bytes = Buffer.concat([
          bytes.subarray(0, at),
          Buffer.from(Array.from({ length: 1 + below(random, 16) }, () => below(random, 256))),
          bytes.subarray(at),
        ]);
    }
  }
  return bytes;
}

const odd: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1,
  0.5,
  -0,
  1e308,
  -1e308,
  1e21,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  2 ** 53 + 2,
  '',
  ' ',
  '0',
  '\0',
  '\u{10ffff}',
  '\ud800',
  '__proto__',
  'constructor',
  'toString',
  'x'.repeat(70_000),
  '{{',
  '{% for',
  '(a+)+$',
  `\\boxed{2 ${'a'.repeat(3000)}#}`,
  `\\boxed{${'a b '.repeat(12_000)}}`,
  `${'#'.repeat(1200)}${' '.repeat(1200)}\nb`,
  `1${' '.repeat(16_000)}${'½'.repeat(16_000)}`,
  '../../etc/passwd',
  '/dev/zero',
  [],
  {},
  [[]],
  [{}],
  { type: 'Sequence' },
  { type: 'BPE' },
  Array(2000).fill(0),
];

/** A copy of a JSON value in which a few places hold something else. Other values come from the value itself, too. */
export function mutateJson(random: Random, value: unknown): unknown {
  const copy: unknown = structuredClone(value);
  for (let times = 1 + below(random, 3); times > 0; times--) {
    const places: { readonly parent: Record<string, unknown>; readonly key: string }[] = [];
    collect(copy, places, random);
    if (places.length === 0) break;
    const { parent, key } = pick(random, places);
    switch (below(random, 5)) {
      case 0:
        delete parent[key];
        break;
      case 1: {
        const other = pick(random, places);
        parent[key] = structuredClone(other.parent[other.key]);
        break;
      }
      case 2:
        parent[`${key}${pick(random, ['', '_', ' ', '\0', '2'])}`] = structuredClone(parent[key]);
        break;
      case 3: {
        let deep: unknown = parent[key];
        for (let level = below(random, 200); level > 0; level--) deep = random() < 0.5 ? [deep] : { type: deep };
        parent[key] = deep;
        break;
      }
      default:
        parent[key] = structuredClone(pick(random, odd));
    }
  }
  return copy;
}

/** Places near the root are as likely as the thousands inside of long lists. */
function collect(
  value: unknown,
  places: { readonly parent: Record<string, unknown>; readonly key: string }[],
  random: Random,
): void {
  if (typeof value !== 'object' || value === null) return;
  const keys = Object.keys(value);
  const shown = keys.length <= 24 ? keys : Array.from({ length: 8 }, () => pick(random, keys));
  for (const key of shown) {
    places.push({ parent: value as Record<string, unknown>, key });
    if (places.length < 4000) collect((value as Record<string, unknown>)[key], places, random);
  }
}
