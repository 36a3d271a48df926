/**
 * The header of a GGUF file (versions 2 and 3, little-endian): metadata and tensor infos. Counts and lengths are compared with
 * the bytes that are left before anything is allocated, so the result is never more than a small multiple of the file.
 */
import { CheckpointFile, checkNoOverlap, checkpointInvalid, type TensorRange } from './checkpoint-file.ts';
import { GgufCursor, type GgufValue } from './gguf-cursor.ts';
import { GGML_TYPES } from './gguf-types.ts';

const MAGIC = 0x46554747; // "GGUF", little-endian
const DEFAULT_ALIGNMENT = 32;
const MAX_ALIGNMENT = 1 << 16;
const MAX_DIMENSIONS = 4;
const MAX_KEY_BYTES = 65535;
const MAX_TENSOR_NAME_BYTES = 1024;
/** Least bytes of a metadata entry (key length, type, one byte of value) and of a tensor info (name length, rank, type, offset). */
const MIN_METADATA_BYTES = 13;
const MIN_TENSOR_INFO_BYTES = 24;

/** Its name is that of the file, e.g. `blk.0.attn_q.weight`. */
export interface GgufTensor extends TensorRange {
  /** `F32`, `Q4_K`, … */
  readonly type: string;
  /** Row-major, outermost first: the reverse of the order in the file. */
  readonly shape: readonly number[];
  readonly numElements: number;
}

export interface Gguf {
  readonly path: string;
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/** Reads the header of a GGUF file and closes it. Throws StvError `checkpoint_invalid` that names the file and the tensor. */
export function readGguf(path: string): Gguf {
  const file = new CheckpointFile(path);
  try {
    return readGgufHeader(file);
  } finally {
    file.close();
  }
}

/** As `readGguf`, on a file that stays open for its tensors. */
export function readGgufHeader(file: CheckpointFile): Gguf {
  const cursor = new GgufCursor(file);
  if (cursor.uint32() !== MAGIC) throw checkpointInvalid(file.path, 'it is not a GGUF file (wrong magic number).');
  const version = cursor.uint32();
  if (version !== 2 && version !== 3) {
    const detail = version > 0xffff ? 'it is a big-endian GGUF file' : `it has GGUF version ${version}`;
    throw checkpointInvalid(file.path, `${detail}; versions 2 and 3, little-endian, can be read.`);
  }
  const numTensors = cursor.count('tensors', MIN_TENSOR_INFO_BYTES);
  const numMetadata = cursor.count('metadata entries', MIN_METADATA_BYTES);
  const metadata = readMetadata(cursor, numMetadata);
  const infos = readTensorInfos(cursor, numTensors);
  const alignment = checkAlignment(file.path, metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT);
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  return { path: file.path, version, metadata, tensors: placeTensors(file, infos, { dataStart, alignment }) };
}

function readMetadata(cursor: GgufCursor, count: number): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = cursor.string(MAX_KEY_BYTES);
    if (metadata.has(key)) throw checkpointInvalid(cursor.path, `metadata key "${key}" occurs twice.`);
    metadata.set(key, cursor.value(key));
  }
  return metadata;
}

interface TensorInfoEntry {
  readonly type: number;
  readonly shape: readonly number[];
  readonly relativeOffset: number;
}

function readTensorInfos(cursor: GgufCursor, count: number): Map<string, TensorInfoEntry> {
  const infos = new Map<string, TensorInfoEntry>();
  for (let i = 0; i < count; i++) {
    const name = cursor.string(MAX_TENSOR_NAME_BYTES);
    if (infos.has(name)) throw checkpointInvalid(cursor.path, `tensor "${name}" occurs twice.`);
    const rank = cursor.uint32();
    if (rank > MAX_DIMENSIONS) {
      throw checkpointInvalid(cursor.path, `tensor "${name}" has ${rank} dimensions; the limit is ${MAX_DIMENSIONS}.`);
    }
    const shape: number[] = [];
    for (let axis = 0; axis < rank; axis++) shape.unshift(cursor.uint64(`a dimension of tensor "${name}"`));
    const type = cursor.uint32();
    infos.set(name, { type, shape, relativeOffset: cursor.uint64(`the offset of tensor "${name}"`) });
  }
  return infos;
}

function checkAlignment(path: string, value: GgufValue): number {
  if (typeof value !== 'number' || value < 1 || value > MAX_ALIGNMENT || !Number.isInteger(Math.log2(value))) {
    throw checkpointInvalid(path, `"general.alignment" must be a power of two up to ${MAX_ALIGNMENT}.`);
  }
  return value;
}

function placeTensors(
  file: CheckpointFile,
  infos: ReadonlyMap<string, TensorInfoEntry>,
  { dataStart, alignment }: { readonly dataStart: number; readonly alignment: number },
): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (const [name, { type, shape, relativeOffset }] of infos) {
    const fail = (detail: string): never => {
      throw checkpointInvalid(file.path, `tensor "${name}" ${detail}`);
    };
    const format = GGML_TYPES.get(type) ?? fail(`has the unknown type number ${type}.`);
    const numElements = shape.reduce((product, size) => product * size, 1);
    if ((shape.at(-1) ?? 1) % format.blockElements !== 0) {
      fail(`of type ${format.name} has rows of ${shape.at(-1)}, not a multiple of ${format.blockElements}.`);
    }
    const numBytes = (numElements / format.blockElements) * format.blockBytes;
    const offset = dataStart + relativeOffset;
    if (relativeOffset % alignment !== 0) fail(`lies at offset ${relativeOffset}, not a multiple of ${alignment}.`);
    if (!(offset + numBytes <= file.size)) {
      fail(
        `needs bytes ${offset} to ${offset + numBytes}, but the file has ${file.size} bytes; it is cut off or damaged.`,
      );
    }
    tensors.set(name, { name, type: format.name, shape, numElements, offset, numBytes });
  }
  checkNoOverlap(file.path, tensors.values());
  return tensors;
}
