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
  /** The prompt once for each continuation; `['']` gives the prompt itself. */
  encode(model: number, prompt: Prompt, continuations: readonly string[]): Promise<readonly Int32Array[]>;
  /** Plain text, special tokens inert, nothing added. */
  tokenize(model: number, text: string): Promise<Int32Array>;
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

export interface ToTextWorker {
  readonly id: number;
  readonly job: TextJob;
}

export type FromTextWorker =
  /** Comes before the work itself, which blocks the worker. */
  | { readonly type: 'begun'; readonly id: number }
  | { readonly type: 'ready'; readonly tables: readonly TokenTableData[] }
  | { readonly type: 'unusable'; readonly code: ErrorCode; readonly message: string }
  | { readonly type: 'encoded'; readonly id: number; readonly tokens: readonly Int32Array[] }
  | { readonly type: 'decoded'; readonly id: number; readonly text: string }
  | {
      readonly type: 'failed';
      readonly id: number;
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
    encode: async (model, prompt, continuations) =>
      continuations.map((continuation) => Int32Array.from(encodePrompt(at(model), prompt, continuation))),
    tokenize: async (model, text) => Int32Array.from(at(model).encodeText(text)),
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

interface Waiting {
  readonly job: TextJob;
  /** Of a job that the worker has begun. */
  timer?: NodeJS.Timeout;
  resolve(message: FromTextWorker): void;
  reject(error: StvError): void;
}

/** A job that takes longer has met a template or a text that the tokenizer cannot cope with. */
const JOB_TIMEOUT_MS = 60_000;

class WorkerTextService implements TextService {
  readonly #sources: readonly TextSource[];
  readonly #timeoutMs: number;
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | undefined;
  #starting: Promise<void> | undefined;
  #tables: readonly TokenTable[] = [];
  #nextId = 1;
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
        else if (message.type === 'begun') this.#watch(worker, message.id);
        else this.#answer(message);
      });
      worker.on('error', reject);
      worker.on('exit', () => {
        reject(new StvError('internal', 'The text worker ended while it was loading.'));
        if (this.#worker === worker) this.#lost();
      });
    });
    this.#tables = tables.map((data) => new TokenTable(data));
    this.#worker = worker;
  }

  async encode(model: number, prompt: Prompt, continuations: readonly string[]): Promise<readonly Int32Array[]> {
    const message = await this.#ask({ type: 'encode', model, prompt, continuations });
    return message.type === 'encoded' ? message.tokens : [];
  }

  async tokenize(model: number, text: string): Promise<Int32Array> {
    const message = await this.#ask({ type: 'tokenize', model, text });
    return (message.type === 'encoded' ? message.tokens[0] : undefined) ?? new Int32Array(0);
  }

  async decode(model: number, tokens: readonly number[]): Promise<string> {
    const message = await this.#ask({ type: 'decode', model, tokens });
    return message.type === 'decoded' ? message.text : '';
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#worker?.terminate();
  }

  async #ask(job: TextJob): Promise<FromTextWorker> {
    const worker = this.#worker ?? (await this.#startAgain());
    const id = this.#nextId++;
    try {
      return await new Promise<FromTextWorker>((resolve, reject) => {
        this.#waiting.set(id, { job, resolve, reject });
        worker.ref(); // a process with open jobs stays alive
        worker.postMessage({ id, job } satisfies ToTextWorker);
      });
    } finally {
      clearTimeout(this.#waiting.get(id)?.timer);
      this.#waiting.delete(id);
      if (this.#waiting.size === 0) this.#worker?.unref();
    }
  }

  /** From when the job is begun: what waits behind a long one has done nothing. */
  #watch(worker: Worker, id: number): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    waiting.timer = setTimeout(() => void worker.terminate(), this.#timeoutMs);
    waiting.timer.unref();
  }

  /** A lost worker is replaced by the next job that needs one. */
  async #startAgain(): Promise<Worker> {
    if (this.#isClosed) throw new StvError('not_ready', 'The text worker is closed.');
    this.#starting ??= this.start().finally(() => {
      this.#starting = undefined;
    });
    await this.#starting;
    if (this.#worker === undefined)
      throw new StvError('internal', 'The text worker ended again while it was starting.');
    return this.#worker;
  }

  #answer(message: Exclude<FromTextWorker, { type: 'ready' | 'unusable' | 'begun' }>): void {
    const waiting = this.#waiting.get(message.id);
    if (message.type === 'failed') {
      const { code, message: text, param } = message;
      waiting?.reject(new StvError(code, text, param === undefined ? {} : { param }));
    } else waiting?.resolve(message);
  }

  /** The job that it had begun has failed; the others are given to the next worker. */
  #lost(): void {
    this.#worker = undefined;
    const fail = (waiting: Waiting): void =>
      waiting.reject(new StvError('internal', 'The text worker ended while it worked on this request.'));
    const left = [...this.#waiting].filter(([, { timer }]) => timer === undefined);
    for (const waiting of this.#waiting.values()) if (waiting.timer !== undefined) fail(waiting);
    if (left.length === 0) return;
    this.#startAgain().then(
      (worker) => {
        worker.ref();
        for (const [id, { job }] of left) worker.postMessage({ id, job } satisfies ToTextWorker);
      },
      () => {
        for (const [, waiting] of left) fail(waiting);
      },
    );
  }
}
