/** Entry of the process that prepares a model: told once what to prepare, it tells how far it is and how it ended. */
import { toStvError } from '../errors.ts';
import { prepareAny } from './prepare-any.ts';
import type { ApartOptions, FromPrepareChild } from './prepare-apart.ts';
import { writeTokenizerFiles } from './tokenizer-write.ts';

if (process.send === undefined) throw new Error('This runs as a child process only.');
const send = process.send.bind(process);

/** A parent that is gone is found by the closed channel. */
const post = (message: FromPrepareChild): Promise<void> =>
  new Promise((resolve) => {
    send(message, undefined, undefined, () => resolve());
  });

const cancelled = new AbortController();
const cancel = (): void => cancelled.abort();
process.on('SIGTERM', cancel);
process.on('SIGINT', cancel);
process.on('disconnect', cancel);
// a log on a full disk must not end the work
process.stderr.on('error', () => {});
process.stdout.on('error', () => {});

process.once('message', async (options: ApartOptions) => {
  try {
    const model = await prepareAny({
      ...options,
      signal: cancelled.signal,
      onProgress: (progress) => void post({ type: 'progress', progress }),
      writeTokenizer: (dir) => writeTokenizerFiles({ path: options.checkpoint }, dir),
    });
    await post({ type: 'prepared', model });
  } catch (thrown) {
    const { code, message, cause } = toStvError(thrown);
    if (code === 'internal' && cause instanceof Error) process.stderr.write(`${cause.stack}\n`);
    await post({ type: 'failed', code, message });
  }
  process.exit();
});
