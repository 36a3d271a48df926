/**
 * A file of a checkpoint, open for reads at given offsets. Every failure is an StvError that names the file, so that the
 * readers above only decide what the bytes mean. Nothing is read or allocated past the end that the file had when opened.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { StvError } from '../errors.ts';

/** Largest length that one `read` system call is asked for; Node refuses 2^31 and more. */
const MAX_READ_BYTES = 1 << 30;

export function checkpointInvalid(path: string, detail: string, cause?: unknown): StvError {
  return new StvError('checkpoint_invalid', `Checkpoint "${path}" cannot be used: ${detail}`, { cause });
}

/** Where a tensor's bytes lie in its file. */
export interface TensorRange {
  readonly name: string;
  /** From the start of the file. */
  readonly offset: number;
  readonly numBytes: number;
}

/** Throws StvError `checkpoint_invalid` that names two tensors of the file when they share bytes. */
export function checkNoOverlap(path: string, tensors: Iterable<TensorRange>): void {
  const byOffset = [...tensors].filter(({ numBytes }) => numBytes > 0).sort((a, b) => a.offset - b.offset);
  let previous: TensorRange | undefined;
  for (const tensor of byOffset) {
    if (previous !== undefined && tensor.offset < previous.offset + previous.numBytes) {
      throw checkpointInvalid(path, `tensors "${previous.name}" and "${tensor.name}" overlap.`);
    }
    previous = tensor;
  }
}

export class CheckpointFile {
  readonly path: string;
  /** Bytes, when the file was opened. */
  readonly size: number;
  #descriptor: number | undefined;

  /** Throws StvError `checkpoint_invalid` when there is no such regular file or it may not be read. */
  constructor(path: string) {
    this.path = path;
    let descriptor: number;
    try {
      descriptor = openSync(path, 'r');
    } catch (error) {
      throw checkpointInvalid(path, `the file cannot be opened (${(error as NodeJS.ErrnoException).code}).`, error);
    }
    const stat = fstatSync(descriptor);
    if (!stat.isFile()) {
      closeSync(descriptor);
      throw checkpointInvalid(path, 'it is not a regular file.');
    }
    this.#descriptor = descriptor;
    this.size = stat.size;
  }

  /** `what` names the part of the file for the message of a failure. The result begins at offset 0 of its own buffer. */
  read(offset: number, length: number, what: string): Uint8Array<ArrayBuffer> {
    this.#checkRange(offset, length, what);
    const target = new Uint8Array(length);
    this.readInto(target, offset, what);
    return target;
  }

  readInto(target: Uint8Array, offset: number, what: string): void {
    this.#checkRange(offset, target.length, what);
    if (this.#descriptor === undefined) throw checkpointInvalid(this.path, 'it has been closed.');
    let done = 0;
    while (done < target.length) {
      const wanted = Math.min(target.length - done, MAX_READ_BYTES);
      let count: number;
      try {
        count = readSync(this.#descriptor, target, done, wanted, offset + done);
      } catch (error) {
        throw checkpointInvalid(this.path, `reading ${what} failed.`, error);
      }
      if (count === 0) throw checkpointInvalid(this.path, `it ends inside ${what}; it has been cut off.`);
      done += count;
    }
  }

  close(): void {
    if (this.#descriptor === undefined) return;
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  #checkRange(offset: number, length: number, what: string): void {
    if (offset + length <= this.size) return;
    throw checkpointInvalid(
      this.path,
      `it is cut off: ${what} needs bytes ${offset} to ${offset + length}, but the file has ${this.size} bytes.`,
    );
  }
}
