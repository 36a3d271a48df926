/** Checkpoint -> prepared model folder, once per content: later calls find the folder, and two at the same time both succeed. */
import { createHash } from 'node:crypto';
import { closeSync, openSync, statfsSync, writeSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { StvError } from '../errors.ts';
import { loadRuntime, type Runtime } from '../runtime/runtime.ts';
import { BUILDER_VERSION, buildLaneGraph } from './build-lane-graph.ts';
import { measureScales, writeSequences } from './calibrate.ts';
import type { Checkpoint } from './checkpoint.ts';
import { chooseKv } from './choose-kv.ts';
import { validateCheckpoint } from './expected-tensors.ts';
import type { ActivationSite, WeightFormat } from './lane-graph.ts';
import { FINAL_NORM } from './layers.ts';
import { openCheckpoint } from './open-checkpoint.ts';
import { makeFolder } from './partial-folder.ts';
import { digestCheckpoint, requireDigest } from './prepare-digest.ts';
import { type CalibratedScales, storedBytes, WeightWriter } from './prepare-weights.ts';
import {
  type CalibrationReport,
  MODEL_FILE,
  type PreparedManifest,
  preparedFolder,
  readManifest,
  WEIGHTS_FILE,
} from './prepared-model.ts';

/** `hash` counts bytes of the checkpoint, `weights` tensors of the graph. */
export interface PrepareProgress {
  readonly phase: 'hash' | 'weights';
  readonly done: number;
  readonly total: number;
}

export interface PrepareModelOptions {
  /** A safetensors folder or a GGUF file. */
  readonly checkpoint: string;
  /** Prepared models lie here, one folder each. Made when missing. */
  readonly cacheDir: string;
  readonly weights: WeightFormat;
  /** What `digestCheckpoint` must find. */
  readonly expectedDigest?: string;
  /**
   * Runs the model while preparing: int8 weights are scaled between channels by what the inputs look like, and an int8 cache
   * gets its scales and is compared with floats. Takes a few times as long. Default false.
   */
  readonly calibrate?: boolean;
  /** For calibration: shared with models of the process; without it one is loaded. */
  readonly runtime?: Runtime;
  readonly onProgress?: (progress: PrepareProgress) => void;
  readonly signal?: AbortSignal;
  /** Writes the tokenizer's files into the folder, before the weights. */
  readonly writeTokenizer?: (dir: string) => void | Promise<void>;
}

export interface PreparedModel {
  readonly dir: string;
  readonly manifest: PreparedManifest;
  /** The folder was there already. */
  readonly isReused: boolean;
}

/** Where a prepared model belongs. */
export interface PreparedPlace<Manifest> {
  readonly dir: string;
  /** What lies there already. */
  readonly found: Manifest | undefined;
  /** Puts the model there. */
  make(): Promise<Manifest>;
}

/**
 * Throws StvError `checkpoint_invalid`, `architecture_unsupported`, `disk_full` or `cancelled`; nothing of the folder stays
 * behind then.
 */
export async function prepareModel(options: PrepareModelOptions): Promise<PreparedModel> {
  const { dir, found, make } = await placeOfModel(options);
  return { dir, manifest: found ?? (await make()), isReused: found !== undefined };
}

/** Hashes the checkpoint. Throws as `prepareModel`, and so does `make`. */
export async function placeOfModel(options: PrepareModelOptions): Promise<PreparedPlace<PreparedManifest>> {
  const { cacheDir, weights, signal, onProgress } = options;
  const sourceDigest = await digestCheckpoint(options.checkpoint, {
    cacheDir,
    ...(signal && { signal }),
    ...(onProgress && { onProgress: (done, total) => onProgress({ phase: 'hash', done, total }) }),
  });
  requireDigest(options.checkpoint, sourceDigest, options.expectedDigest);
  const settings = `builder ${BUILDER_VERSION}\0weights ${weights}${options.calibrate === true ? '\0calibrated' : ''}`;
  const key = createHash('sha256').update(`${sourceDigest}\0${settings}`);
  const digest = `sha256:${key.digest('hex')}`;
  const dir = preparedFolder(cacheDir, digest);
  const make = (): Promise<PreparedManifest> =>
    makeFolder(dir, async (partial) => {
      const checkpoint = openCheckpoint(options.checkpoint);
      try {
        // first: the weights take minutes, and are of no use where the tokenizer is refused
        await options.writeTokenizer?.(partial);
        return await writeModel(partial, checkpoint, { ...options, sourceDigest, digest });
      } finally {
        checkpoint.close();
      }
    });
  return { dir, found: findPrepared(dir), make };
}

/** Undefined when there is none, or one that is not whole (it is then made again). */
function findPrepared(dir: string): PreparedManifest | undefined {
  try {
    return readManifest(dir);
  } catch {
    return undefined;
  }
}

interface WriteOptions extends PrepareModelOptions {
  readonly sourceDigest: string;
  readonly digest: string;
}

async function writeModel(dir: string, checkpoint: Checkpoint, options: WriteOptions): Promise<PreparedManifest> {
  const { weights, signal, onProgress, sourceDigest, digest } = options;
  validateCheckpoint(checkpoint);
  const { config } = checkpoint;
  const specs = buildLaneGraph({ config, numLanes: 1, format: weights }).weights;
  checkSpace(dir, storedBytes(specs));
  const total = specs.length * (options.calibrate === true ? 2 : 1);
  const write = async (first: number, scales?: CalibratedScales): Promise<PreparedManifest> => {
    const file = openSync(join(dir, WEIGHTS_FILE), 'w');
    const writer = new WeightWriter(checkpoint, (bytes) => writeWhole(file, bytes), scales);
    try {
      for (const [done, spec] of specs.entries()) {
        assertGoesOn(signal);
        onProgress?.({ phase: 'weights', done: first + done, total });
        writer.write(spec);
        await nextTurn(); // others may use the thread, and the signal can fire
      }
    } finally {
      closeSync(file);
    }
    const manifest = manifestOf(writer, { config, weights, sourceDigest, digest, hasScales: scales !== undefined });
    await writeManifest(dir, manifest);
    return manifest;
  };
  let manifest = await write(0);
  if (options.calibrate === true) {
    const calibration = await calibrate(dir, { ...options, rewrite: (scales) => write(specs.length, scales) });
    manifest = { ...readManifest(dir), calibration };
    await writeManifest(dir, manifest);
  }
  onProgress?.({ phase: 'weights', done: total, total });
  return manifest;
}

function assertGoesOn(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new StvError('cancelled', 'Preparing the model was cancelled.');
}

interface CalibrateOptions extends PrepareModelOptions {
  /** Writes the weights again, with scales. */
  readonly rewrite: (scales: CalibratedScales) => Promise<unknown>;
}

/** From plain weights in `dir` to scaled ones. */
async function calibrate(dir: string, options: CalibrateOptions): Promise<CalibrationReport> {
  const { weights, signal, rewrite } = options;
  const runtime = options.runtime ?? loadRuntime();
  const folder = { runtime, dir, signal };
  try {
    const sequences = await writeSequences(folder);
    // int4 keeps the integers of its checkpoint, except in the LM head, which has 8 bits; floats need no scales
    const isScaled = ({ name }: ActivationSite): boolean =>
      weights === 'int8' || (weights === 'int4' && name === FINAL_NORM);
    await rewrite(await measureScales(folder, sequences, isScaled));
    return await chooseKv(folder, sequences);
  } catch (thrown) {
    assertGoesOn(signal);
    throw thrown;
  } finally {
    if (options.runtime === undefined) runtime.dispose();
  }
}

type ManifestFacts = Pick<PreparedManifest, 'config' | 'weights' | 'sourceDigest' | 'digest' | 'hasScales'>;

function manifestOf(writer: WeightWriter, facts: ManifestFacts): PreparedManifest {
  const { config, weights, sourceDigest, digest, hasScales } = facts;
  return {
    formatVersion: 1,
    builderVersion: BUILDER_VERSION,
    weights,
    sourceDigest,
    digest,
    config,
    quantization: writer.report,
    weightsBytes: writer.byteLength,
    hasScales,
    tensors: writer.tensors,
  };
}

async function writeManifest(dir: string, manifest: PreparedManifest): Promise<void> {
  await writeFile(join(dir, MODEL_FILE), JSON.stringify(manifest));
}

function checkSpace(dir: string, needed: number): void {
  const { bavail, bsize } = statfsSync(dir);
  const free = bavail * bsize;
  if (free >= needed) return;
  throw new StvError(
    'disk_full',
    `Preparing the model needs ${Math.ceil(needed / 1e6)} MB, but "${dir}" has ${Math.floor(free / 1e6)} MB free.`,
  );
}

function writeWhole(file: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; )
    done += writeSync(file, bytes, done, Math.min(bytes.length - done, 1 << 30));
}
