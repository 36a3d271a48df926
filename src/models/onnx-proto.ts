/**
 * ONNX model files as plain objects and back. Knows the wire format (field numbers of the public ONNX schema, only the messages
 * that a graph of ours needs) and nothing of any model.
 */
import protobuf from 'protobufjs/light.js';

export interface ExternalEntry {
  readonly key: string;
  readonly value: string;
}

export interface TensorProto {
  readonly name: string;
  readonly dims: readonly number[];
  /** A value of `TENSOR_TYPE`. */
  readonly dataType: number;
  /** Little-endian, row-major. */
  readonly rawData?: Uint8Array;
  readonly externalData?: readonly ExternalEntry[];
  /** 1 when the bytes lie in `externalData`. */
  readonly dataLocation?: number;
}

export interface AttributeProto {
  readonly name: string;
  /** A value of `ATTRIBUTE_TYPE`. */
  readonly type: number;
  readonly f?: number;
  readonly i?: number;
  readonly s?: Uint8Array;
  readonly ints?: readonly number[];
  readonly floats?: readonly number[];
}

export interface NodeProto {
  readonly name: string;
  readonly opType: string;
  readonly domain: string;
  readonly input: readonly string[];
  readonly output: readonly string[];
  readonly attribute: readonly AttributeProto[];
}

export interface DimensionProto {
  readonly dimValue?: number;
  readonly dimParam?: string;
}

export interface ValueInfoProto {
  readonly name: string;
  readonly type: {
    readonly tensorType: { readonly elemType: number; readonly shape: { readonly dim: readonly DimensionProto[] } };
  };
}

export interface GraphProto {
  readonly name: string;
  readonly node: readonly NodeProto[];
  readonly initializer: readonly TensorProto[];
  readonly input: readonly ValueInfoProto[];
  readonly output: readonly ValueInfoProto[];
  /** Shapes of values in between. */
  readonly valueInfo: readonly ValueInfoProto[];
}

export interface ModelProto {
  readonly irVersion: number;
  readonly producerName: string;
  readonly producerVersion: string;
  readonly opsetImport: readonly { readonly domain: string; readonly version: number }[];
  readonly graph: GraphProto;
}

export const TENSOR_TYPE = { float32: 1, float16: 10, uint8: 2, int8: 3, int32: 6, int64: 7 } as const;
export type TensorType = keyof typeof TENSOR_TYPE;

export const ATTRIBUTE_TYPE = { float: 1, int: 2, string: 3, floats: 6, ints: 7 } as const;

const optional = (type: string, id: number): protobuf.IField => ({ type, id });
const repeated = (type: string, id: number): protobuf.IField => ({ rule: 'repeated', type, id });
const message = (fields: { [name: string]: protobuf.IField }): protobuf.IType => ({ fields });

const root = protobuf.Root.fromJSON({
  nested: {
    StringStringEntryProto: message({ key: optional('string', 1), value: optional('string', 2) }),
    OperatorSetIdProto: message({ domain: optional('string', 1), version: optional('int64', 2) }),
    TensorProto: message({
      dims: repeated('int64', 1),
      dataType: optional('int32', 2),
      name: optional('string', 8),
      rawData: optional('bytes', 9),
      externalData: repeated('StringStringEntryProto', 13),
      dataLocation: optional('int32', 14),
    }),
    AttributeProto: message({
      name: optional('string', 1),
      f: optional('float', 2),
      i: optional('int64', 3),
      s: optional('bytes', 4),
      floats: repeated('float', 7),
      ints: repeated('int64', 8),
      type: optional('int32', 20),
    }),
    NodeProto: message({
      input: repeated('string', 1),
      output: repeated('string', 2),
      name: optional('string', 3),
      opType: optional('string', 4),
      attribute: repeated('AttributeProto', 5),
      domain: optional('string', 7),
    }),
    Dimension: message({ dimValue: optional('int64', 1), dimParam: optional('string', 2) }),
    TensorShapeProto: message({ dim: repeated('Dimension', 1) }),
    TensorTypeProto: message({ elemType: optional('int32', 1), shape: optional('TensorShapeProto', 2) }),
    TypeProto: message({ tensorType: optional('TensorTypeProto', 1) }),
    ValueInfoProto: message({ name: optional('string', 1), type: optional('TypeProto', 2) }),
    GraphProto: message({
      node: repeated('NodeProto', 1),
      name: optional('string', 2),
      initializer: repeated('TensorProto', 5),
      input: repeated('ValueInfoProto', 11),
      output: repeated('ValueInfoProto', 12),
      valueInfo: repeated('ValueInfoProto', 13),
    }),
    ModelProto: message({
      irVersion: optional('int64', 1),
      producerName: optional('string', 2),
      producerVersion: optional('string', 3),
      graph: optional('GraphProto', 7),
      opsetImport: repeated('OperatorSetIdProto', 8),
    }),
  },
});

const modelType = root.lookupType('ModelProto');

/** Serialized ModelProto, as `CreateSessionFromArray` and every ONNX tool read it. */
export function encodeModel(model: ModelProto): Uint8Array {
  return modelType.encode(model as unknown as { [field: string]: unknown }).finish();
}
