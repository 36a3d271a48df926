/** The element types a tensor may have here: their number in ONNX, their size, and the typed array that shows them. */

/** float16 and bfloat16 are shown as their 16-bit patterns, bool as one byte each. */
interface ArrayOf {
  float32: Float32Array;
  float16: Uint16Array;
  bfloat16: Uint16Array;
  float64: Float64Array;
  int8: Int8Array;
  uint8: Uint8Array;
  int16: Int16Array;
  uint16: Uint16Array;
  int32: Int32Array;
  uint32: Uint32Array;
  int64: BigInt64Array;
  uint64: BigUint64Array;
  bool: Uint8Array;
}

export type ElementType = keyof ArrayOf;
export type TensorArray<Type extends ElementType = ElementType> = ArrayOf[Type];

interface ElementTypeFacts<Type extends ElementType> {
  /** `ONNXTensorElementDataType`. */
  readonly onnx: number;
  readonly bytes: number;
  readonly array: new (buffer: ArrayBufferLike, byteOffset: number, length: number) => TensorArray<Type>;
}

const ELEMENT_TYPES: { readonly [Type in ElementType]: ElementTypeFacts<Type> } = {
  float32: { onnx: 1, bytes: 4, array: Float32Array },
  uint8: { onnx: 2, bytes: 1, array: Uint8Array },
  int8: { onnx: 3, bytes: 1, array: Int8Array },
  uint16: { onnx: 4, bytes: 2, array: Uint16Array },
  int16: { onnx: 5, bytes: 2, array: Int16Array },
  int32: { onnx: 6, bytes: 4, array: Int32Array },
  int64: { onnx: 7, bytes: 8, array: BigInt64Array },
  bool: { onnx: 9, bytes: 1, array: Uint8Array },
  float16: { onnx: 10, bytes: 2, array: Uint16Array },
  float64: { onnx: 11, bytes: 8, array: Float64Array },
  uint32: { onnx: 12, bytes: 4, array: Uint32Array },
  uint64: { onnx: 13, bytes: 8, array: BigUint64Array },
  bfloat16: { onnx: 16, bytes: 2, array: Uint16Array },
};

const nameByOnnx: ReadonlyMap<number, ElementType> = new Map(
  Object.entries(ELEMENT_TYPES).map(([name, facts]) => [facts.onnx, name as ElementType]),
);

export function elementTypeFacts<Type extends ElementType>(type: Type): ElementTypeFacts<Type> {
  return ELEMENT_TYPES[type];
}

/** `undefined` for what cannot be a tensor of ours: strings, complex numbers, 4-bit and 8-bit floats. */
export function elementTypeOfOnnx(onnx: number): ElementType | undefined {
  return nameByOnnx.get(onnx);
}
