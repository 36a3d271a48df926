/** A GGUF file as a `Checkpoint`: Hugging Face's names and row order over GGUF's own. */

import type { BlockQuantized, Checkpoint, TensorInfo } from './checkpoint.ts';
import { CheckpointFile, checkpointInvalid } from './checkpoint-file.ts';
import { type Gguf, type GgufTensor, readGgufHeader } from './gguf.ts';
import { DEQUANTIZABLE_TYPES, dequantize } from './gguf-dequantize.ts';
import { huggingFaceName, undoHeadInterleaving } from './gguf-names.ts';
import { HALF_VALUES } from './half-float.ts';
import type { ModelConfig } from './model-config.ts';
import { modelConfigFromGguf } from './model-config-gguf.ts';

/** Throws StvError `checkpoint_invalid` or `architecture_unsupported` that names the file. */
export function openGgufCheckpoint(path: string): Checkpoint {
  const file = new CheckpointFile(path);
  try {
    const gguf = readGgufHeader(file);
    const tensors = new Map<string, StoredTensor>();
    for (const tensor of gguf.tensors.values()) {
      const name = huggingFaceName(tensor.name) ?? tensor.name;
      if (tensors.has(name)) throw checkpointInvalid(path, `two of its tensors stand for "${name}".`);
      tensors.set(name, { name, dtype: tensor.type, shape: tensor.shape, tensor });
    }
    const config = modelConfigFromGguf(gguf, { ropeFactors: readRopeFactors(file, gguf) });
    return new GgufCheckpoint(file, { config, tensors });
  } catch (error) {
    file.close();
    throw error;
  }
}

interface StoredTensor extends TensorInfo {
  readonly tensor: GgufTensor;
}

class GgufCheckpoint implements Checkpoint {
  readonly path: string;
  readonly format = 'gguf';
  readonly config: ModelConfig;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly #file: CheckpointFile;

  constructor(
    file: CheckpointFile,
    parts: { readonly config: ModelConfig; readonly tensors: ReadonlyMap<string, StoredTensor> },
  ) {
    this.path = file.path;
    this.#file = file;
    this.config = parts.config;
    this.tensors = parts.tensors;
  }

  readFloat32(name: string): Float32Array {
    const { tensor } = this.#stored(name);
    return toFloat32(this.#file, tensor, this.#bytes(name, tensor));
  }

  readBlocks(name: string): BlockQuantized | undefined {
    const { tensor } = this.#stored(name);
    if (tensor.shape.length !== 2) return undefined;
    if (tensor.type === 'Q8_0') return blocksFromQ8_0(this.#bytes(name, tensor));
    if (tensor.type === 'Q4_0') return blocksFromQ4_0(this.#bytes(name, tensor));
    return undefined;
  }

  close(): void {
    this.#file.close();
  }

  #stored(name: string): StoredTensor {
    const stored = this.tensors.get(name);
    if (stored === undefined) throw checkpointInvalid(this.path, `tensor "${name}" is missing.`);
    return stored;
  }

  /** The stored bytes with their rows in Hugging Face's order. */
  #bytes(name: string, tensor: GgufTensor): Uint8Array<ArrayBuffer> {
    const bytes = this.#file.read(tensor.offset, tensor.numBytes, `tensor "${name}"`);
    const { modelType, headDim } = this.config;
    if (modelType !== 'llama' || !/self_attn\.[qk]_proj\.(weight|bias)$/.test(name)) return bytes;
    const numRows = tensor.shape[0] ?? 0;
    if (numRows === 0 || numRows % headDim !== 0) {
      throw checkpointInvalid(
        this.path,
        `tensor "${name}" has ${numRows} rows, not a multiple of head size ${headDim}.`,
      );
    }
    return undoHeadInterleaving(bytes, { headDim, rowBytes: bytes.length / numRows });
  }
}

function toFloat32(file: CheckpointFile, tensor: GgufTensor, bytes: Uint8Array): Float32Array {
  if (!DEQUANTIZABLE_TYPES.includes(tensor.type)) {
    throw checkpointInvalid(
      file.path,
      `tensor "${tensor.name}" has type ${tensor.type}; the types that can be read are ${DEQUANTIZABLE_TYPES.join(', ')}.`,
    );
  }
  const output = new Float32Array(tensor.numElements);
  dequantize(tensor.type, bytes, output);
  return output;
}

/** Divisors of the rotary frequencies that converters of Llama 3.x store in place of the scaling's parameters. */
function readRopeFactors(file: CheckpointFile, gguf: Gguf): Float32Array | undefined {
  const tensor = gguf.tensors.get('rope_freqs.weight');
  if (tensor === undefined) return undefined;
  if (tensor.numElements > 4096) throw checkpointInvalid(file.path, 'tensor "rope_freqs.weight" is too large.');
  return toFloat32(file, tensor, file.read(tensor.offset, tensor.numBytes, 'tensor "rope_freqs.weight"'));
}

// the loops below run over whole blocks of a size that the header check has made sure of: every index is inside

function blocksFromQ8_0(bytes: Uint8Array): BlockQuantized {
  const numBlocks = bytes.length / 34;
  const quants = new Uint8Array(numBlocks * 32);
  const scales = new Float32Array(numBlocks);
  for (let block = 0; block < numBlocks; block++) {
    const at = block * 34;
    scales[block] = HALF_VALUES[(bytes[at] as number) | ((bytes[at + 1] as number) << 8)] as number;
    // signed q and unsigned q + 128 differ in the top bit only
    for (let i = 0; i < 32; i++) quants[block * 32 + i] = (bytes[at + 2 + i] as number) ^ 0x80;
  }
  return { bits: 8, blockSize: 32, quants, scales };
}

function blocksFromQ4_0(bytes: Uint8Array): BlockQuantized {
  const numBlocks = bytes.length / 18;
  const quants = new Uint8Array(numBlocks * 16);
  const scales = new Float32Array(numBlocks);
  for (let block = 0; block < numBlocks; block++) {
    const at = block * 18;
    const to = block * 16;
    scales[block] = HALF_VALUES[(bytes[at] as number) | ((bytes[at + 1] as number) << 8)] as number;
    // stored: byte i holds elements i and i + 16; wanted: byte i holds elements 2i and 2i + 1
    for (let i = 0; i < 8; i++) {
      const first = bytes[at + 2 + 2 * i] as number;
      const second = bytes[at + 3 + 2 * i] as number;
      quants[to + i] = (first & 15) | ((second & 15) << 4);
      quants[to + 8 + i] = (first >> 4) | (second & 0xf0);
    }
  }
  return { bits: 4, blockSize: 32, quants, scales };
}
