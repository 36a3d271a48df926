/**
 * Encoding as a service: in a worker thread when the program is built, in place when it runs from TypeScript sources (a `.ts` file
 * cannot be a worker's entry on every supported Node) or with a text side that a test made. Both run `encodePrompt`.
 */
import { Worker } from 'node:worker_threads';
import { type ErrorCode, StvError } from '../errors.ts';
import { TextModel } from '../models/text-model.ts';
import type { Prompt } from './engine.ts';
import { encodePrompt, type TextSide, TokenTable, type TokenTableData, tokenTableOf } from './text-encoding.ts';

export interface TextService {
  /** By index of the model. */
  readonly tables: readonly TokenTable[];
  /**
   * The prompt once for each continuation; `['']` gives the prompt itself. Throws the signal's reason as soon as it fires; a job
   * that is not begun by then never is.
   */
  encode(
    model: number,
    prompt: Prompt,
    continuations: readonly string[],
    signal?: AbortSignal,
  ): Promise<readonly Int32Array[]>;
  /** Plain text, special tokens inert, nothing added. The signal as above. */
  tokenize(model: number, text: string, signal?: AbortSignal): Promise<Int32Array>;
  decode(model: number, tokens: readonly number[]): Promise<string>;
  close(): Promise<void>;
}

export type TextJob =
  | {
      readonly type: 'encode';
      readonly model: number;
      readonly prompt: Prompt;
      readonly continuations: readonly string[];
    }
  | { readonly type: 'tokenize'; readonly model: number; readonly text: string }
  | { readonly type: 'decode'; readonly model: number; readonly tokens: readonly number[] };

export type FromTextWorker =
  | { readonly type: 'ready'; readonly tables: readonly TokenTableData[] }
  | { readonly type: 'unusable'; readonly code: ErrorCode; readonly message: string }
  | { readonly type: 'encoded'; readonly tokens: readonly Int32Array[] }
  | { readonly type: 'decoded'; readonly text: string }
  | {
      readonly type: 'failed';
      readonly code: ErrorCode;
      readonly message: string;
      readonly param: string | undefined;
    };

/** Encodes on the caller's thread. */
export function createInlineTextService(models: readonly TextSide[]): TextService {
  const at = (model: number): TextSide => {
    const text = models[model];
    if (text === undefined) throw new Error(`There is no text model ${model}.`);
    return text;
  };
  return {
    tables: models.map((text) => new TokenTable(tokenTableOf(text))),
    encode: async (model, prompt, continuations, signal) => {
      signal?.throwIfAborted();
      return continuations.map((continuation) => Int32Array.from(encodePrompt(at(model), prompt, continuation)));
    },
    tokenize: async (model, text, signal) => {
      signal?.throwIfAborted();
      return Int32Array.from(at(model).encodeText(text));
    },
    decode: async (model, tokens) => at(model).decode(tokens),
    close: async () => {},
  };
}

/** Where a model's tokenizer lies and what its chat template is given beside the messages. */
export interface TextSource {
  readonly dir: string;
  readonly templateVariables?: Readonly<Record<string, unknown>> | undefined;
}

export function loadTextModel({ dir, templateVariables }: TextSource): Promise<TextModel> {
  return TextModel.load(dir, templateVariables === undefined ? {} : { variables: templateVariables });
}

/**
 * Text sides of the given models. `timeoutMs`: of one job in the worker. Throws StvError when a folder has no usable tokenizer or chat
 * template.
 */
export async function openTextService(
  sources: readonly TextSource[],
  timeoutMs = JOB_TIMEOUT_MS,
): Promise<TextService> {
  if (import.meta.url.endsWith('.ts')) {
    return createInlineTextService(await Promise.all(sources.map(loadTextModel)));
  }
  const service = new WorkerTextService(sources, timeoutMs);
  await service.start();
  return service;
}

type Answer = Exclude<FromTextWorker, { type: 'ready' | 'unusable' }>;

interface OpenJob {
  readonly job: TextJob;
  resolve(message: Answer): void;
  reject(error: unknown): void;
}

/** A job that takes longer has met a template or a text that the tokenizer cannot cope with. */
const JOB_TIMEOUT_MS = 60_000;

/** Gives the worker one job at a time, so what nobody waits for any more costs nothing, and only the job that it had is lost with it. */
class WorkerTextService implements TextService {
  readonly #sources: readonly TextSource[];
  readonly #timeoutMs: number;
  readonly #waiting = new Set<OpenJob>();
  #current: OpenJob | undefined;
  #timer: NodeJS.Timeout | undefined;
  #worker: Worker | undefined;
  #isStarting = false;
  #tables: readonly TokenTable[] = [];
  #isClosed = false;

