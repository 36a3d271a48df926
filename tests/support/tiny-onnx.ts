/**
 * Writes small ONNX models by hand, so that the tests of the runtime depend on nothing of ours but the runtime.
 * Field numbers are those of onnx.proto.
 */

/** `TensorProto.DataType` */
export const FLOAT = 1;
export const UINT8 = 2;
export const INT32 = 6;
export const INT64 = 7;
export const FLOAT16 = 10;

type Field = readonly [field: number, value: number | bigint | string | Uint8Array | { readonly float: number }];

function varint(value: number | bigint): number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  while (rest >= 0x80n) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return bytes;
}

function message(fields: readonly Field[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [field, value] of fields) {
    if (typeof value === 'number' || typeof value === 'bigint') {
      parts.push(Uint8Array.from([...varint(field << 3), ...varint(value)]));
    } else if (typeof value === 'object' && 'float' in value) {
      const bytes = new Uint8Array(new Float32Array([value.float]).buffer);
      parts.push(Uint8Array.from([...varint((field << 3) | 5), ...bytes]));
    } else {
      const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : value;
      parts.push(Uint8Array.from([...varint((field << 3) | 2), ...varint(bytes.byteLength)]), bytes);
    }
  }
  return Buffer.concat(parts);
}

/** Any message of the format, for what the specs below do not say. */
export const protobufMessage = message;

export type Dims = readonly (number | string)[];

export interface ValueSpec {
  readonly name: string;
  readonly type: number;
  readonly dims: Dims;
}

export interface NodeSpec {
  readonly op: string;
  /** Empty string = not given. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly domain?: string;
  /** Integers; `{ float }` for floats. */
  readonly attributes?: Readonly<Record<string, number | { readonly float: number }>>;
}

export interface InitializerSpec {
  readonly name: string;
  readonly type: number;
  readonly dims: readonly number[];
  /** Raw data, or the external file that would hold it. */
  readonly data: ArrayBufferView | { readonly location: string; readonly length: number };
}

export interface ModelSpec {
  readonly inputs: readonly ValueSpec[];
  readonly outputs: readonly ValueSpec[];
  readonly nodes: readonly NodeSpec[];
  readonly initializers?: readonly InitializerSpec[];
}

function valueInfo({ name, type, dims }: ValueSpec): Uint8Array {
  const shape = message(dims.map((dim): Field => [1, message([typeof dim === 'number' ? [1, dim] : [2, dim]])]));
  const tensorType = message([
    [1, type],
    [2, shape],
  ]);
  return message([
    [1, name],
    [2, message([[1, tensorType]])],
  ]);
}

function node({ op, inputs, outputs, domain, attributes }: NodeSpec): Uint8Array {
  const encoded = Object.entries(attributes ?? {}).map(
    ([name, value]) =>
      typeof value === 'number'
        ? message([
            [1, name],
            [3, value],
            [20, 2],
          ]) // INT
        : message([
            [1, name],
            [2, value],
            [20, 1],
          ]), // FLOAT
  );
  return message([
    ...inputs.map((name): Field => [1, name]),
    ...outputs.map((name): Field => [2, name]),
    [4, op],
    ...encoded.map((attribute): Field => [5, attribute]),
    [7, domain ?? ''],
  ]);
}

function initializer({ name, type, dims, data }: InitializerSpec): Uint8Array {
  const entry = (key: string, value: string): Field => [
    13,
    message([
      [1, key],
      [2, value],
    ]),
  ];
  const content: Field[] = ArrayBuffer.isView(data)
    ? [[9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]]
    : [entry('location', data.location), entry('offset', '0'), entry('length', String(data.length)), [14, 1]];
  return message([...dims.map((dim): Field => [1, dim]), [2, type], [8, name], ...content]);
}

/** The bytes of a model with opsets 21 (standard) and 1 (`com.microsoft`). */
export function tinyModel(spec: ModelSpec): Uint8Array {
  const graph = message([
    ...spec.nodes.map((item): Field => [1, node(item)]),
    [2, 'tiny'],
    ...(spec.initializers ?? []).map((item): Field => [5, initializer(item)]),
    ...spec.inputs.map((item): Field => [11, valueInfo(item)]),
    ...spec.outputs.map((item): Field => [12, valueInfo(item)]),
  ]);
  return message([
    [1, 10], // IR version
    [7, graph],
    [
      8,
      message([
        [1, ''],
        [2, 21],
      ]),
    ],
    [
      8,
      message([
        [1, 'com.microsoft'],
        [2, 1],
      ]),
    ],
  ]);
}
