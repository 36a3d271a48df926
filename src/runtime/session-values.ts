/** Reads the names, types and shapes of a session's inputs and outputs. */

import { type ElementType, elementTypeOfOnnx } from './element-type.ts';
import { readString, takeInt32, takePointer, takeSize } from './out-parameter.ts';
import type { RuntimeContext } from './runtime-context.ts';

/** An input or output of the model. */
export interface SessionValue {
  readonly name: string;
  /** Absent for what is not a tensor of a type we know. */
  readonly type: ElementType | undefined;
  /** Numbers are fixed, strings are symbolic (empty without a name); absent when the model gives no shape. */
  readonly dims: readonly (number | string)[] | undefined;
}

/** `ONNX_TYPE_TENSOR`. */
const TENSOR = 1;

function readTensorType(context: RuntimeContext, typeInfo: bigint): Omit<SessionValue, 'name'> {
  const { functions } = context;
  if (takeInt32((out) => functions.GetOnnxTypeFromTypeInfo(typeInfo, out)) !== TENSOR) {
    return { type: undefined, dims: undefined };
  }
  const info = takePointer((out) => functions.CastTypeInfoToTensorInfo(typeInfo, out));
  const type = elementTypeOfOnnx(takeInt32((out) => functions.GetTensorElementType(info, out)));
  if (!functions.TensorTypeAndShape_HasShape(info)) return { type, dims: undefined };
  const rank = takeSize((out) => functions.GetDimensionsCount(info, out));
  if (rank === 0) return { type, dims: [] };
  const sizes = new BigInt64Array(rank);
  functions.GetDimensions(info, sizes, rank);
  const names = new BigUint64Array(rank);
  functions.GetSymbolicDimensions(info, names, rank);
  return {
    type,
    dims: Array.from(sizes, (size, index) => (size < 0n ? readString(names[index] ?? 0n) : Number(size))),
  };
}

/** In the order of the model. */
export function readSessionValues(
  context: RuntimeContext,
  session: bigint,
  side: 'input' | 'output',
): readonly SessionValue[] {
  const { functions, allocator } = context;
  const count = takeSize((out) =>
    side === 'input' ? functions.SessionGetInputCount(session, out) : functions.SessionGetOutputCount(session, out),
  );
  const getName = side === 'input' ? functions.SessionGetInputName : functions.SessionGetOutputName;
  const getTypeInfo = side === 'input' ? functions.SessionGetInputTypeInfo : functions.SessionGetOutputTypeInfo;
  return Array.from({ length: count }, (_, index) => {
    const namePointer = takePointer((out) => getName(session, index, allocator, out));
    const name = readString(namePointer);
    functions.AllocatorFree(allocator, namePointer);
    const typeInfo = takePointer((out) => getTypeInfo(session, index, out));
    try {
      return { name, ...readTensorType(context, typeInfo) };
    } finally {
      functions.ReleaseTypeInfo(typeInfo);
    }
  });
}
