/**
 * A checkpoint on disk (safetensors folder or GGUF file) seen as named float tensors with Hugging Face's names and layout.
 * Readers differ (`safetensors.ts`, `gguf.ts`); what they give is this.
 */
import type { ModelConfig } from './model-config.ts';

export interface TensorInfo {
  /** Hugging Face name, e.g. `model.layers.0.self_attn.q_proj.weight`, also for GGUF. */
  readonly name: string;
  /** As stored: `F32`, `F16`, `BF16`, `Q8_0`, … */
  readonly dtype: string;
  /** Row-major, outermost first, as PyTorch prints it. */
  readonly shape: readonly number[];
}

/** A `[rows, columns]` matrix as blocks of 32 along the columns, exactly as MatMulNBits takes it. */
export interface BlockQuantized {
  readonly bits: 4 | 8;
  readonly blockSize: 32;
  /** Unsigned with zero point 8 (4 bits, two per byte, low nibble first) or 128 (8 bits): `[rows, columns / 32, 32 * bits / 8]`. */
  readonly quants: Uint8Array;
  /** `[rows, columns / 32]` */
  readonly scales: Float32Array;
}

export interface Checkpoint {
  /** For messages: the folder or file. */
  readonly path: string;
  readonly format: 'safetensors' | 'gguf';
  readonly config: ModelConfig;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Dequantized. Throws StvError `checkpoint_invalid` that names the file and the tensor. */
  readFloat32(name: string): Float32Array;
  /** The stored blocks where they map on MatMulNBits without loss (Q8_0, Q4_0), else undefined. */
  readBlocks(name: string): BlockQuantized | undefined;
  close(): void;
}