  constructor(sources: readonly TextSource[], timeoutMs: number) {
    this.#sources = sources;
    this.#timeoutMs = timeoutMs;
  }

  get tables(): readonly TokenTable[] {
    return this.#tables;
  }

  async start(): Promise<void> {
    // flags of the command line are meant for the main thread; some, like --input-type, no worker can start with
    const worker = new Worker(new URL('./text-worker.js', import.meta.url), {
      workerData: { sources: this.#sources },
      execArgv: [],
    });
    worker.unref();
    const tables = await new Promise<readonly TokenTableData[]>((resolve, reject) => {
      worker.on('message', (message: FromTextWorker) => {
        if (message.type === 'ready') resolve(message.tables);
        else if (message.type === 'unusable') reject(new StvError(message.code, message.message));
        else this.#answer(message);
      });
      worker.on('error', reject);
      worker.on('exit', () => {
        reject(new StvError('internal', 'The text worker ended while it was loading.'));
        if (this.#worker === worker) this.#lost();
      });
    });
    this.#tables = tables.map((data) => new TokenTable(data));
    if (this.#isClosed) await worker.terminate();
    else this.#worker = worker;
  }

  async encode(
    model: number,
    prompt: Prompt,
    continuations: readonly string[],
    signal?: AbortSignal,
  ): Promise<readonly Int32Array[]> {
    const message = await this.#ask({ type: 'encode', model, prompt, continuations }, signal);
    return message.type === 'encoded' ? message.tokens : [];
  }

  async tokenize(model: number, text: string, signal?: AbortSignal): Promise<Int32Array> {
    const message = await this.#ask({ type: 'tokenize', model, text }, signal);
    return (message.type === 'encoded' ? message.tokens[0] : undefined) ?? new Int32Array(0);
  }

  async decode(model: number, tokens: readonly number[]): Promise<string> {
    const message = await this.#ask({ type: 'decode', model, tokens });
    return message.type === 'decoded' ? message.text : '';
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#worker?.terminate();
    this.#refuse(closed());
  }

  async #ask(job: TextJob, signal?: AbortSignal): Promise<Answer> {
    signal?.throwIfAborted();
    let cancel = (): void => {};
    try {
      return await new Promise<Answer>((resolve, reject) => {
        const open = { job, resolve, reject };
        cancel = () => {
          this.#waiting.delete(open);
          reject(signal?.reason);
        };
        signal?.addEventListener('abort', cancel);
        this.#waiting.add(open);
        this.#next();
      });
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  /** Gives a worker that has nothing to do what has waited longest; one that was lost is replaced for it. */
  #next(): void {
    const [open] = this.#waiting;
    const worker = this.#worker;
    if (this.#current !== undefined || open === undefined) return;
    if (this.#isClosed) {
      this.#refuse(closed());
      return;
    }
    if (worker === undefined) {
      this.#startAgain();
      return;
    }
    this.#waiting.delete(open);
    this.#current = open;
    this.#timer = setTimeout(() => void worker.terminate(), this.#timeoutMs);
    this.#timer.unref();
    worker.ref(); // a process with open jobs stays alive
    worker.postMessage(open.job);
  }

  #startAgain(): void {
    if (this.#isStarting) return;
    this.#isStarting = true;
    this.start()
      .catch((thrown: unknown) => this.#refuse(thrown))
      .finally(() => {
        this.#isStarting = false;
        this.#next();
      });
  }

  #answer(message: Answer): void {
    const open = this.#end();
    if (message.type === 'failed') {
      const { code, message: text, param } = message;
      open?.reject(new StvError(code, text, param === undefined ? {} : { param }));
    } else open?.resolve(message);
    this.#next();
  }

  #lost(): void {
    this.#worker = undefined;
    const lost = new StvError('internal', 'The text worker ended while it worked on this request.');
    this.#end()?.reject(this.#isClosed ? closed() : lost);
    this.#next();
  }

  /** The job that the worker has had. */
  #end(): OpenJob | undefined {
    const open = this.#current;
    clearTimeout(this.#timer);
    this.#current = undefined;
    this.#worker?.unref();
    return open;
  }

  #refuse(error: unknown): void {
    for (const open of this.#waiting) open.reject(error);
    this.#waiting.clear();
  }
}

function closed(): StvError {
  return new StvError('draining', 'The text worker was closed.');
}
