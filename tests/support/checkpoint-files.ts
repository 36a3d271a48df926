/** Bytes of small safetensors and GGUF files, sound or, by the caller's wish, wrong in one place. */

export interface SafetensorsEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/** A file with this header (an object, or JSON as it stands) before the data. */
export function safetensorsFile(header: unknown, data: Uint8Array): Uint8Array {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, data]);
}

export function floatBytes(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

export type MetadataEntry =
  | { readonly type: 'uint32'; readonly value: number }
  | { readonly type: 'uint64'; readonly value: bigint }
  | { readonly type: 'float32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'int32s'; readonly value: readonly number[] }
  /** Anything: the type number and the bytes of the value as they stand. */
  | { readonly type: 'raw'; readonly value: Uint8Array };

export interface GgufFileTensor {
  readonly name: string;
  /** In the file's order, innermost first. */
  readonly dims: readonly number[];
  readonly type: number;
  readonly bytes: Uint8Array;
}

export interface GgufFileParts {
  readonly version?: number;
  readonly metadata?: Readonly<Record<string, MetadataEntry>>;
  readonly tensors?: readonly GgufFileTensor[];
  /** Counts of the header, when they shall not be the true ones. */
  readonly numTensors?: bigint;
  readonly numMetadata?: bigint;
}

const ALIGNMENT = 32;

export function ggufFile(parts: GgufFileParts): Uint8Array {
  const { version = 3, metadata = {}, tensors = [] } = parts;
  const entries = Object.entries(metadata);
  const chunks: Uint8Array[] = [
    Buffer.from('GGUF'),
    uint32(version),
    uint64(parts.numTensors ?? BigInt(tensors.length)),
    uint64(parts.numMetadata ?? BigInt(entries.length)),
  ];
  for (const [key, entry] of entries) chunks.push(text(key), metadataValue(entry));
  let offset = 0;
  for (const { name, dims, type, bytes } of tensors) {
    chunks.push(text(name), uint32(dims.length), ...dims.map((size) => uint64(BigInt(size))), uint32(type));
    chunks.push(uint64(BigInt(offset)));
    offset += padded(bytes.length);
  }
  const header = Buffer.concat(chunks);
  const body = tensors.map(({ bytes }, i) =>
    i === tensors.length - 1 ? bytes : Buffer.concat([bytes], padded(bytes.length)),
  );
  return Buffer.concat([Buffer.concat([header], padded(header.length)), ...body]);
}

export function uint32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function uint64(value: bigint): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

function padded(length: number): number {
  return Math.ceil(length / ALIGNMENT) * ALIGNMENT;
}

function text(value: string): Uint8Array {
  const bytes = Buffer.from(value);
  return Buffer.concat([uint64(BigInt(bytes.length)), bytes]);
}

function metadataValue(entry: MetadataEntry): Uint8Array {
  switch (entry.type) {
    case 'uint32':
      return Buffer.concat([uint32(4), uint32(entry.value)]);
    case 'uint64':
      return Buffer.concat([uint32(10), uint64(entry.value)]);
    case 'float32':
      return Buffer.concat([uint32(6), floatBytes(entry.value)]);
    case 'bool':
      return Buffer.concat([uint32(7), Uint8Array.of(entry.value ? 1 : 0)]);
    case 'string':
      return Buffer.concat([uint32(8), text(entry.value)]);
    case 'strings':
      return Buffer.concat([uint32(9), uint32(8), uint64(BigInt(entry.value.length)), ...entry.value.map(text)]);
    case 'int32s':
      return Buffer.concat([
        uint32(9),
        uint32(5),
        uint64(BigInt(entry.value.length)),
        new Uint8Array(Int32Array.from(entry.value).buffer),
      ]);
    case 'raw':
      return entry.value;
  }
}
