/**
 * Entry of the engine host, the child process that owns ONNX Runtime. A native crash ends this process and nothing else. It must
 * never outlive its parent: the closed channel ends it between steps, a watching thread even in the middle of a call that hangs.
 */
import { Worker } from 'node:worker_threads';
import { openOnDevice } from '../models/open-on-device.ts';
import { HostLoop } from './host-loop.ts';
import type { FromHost, ToHost } from './messages.ts';

/** A thread of its own, given as text so that it needs no file: orphans get another parent process. */
const PARENT_WATCH = `
  const parent = process.ppid;
  setInterval(() => { if (process.ppid !== parent) process.kill(process.pid, 'SIGKILL'); }, 1000);
`;

if (process.send === undefined) throw new Error('The engine host runs as a child process only.');
const send = process.send.bind(process);

const ignore = (): void => {};

const loop = new HostLoop({
  openModel: (model) => {
    const { dir, numSlots, maxLength, maxLanes, maxBatchedTokens, threads, kv, libraryPath, device } = model;
    return openOnDevice({
      device,
      dir,
      numSlots,
      maxLength,
      maxLanes,
      maxBatchedTokens,
      ...(threads === undefined ? {} : { threads }),
      ...(kv === undefined ? {} : { kv }),
      ...(libraryPath === undefined ? {} : { libraryPath }),
    });
  },
  post: (message: FromHost) => {
    send(message, undefined, undefined, ignore); // a parent that has just died is found by the closed channel
  },
  exit: (code) => {
    process.exitCode = code;
    if (process.connected)
      process.disconnect(); // after what was sent; the closed channel ends the process
    else process.exit(code);
  },
});

new Worker(PARENT_WATCH, { eval: true }).unref();
// a log on a full disk must not end the engine
process.stderr.on('error', () => {});
process.stdout.on('error', () => {});
process.on('disconnect', () => process.exit());
// signals to end reach the whole process group; the parent decides when the host ends
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});
process.on('message', (message: ToHost) => {
  loop.handle(message).catch((thrown: unknown) => loop.crash(thrown));
});
