/** The small models that the runtime's tests run, here and in child processes. */

import { FLOAT, INT32, tinyModel, UINT8 } from './tiny-onnx.ts';

/** c [n, 2] = a [n, 3] x b [3, 2] */
export function matMulModel(): Uint8Array {
  return tinyModel({
    inputs: [{ name: 'a', type: FLOAT, dims: ['n', 3] }],
    outputs: [{ name: 'c', type: FLOAT, dims: ['n', 2] }],
    nodes: [{ op: 'MatMul', inputs: ['a', 'b'], outputs: ['c'] }],
    initializers: [{ name: 'b', type: FLOAT, dims: [3, 2], data: Float32Array.from([1, 2, 3, 4, 5, 6]) }],
  });
}

/** One element-wise operator over two inputs of the same type and symbolic length. */
export function binaryModel(op: string, type: number): Uint8Array {
  return tinyModel({
    inputs: [
      { name: 'x', type, dims: ['n'] },
      { name: 'y', type, dims: ['n'] },
    ],
    outputs: [{ name: 'z', type, dims: ['n'] }],
    nodes: [{ op, inputs: ['x', 'y'], outputs: ['z'] }],
  });
}

/** y [size] = x + w, where w is an initializer of zeros. */
export function sumModel(size: number): Uint8Array {
  return tinyModel({
    inputs: [{ name: 'x', type: FLOAT, dims: [size] }],
    outputs: [{ name: 'y', type: FLOAT, dims: [size] }],
    nodes: [{ op: 'Add', inputs: ['x', 'w'], outputs: ['y'] }],
    initializers: [{ name: 'w', type: FLOAT, dims: [size], data: new Float32Array(size) }],
  });
}

export const ATTENTION = { numHeads: 2, numKeyValueHeads: 1, headDim: 16, maxLength: 12 } as const;

/** GroupQueryAttention over one sequence: query [1, s, 32], key and value [1, s, 16], caches [1, 1, 12, 16]. */
export function attentionModel(): Uint8Array {
  const { numHeads, numKeyValueHeads, headDim, maxLength } = ATTENTION;
  const cache = [1, numKeyValueHeads, maxLength, headDim];
  return tinyModel({
    inputs: [
      { name: 'query', type: FLOAT, dims: [1, 's', numHeads * headDim] },
      { name: 'key', type: FLOAT, dims: [1, 's', numKeyValueHeads * headDim] },
      { name: 'value', type: FLOAT, dims: [1, 's', numKeyValueHeads * headDim] },
      { name: 'past_key', type: FLOAT, dims: cache },
      { name: 'past_value', type: FLOAT, dims: cache },
      { name: 'last_position', type: INT32, dims: [1] },
      { name: 'total_length', type: INT32, dims: [1] },
    ],
    outputs: [
      { name: 'attention', type: FLOAT, dims: [1, 's', numHeads * headDim] },
      { name: 'present_key', type: FLOAT, dims: cache },
      { name: 'present_value', type: FLOAT, dims: cache },
    ],
    nodes: [
      {
        op: 'GroupQueryAttention',
        domain: 'com.microsoft',
        inputs: ['query', 'key', 'value', 'past_key', 'past_value', 'last_position', 'total_length'],
        outputs: ['attention', 'present_key', 'present_value'],
        attributes: { num_heads: numHeads, kv_num_heads: numKeyValueHeads },
      },
    ],
  });
}

/** z [n, size] = `op`(x [n, size] x quantized weights); 8-bit weights in blocks of 32, kept in `weights.bin`. */
export function quantizedModel(op: string, size: number): Uint8Array {
  const blocks = size / 32;
  return tinyModel({
    inputs: [{ name: 'x', type: FLOAT, dims: ['n', size] }],
    outputs: [{ name: 'z', type: FLOAT, dims: ['n', size] }],
    nodes: [
      {
        op: 'MatMulNBits',
        domain: 'com.microsoft',
        inputs: ['x', 'weights', 'scales'],
        outputs: ['y'],
        attributes: { K: size, N: size, bits: 8, block_size: 32, accuracy_level: 4 },
      },
      { op, inputs: ['y'], outputs: ['z'] },
    ],
    initializers: [
      {
        name: 'weights',
        type: UINT8,
        dims: [size, blocks, 32],
        data: { location: 'weights.bin', length: size * size },
      },
      { name: 'scales', type: FLOAT, dims: [size, blocks], data: new Float32Array(size * blocks).fill(0.01) },
    ],
  });
}
