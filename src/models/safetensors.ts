/**
 * One safetensors file: eight bytes of header length, a JSON header that names each tensor's dtype, shape and byte range,
 * then the data. The header is checked whole when the file is opened; the data are read when a tensor is asked for.
 */
import { CheckpointFile, checkNoOverlap, checkpointInvalid, type TensorRange } from './checkpoint-file.ts';
import { widenBfloat16, widenHalf } from './half-float.ts';

/** A header of this size names more than 200,000 tensors; parsing costs some tens of times its bytes. */
const MAX_HEADER_BYTES = 32 << 20;
const MAX_DIMENSIONS = 8;

const BITS_PER_ELEMENT: ReadonlyMap<string, number> = new Map([
  ['F64', 64],
  ['F32', 32],
  ['F16', 16],
  ['BF16', 16],
  ['F8_E4M3', 8],
  ['F8_E5M2', 8],
  ['F8_E8M0', 8],
  ['F4', 4],
  ['I64', 64],
  ['I32', 32],
  ['I16', 16],
  ['I8', 8],
  ['U64', 64],
  ['U32', 32],
  ['U16', 16],
  ['U8', 8],
  ['BOOL', 8],
]);

export interface SafetensorsTensor extends TensorRange {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly numElements: number;
}

export interface Safetensors {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
  /** F32, F16 and BF16, widened; other dtypes are refused with StvError `checkpoint_invalid`. */
  readFloat32(tensor: SafetensorsTensor): Float32Array;
  close(): void;
}

/** Opens the file and checks its header. Throws StvError `checkpoint_invalid` that names the file and the tensor. */
export function openSafetensors(path: string): Safetensors {
  const file = new CheckpointFile(path);
  try {
    const tensors = readHeader(file);
    return {
      path,
      tensors,
      readFloat32: (tensor) => readFloat32(file, tensor),
      close: () => file.close(),
    };
  } catch (error) {
    file.close();
    throw error;
  }
}

function readHeader(file: CheckpointFile): Map<string, SafetensorsTensor> {
  const lengthBytes = file.read(0, 8, 'the header length');
  const headerBytes = Number(new DataView(lengthBytes.buffer).getBigUint64(0, true));
  if (headerBytes > MAX_HEADER_BYTES) {
    throw checkpointInvalid(
      file.path,
      `its safetensors header claims ${headerBytes} bytes; the limit is ${MAX_HEADER_BYTES}.`,
    );
  }
  const header = parseHeader(file.path, file.read(8, headerBytes, 'the safetensors header'));
  const dataStart = 8 + headerBytes;
  const tensors = new Map<string, SafetensorsTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    tensors.set(name, checkEntry(file, dataStart, { name, entry }));
  }
  checkNoOverlap(file.path, tensors.values());
  return tensors;
}

function parseHeader(path: string, bytes: Uint8Array): object {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw checkpointInvalid(path, 'its safetensors header is not valid JSON.', error);
  }
  if (typeof header !== 'object' || header === null || Array.isArray(header)) {
    throw checkpointInvalid(path, 'its safetensors header is not a JSON object.');
  }
  return header;
}

function checkEntry(
  file: CheckpointFile,
  dataStart: number,
  { name, entry }: { readonly name: string; readonly entry: unknown },
): SafetensorsTensor {
  const fail = (detail: string): never => {
    throw checkpointInvalid(file.path, `tensor "${name}" ${detail}`);
  };
  const { dtype, shape, data_offsets: range } = (entry ?? {}) as Record<string, unknown>;
  const bits = typeof dtype === 'string' ? BITS_PER_ELEMENT.get(dtype) : undefined;
  if (typeof dtype !== 'string' || bits === undefined) {
    return fail(`has the unknown dtype ${JSON.stringify(dtype)?.slice(0, 40)}.`);
  }
  if (!isSizes(shape) || shape.length > MAX_DIMENSIONS) {
    return fail(`has no valid shape of at most ${MAX_DIMENSIONS} dimensions.`);
  }
  if (!isSizes(range) || range.length !== 2) return fail('has no valid data_offsets.');
  const [begin, end] = range as [number, number];
  const numElements = shape.reduce((product, size) => product * size, 1);
  const numBytes = end - begin;
  if (numBytes < 0 || dataStart + end > file.size) {
    return fail(
      `lies at bytes ${dataStart + begin} to ${dataStart + end}, outside the file of ${file.size} bytes; it is cut off or damaged.`,
    );
  }
  if (numElements * bits !== numBytes * 8) {
    return fail(`of shape [${shape}] and dtype ${dtype} does not agree with its ${numBytes} bytes.`);
  }
  return { name, dtype, shape, numElements, offset: dataStart + begin, numBytes };
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function readFloat32(file: CheckpointFile, tensor: SafetensorsTensor): Float32Array {
  const what = `tensor "${tensor.name}"`;
  if (tensor.dtype === 'F32') {
    const output = new Float32Array(tensor.numElements);
    file.readInto(new Uint8Array(output.buffer), tensor.offset, what);
    return output;
  }
  if (tensor.dtype !== 'F16' && tensor.dtype !== 'BF16') {
    throw checkpointInvalid(file.path, `${what} has dtype ${tensor.dtype}; F32, F16 and BF16 can be read.`);
  }
  const halves = new Uint16Array(file.read(tensor.offset, tensor.numBytes, what).buffer);
  const output = new Float32Array(tensor.numElements);
  if (tensor.dtype === 'F16') widenHalf(halves, output);
  else widenBfloat16(halves, output);
  return output;
}
