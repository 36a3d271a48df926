/**
 * Nodes, names and initializers of one ONNX graph. Knows operators only by name and no model; values are their names, so a
 * layer is a function from names to names.
 */
import {
  ATTRIBUTE_TYPE,
  type AttributeProto,
  type DimensionProto,
  encodeModel,
  type NodeProto,
  TENSOR_TYPE,
  type TensorProto,
  type TensorType,
  type ValueInfoProto,
} from './onnx-proto.ts';

/** A number is a fixed size, a string names a size that is known at run time only. */
export type Dimensions = readonly (number | string)[];

/** A number with a fraction must be given as `{ float }`: ONNX tells `1` and `1.0` apart. */
export type AttributeValue = number | string | readonly number[] | { readonly float: number };

export interface NodeOptions {
  readonly name: string;
  /** `''` (the ONNX operators) unless given; `com.microsoft` are the runtime's own. */
  readonly domain?: string;
  readonly attributes?: { readonly [name: string]: AttributeValue };
  /** Names of the results; `''` leaves one out. Default: one result with the node's name. */
  readonly outputs?: readonly string[];
}

/** Where an initializer's bytes lie: in a file beside the graph. */
export interface ExternalLocation {
  readonly file: string;
  readonly offset: number;
  readonly byteLength: number;
}

export interface Initializer {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly number[];
}

const OPSETS = [
  { domain: '', version: 21 },
  { domain: 'com.microsoft', version: 1 },
] as const;
/** The file format's version that goes with opset 21. */
const IR_VERSION = 10;

export class GraphBuilder {
  readonly #name: string;
  readonly #nodes: NodeProto[] = [];
  readonly #inputs: ValueInfoProto[] = [];
  readonly #outputs: ValueInfoProto[] = [];
  readonly #values: ValueInfoProto[] = [];
  readonly #embedded: TensorProto[] = [];
  readonly #external: Initializer[] = [];
  readonly #defined = new Set<string>();

  constructor(name: string) {
    this.#name = name;
  }

  input(name: string, type: TensorType, dims: Dimensions): string {
    this.#define(name);
    this.#inputs.push(valueInfo(name, type, dims));
    return name;
  }

  /** Declares a value that a node produces as a result of the graph. */
  output(name: string, type: TensorType, dims: Dimensions): void {
    this.#outputs.push(valueInfo(name, type, dims));
  }

  /**
   * Says the shape of a value where the operator's own rule cannot know it. Memory is planned by symbolic shapes: unknown ones
   * are never reused, and the planner's search through them grows with the square of the graph.
   */
  value(name: string, type: TensorType, dims: Dimensions): void {
    this.#values.push(valueInfo(name, type, dims));
  }

  /** A small constant inside the graph. */
  constant(name: string, type: TensorType, dims: readonly number[], bytes: Uint8Array): string {
    this.#define(name);
    this.#embedded.push({ name, dims, dataType: TENSOR_TYPE[type], rawData: bytes });
    return name;
  }

  int64Constant(name: string, values: readonly number[]): string {
    const data = BigInt64Array.from(values, BigInt);
    return this.constant(name, 'int64', [values.length], new Uint8Array(data.buffer));
  }

  /** A weight that lies in a file; where exactly is asked when the graph is finished. */
  external(name: string, type: TensorType, dims: readonly number[]): string {
    this.#define(name);
    this.#external.push({ name, type, dims });
    return name;
  }

  /** The result's name; of several, the first. */
  node(opType: string, inputs: readonly string[], options: NodeOptions): string {
    const outputs = options.outputs ?? [options.name];
    for (const output of outputs) if (output !== '') this.#define(output);
    this.#nodes.push({
      name: options.name,
      opType,
      domain: options.domain ?? '',
      input: inputs,
      output: outputs,
      attribute: Object.entries(options.attributes ?? {}).map(([name, value]) => attribute(name, value)),
    });
    return outputs[0] ?? '';
  }

  /** Weights asked for with `external`, in the order in which the graph uses them. */
  get initializers(): readonly Initializer[] {
    return this.#external;
  }

  /** The serialized model. */
  finish(locate: (name: string) => ExternalLocation, producerVersion: string): Uint8Array {
    const external = this.#external.map((initializer): TensorProto => {
      const { file, offset, byteLength } = locate(initializer.name);
      return {
        name: initializer.name,
        dims: initializer.dims,
        dataType: TENSOR_TYPE[initializer.type],
        dataLocation: 1,
        externalData: [
          { key: 'location', value: file },
          { key: 'offset', value: String(offset) },
          { key: 'length', value: String(byteLength) },
        ],
      };
    });
    return encodeModel({
      irVersion: IR_VERSION,
      producerName: 'stv-server',
      producerVersion,
      opsetImport: OPSETS,
      graph: {
        name: this.#name,
        node: this.#nodes,
        initializer: [...this.#embedded, ...external],
        input: this.#inputs,
        output: this.#outputs,
        valueInfo: this.#values,
      },
    });
  }

  #define(name: string): void {
    if (this.#defined.has(name)) throw new Error(`The graph ${this.#name} defines ${name} twice.`);
    this.#defined.add(name);
  }
}

function valueInfo(name: string, type: TensorType, dims: Dimensions): ValueInfoProto {
  const dim = dims.map((size): DimensionProto => (typeof size === 'number' ? { dimValue: size } : { dimParam: size }));
  return { name, type: { tensorType: { elemType: TENSOR_TYPE[type], shape: { dim } } } };
}

function attribute(name: string, value: AttributeValue): AttributeProto {
  if (typeof value === 'number') return { name, type: ATTRIBUTE_TYPE.int, i: value };
  if (typeof value === 'string') return { name, type: ATTRIBUTE_TYPE.string, s: new TextEncoder().encode(value) };
  if ('float' in value) return { name, type: ATTRIBUTE_TYPE.float, f: value.float };
  return { name, type: ATTRIBUTE_TYPE.ints, ints: value };
}
