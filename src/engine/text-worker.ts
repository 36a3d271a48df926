/** Entry of the text worker: chat templates and tokenizing of long prompts, away from the event loop that answers HTTP. */
import { parentPort, workerData } from 'node:worker_threads';
import { toStvError } from '../errors.ts';
import { encodePrompt, type TextSide, tokenTableOf } from './text-encoding.ts';
import { type FromTextWorker, loadTextModel, type TextJob, type TextSource } from './text-service.ts';

const port = parentPort;
if (port === null) throw new Error('The text worker runs as a worker thread only.');
const post = (message: FromTextWorker): void => port.postMessage(message);

function answer(models: readonly TextSide[], job: TextJob): FromTextWorker {
  try {
    const text = models[job.model];
    if (text === undefined) throw new Error(`There is no text model ${job.model}.`);
    if (job.type === 'decode') return { type: 'decoded', text: text.decode(job.tokens) };
    const tokens =
      job.type === 'tokenize'
        ? [text.encodeText(job.text)]
        : job.continuations.map((continuation) => encodePrompt(text, job.prompt, continuation));
    return { type: 'encoded', tokens: tokens.map((list) => Int32Array.from(list)) };
  } catch (thrown) {
    const { code, message, param } = toStvError(thrown);
    return { type: 'failed', code, message, param };
  }
}

try {
  const { sources } = workerData as { sources: readonly TextSource[] };
  const models = await Promise.all(sources.map(loadTextModel));
  port.on('message', (job: TextJob) => post(answer(models, job)));
  post({ type: 'ready', tables: models.map(tokenTableOf) });
} catch (thrown) {
  const { code, message } = toStvError(thrown);
  post({ type: 'unusable', code, message });
}
