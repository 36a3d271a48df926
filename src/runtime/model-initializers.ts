/**
 * Reads from an ONNX file what its initializers are declared to be. ONNX Runtime takes the values it is given in their place
 * without looking at type or shape, and a kernel then reads past the end of a smaller one: so we look.
 */

import { readFileSync } from 'node:fs';
import protobuf from 'protobufjs/minimal.js';
import { StvError } from '../errors.ts';
import { type ElementType, elementTypeOfOnnx } from './element-type.ts';
import type { Tensor, TensorLocation } from './tensor.ts';

const { Reader } = protobuf;

/** What reading fields needs of a reader, of memory or of a file. */
export interface FieldReader {
  readonly len: number;
  pos: number;
  uint32(): number;
  int32(): number;
  string(): string;
  skipType(wireType: number): unknown;
}

interface Declaration {
  /** Absent for a type we have no tensors of. */
  readonly type: ElementType | undefined;
  readonly dims: readonly number[];
}

/** Calls `visit` for each field of a message; it reads the field and returns true, or returns false to skip it. */
export function readFields(
  reader: FieldReader,
  end: number,
  visit: (field: number, wireType: number) => boolean,
): void {
  while (reader.pos < end) {
    const tag = reader.uint32();
    if (!visit(tag >>> 3, tag & 7)) reader.skipType(tag & 7);
  }
}

/** Where the message that begins here ends. */
export function endOfMessage(reader: FieldReader): number {
  const length = reader.uint32();
  return reader.pos + length;
}

// TensorProto: 1 dims (packed or not), 2 data_type, 8 name
function readTensor(reader: InstanceType<typeof Reader>, declarations: Map<string, Declaration>): void {
  const dims: number[] = [];
  let type = 0;
  let name = '';
  readFields(reader, endOfMessage(reader), (field, wireType) => {
    if (field === 1 && wireType === 2) {
      for (const end = endOfMessage(reader); reader.pos < end; ) dims.push(Number(reader.int64()));
    } else if (field === 1) dims.push(Number(reader.int64()));
    else if (field === 2) type = reader.int32();
    else if (field === 8) name = reader.string();
    else return false;
    return true;
  });
  declarations.set(name, { type: elementTypeOfOnnx(type), dims });
}

/** By name. Throws whatever reading a broken file throws. */
function readDeclarations(model: Uint8Array): ReadonlyMap<string, Declaration> {
  const declarations = new Map<string, Declaration>();
  const reader = Reader.create(model);
  // ModelProto: 7 graph. GraphProto: 5 initializer.
  readFields(reader, reader.len, (field) => {
    if (field !== 7) return false;
    readFields(reader, endOfMessage(reader), (graphField) => {
      if (graphField !== 5) return false;
      readTensor(reader, declarations);
      return true;
    });
    return true;
  });
  return declarations;
}

/** Throws StvError `runtime_failed` unless each value can stand for the initializer of its name. */
export function assertInitializersFit(
  model: string | Uint8Array,
  values: Iterable<readonly [string, Tensor]>,
  location: TensorLocation = 'cpu',
): void {
  let declarations: ReadonlyMap<string, Declaration>;
  try {
    declarations = readDeclarations(typeof model === 'string' ? readFileSync(model) : model);
  } catch (error) {
    const file = typeof model === 'string' ? model : 'given as bytes';
    throw new StvError('runtime_failed', `The model ${file} cannot be read as ONNX.`, { cause: error });
  }
  for (const [name, tensor] of values) {
    const declared = declarations.get(name);
    if (declared === undefined) throw new StvError('runtime_failed', `The model has no initializer named ${name}.`);
    const { type, dims } = declared;
    if (
      tensor.type === type &&
      (tensor.location === 'cpu' || tensor.location === location) &&
      dims.join() === tensor.dims.join()
    )
      continue;
    throw new StvError(
      'runtime_failed',
      `The initializer ${name} must be ${type ?? 'of another type'} [${dims.join(', ')}] in the memory of the process, not ${tensor.type} [${tensor.dims.join(', ')}] on ${tensor.location}.`,
    );
  }
}
