/** Entry of the text worker: chat templates and tokenizing of long prompts, away from the event loop that answers HTTP. */
import { parentPort, workerData } from 'node:worker_threads';
import { toStvError } from '../errors.ts';
import { encodePrompt, type TextSide, tokenTableOf } from './text-encoding.ts';
import { type FromTextWorker, loadTextModel, type TextSource, type ToTextWorker } from './text-service.ts';

const port = parentPort;
if (port === null) throw new Error('The text worker runs as a worker thread only.');
const post = (message: FromTextWorker): void => port.postMessage(message);

function answer(models: readonly TextSide[], { id, job }: ToTextWorker): FromTextWorker {
  try {
    const text = models[job.model];
    if (text === undefined) throw new Error(`There is no text model ${job.model}.`);
    if (job.type === 'decode') return { type: 'decoded', id, text: text.decode(job.tokens) };
    const tokens =
      job.type === 'tokenize'
        ? [text.encodeText(job.text)]
        : job.continuations.map((continuation) => encodePrompt(text, job.prompt, continuation));
    return { type: 'encoded', id, tokens: tokens.map((list) => Int32Array.from(list)) };
  } catch (thrown) {
    const { code, message, param } = toStvError(thrown);
    return { type: 'failed', id, code, message, param };
  }
}

try {
  const { sources } = workerData as { sources: readonly TextSource[] };
  const models = await Promise.all(sources.map(loadTextModel));
  port.on('message', (message: ToTextWorker) => {
    post({ type: 'begun', id: message.id });
    post(answer(models, message));
  });
  post({ type: 'ready', tables: models.map(tokenTableOf) });
} catch (thrown) {
  const { code, message } = toStvError(thrown);
  post({ type: 'unusable', code, message });
}
