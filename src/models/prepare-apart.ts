/**
 * Preparing a model in a process of its own: each matrix takes up to seconds of a thread, which a server needs for its answers, and
 * calibration calls the runtime, whose crash would be the server's. What lies on this machine already is found without one.
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { type ErrorCode, StvError } from '../errors.ts';
import { type AnyPreparedModel, placeOfAny } from './prepare-any.ts';
import type { PrepareModelOptions, PrepareProgress } from './prepare-model.ts';

/** What can be told another process. */
export type ApartOptions = Pick<
  PrepareModelOptions,
  'checkpoint' | 'cacheDir' | 'weights' | 'expectedDigest' | 'calibrate'
>;

export type FromPrepareChild =
  | { readonly type: 'progress'; readonly progress: PrepareProgress }
  | { readonly type: 'prepared'; readonly model: AnyPreparedModel }
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string };

export interface PrepareApartOptions extends ApartOptions {
  readonly onProgress?: (progress: PrepareProgress) => void;
  readonly signal?: AbortSignal;
}

/** How long a cancelled process may take to clear away what it has begun. */
const GRACE_MS = 3000;

/** As `prepareAny`, tokenizer files included. Throws StvError `runtime_failed`, too, where the process ended without an answer. */
export async function prepareApart(options: PrepareApartOptions): Promise<AnyPreparedModel> {
  const { dir, found } = await placeOfAny(options);
  return found === undefined ? inChild(options) : { dir, manifest: found, isReused: true };
}

async function inChild({ onProgress, signal, ...told }: PrepareApartOptions): Promise<AnyPreparedModel> {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  // its output goes to our stderr: stdout belongs to the caller
  const child = fork(fileURLToPath(new URL(`./prepare-child.${extension}`, import.meta.url)), {
    serialization: 'advanced',
    stdio: ['ignore', 2, 2, 'ipc'],
    execArgv: [],
  });
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message)); // it could not be started
    child.once('exit', (code, signal) => {
      const how = signal === null ? `exit code ${code}` : `signal ${signal}`;
      // its last words may still be in the channel
      if (child.connected) child.once('disconnect', () => resolve(how));
      else resolve(how);
    });
  });
  let answer: Exclude<FromPrepareChild, { type: 'progress' }> | undefined;
  child.on('message', (message: FromPrepareChild) => {
    if (message.type === 'progress') onProgress?.(message.progress);
    else answer = message;
  });
  let kill: NodeJS.Timeout | undefined;
  const cancel = (): void => {
    child.kill('SIGTERM');
    kill = setTimeout(() => child.kill('SIGKILL'), GRACE_MS);
  };
  signal?.addEventListener('abort', cancel, { once: true });
  if (signal?.aborted) cancel();
  try {
    if (child.connected) child.send(told, () => undefined);
    const how = await ended;
    if (answer?.type === 'prepared') return answer.model;
    if (signal?.aborted) throw new StvError('cancelled', 'Preparing the model was cancelled.');
    if (answer !== undefined) throw new StvError(answer.code, answer.message);
    throw new StvError(
      'runtime_failed',
      `The process that prepares "${told.checkpoint}" ended without an answer (${how}).`,
    );
  } finally {
    clearTimeout(kill);
    signal?.removeEventListener('abort', cancel);
  }
}
