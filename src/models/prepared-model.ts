/**
 * A prepared model on disk: a folder with `model.json` (what it is), `weights.bin` (tensors back to back) and the tokenizer's
 * files. Knows the format of `model.json`; who writes and who loads the folder is not its concern.
 */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { StvError } from '../errors.ts';
import type { KvFormat, WeightFormat } from './lane-graph.ts';
import type { ModelConfig } from './model-config.ts';
import type { TensorType } from './onnx-proto.ts';

export const MODEL_FILE = 'model.json';
export const WEIGHTS_FILE = 'weights.bin';
/** Every tensor starts on a cache line. */
export const TENSOR_ALIGNMENT = 64;

/** Where the prepared model of a digest (`sha256:…`) lies. Half of the digest names it: paths stay short. */
export function preparedFolder(cacheDir: string, digest: string): string {
  return join(cacheDir, digest.slice('sha256:'.length, 'sha256:'.length + 32));
}

export interface StoredTensor {
  readonly name: string;
  readonly type: Extract<TensorType, 'float32' | 'uint8'>;
  readonly dims: readonly number[];
  /** Bytes from the start of `weights.bin`. */
  readonly offset: number;
  readonly byteLength: number;
}

/** What storing one matrix in integer blocks cost. */
export interface MatrixError {
  readonly name: string;
  /** As the checkpoint had it: `Q4_1`, `BF16`, … */
  readonly from: string;
  /** Root of the mean squared error over the root of the mean squared weight. */
  readonly relativeError: number;
  readonly maxError: number;
}

export interface QuantizationReport {
  /** Matrices whose stored blocks were taken over, or whose floats were kept. */
  readonly numExact: number;
  /** Matrices put into integer blocks here. */
  readonly requantized: readonly MatrixError[];
  /** Over all elements of the requantized matrices; 0 without any. */
  readonly relativeError: number;
}

/** One format of the cache, measured on this machine while preparing. */
export interface KvFigures {
  /** Milliseconds of a step that decodes 4 sequences after 768 tokens each. */
  readonly decodeMs: number;
  /** Milliseconds of a step that reads 64 tokens of one sequence after 768. */
  readonly prefillMs: number;
}

/** What calibration found: how good and how fast an int8 cache is, and what `kv: auto` takes. */
export interface CalibrationReport {
  /** Tokens that the model itself wrote, on which everything was measured. */
  readonly positions: number;
  /** Mean KL divergence per position of the int8 cache from the float one, in nats. */
  readonly kvKl: number;
  /** Share of positions whose most likely token is the same. */
  readonly kvAgreement: number;
  readonly fp32: KvFigures;
  readonly int8: KvFigures;
  readonly kv: KvFormat;
}

/** Content of `model.json`. */
export interface PreparedManifest {
  readonly formatVersion: 1;
  readonly builderVersion: number;
  readonly weights: WeightFormat;
  /** `sha256:…` of the checkpoint's files. */
  readonly sourceDigest: string;
  /** `sha256:…` of source, builder version and options together: names what answers. */
  readonly digest: string;
  readonly config: ModelConfig;
  readonly quantization: QuantizationReport;
  /** The weights carry what calibration found; otherwise all scales are 1, and only a float cache can be used. */
  readonly hasScales: boolean;
  readonly calibration?: CalibrationReport;
  readonly weightsBytes: number;
  readonly tensors: readonly StoredTensor[];
}

/** Of a ready-made ONNX decoder: the graph stays where it is, the folder holds only its tokenizer and this. */
export interface OnnxManifest {
  readonly formatVersion: 1;
  readonly sourceDigest: string;
  readonly digest: string;
  /** Graph and external data together. */
  readonly weightsBytes: number;
  readonly onnx: {
    /** Absolute path of the graph. */
    readonly path: string;
    readonly vocabSize: number;
    readonly maxPositionEmbeddings: number;
  };
}

/** How a model caches keys and values when `wanted` is asked for. Throws StvError `config_invalid` where the model cannot have it. */
export function kvFormat(wanted: KvFormat | 'auto', { calibration, hasScales }: PreparedManifest): KvFormat {
  if (wanted === 'auto') return calibration?.kv ?? 'fp32';
  if (wanted === 'int8' && !hasScales) {
    throw new StvError('config_invalid', 'This model was prepared without calibration: an int8 cache has no scales.');
  }
  return wanted;
}

/** The manifest of a model made of weights. Throws StvError `pack_invalid` that names the file and what is wrong with it. */
export function readManifest(dir: string): PreparedManifest {
  const manifest = readAnyManifest(dir);
  if (!('onnx' in manifest)) return manifest;
  throw new StvError('pack_invalid', `"${dir}" is a ready-made ONNX decoder and has no weights of its own.`);
}

/** The manifest of any prepared folder. Throws StvError `pack_invalid` that names the file and what is wrong with it. */
export function readAnyManifest(dir: string): PreparedManifest | OnnxManifest {
  const path = join(dir, MODEL_FILE);
  const fail = (detail: string, cause?: unknown): never => {
    throw new StvError('pack_invalid', `The prepared model "${path}" cannot be used: ${detail}`, { cause });
  };
  let manifest: PreparedManifest | OnnxManifest;
  try {
    manifest = JSON.parse(readFileSync(path, 'utf8')) as PreparedManifest | OnnxManifest;
  } catch (error) {
    return fail('it is missing or not JSON.', error);
  }
  if (manifest.formatVersion !== 1) {
    return fail(`its format version is ${String(manifest.formatVersion)}, but this version reads 1.`);
  }
  if ('onnx' in manifest) {
    const { path: graph } = manifest.onnx;
    if (statSync(graph, { throwIfNoEntry: false }) === undefined) return fail(`"${graph}" is gone.`);
    return manifest;
  }
  const weights = join(dir, WEIGHTS_FILE);
  const bytes = statSync(weights, { throwIfNoEntry: false })?.size;
  if (bytes !== manifest.weightsBytes) {
    return fail(`"${weights}" has ${bytes ?? 'no'} bytes, but ${manifest.weightsBytes} were written.`);
  }
  return manifest;
}
