/** One score request in the host: a sequence for each path of its plan, their rows gathered until the last one has come. */
import type { StvError } from '../errors.ts';
import type { HostClient, OpenSequence } from './host-client.ts';
import type { PromptRowResult, SequenceOutput } from './messages.ts';
import { DEFAULT_SAMPLING } from './sampling-params.ts';
import type { ScorePlan } from './score-plan.ts';

export interface ScoreReaderOptions {
  readonly host: HostClient;
  readonly model: number;
  readonly priority: 'interactive' | 'batch';
  readonly shareKey: string | undefined;
  readonly isContinuation: boolean;
  readonly now: () => number;
  /** The host has begun with the first path. */
  readonly onStart: () => void;
}

export class ScoreReader {
  readonly #options: ScoreReaderOptions;
  readonly #open: OpenSequence[] = [];
  #startedAtMs: number | undefined;
  #cachedTokens = 0;

  constructor(options: ScoreReaderOptions) {
    this.#options = options;
  }

  /** When the first path began, on the clock of `now`. */
  get startedAtMs(): number | undefined {
    return this.#startedAtMs;
  }

  get cachedTokens(): number {
    return this.#cachedTokens;
  }

  /** The rows of each planned sequence. Throws what the host throws. */
  read(plan: ScorePlan): Promise<readonly (readonly PromptRowResult[])[]> {
    const sentAtMs = this.#options.now();
    return Promise.all(plan.sequences.map((path) => this.#readPath(path, sentAtMs)));
  }

  /** Takes out what is still there. */
  close(): void {
    for (const sequence of this.#open) this.#options.host.abort(sequence);
  }

  #readPath(path: ScorePlan['sequences'][number], sentAtMs: number): Promise<readonly PromptRowResult[]> {
    const { host, model, priority, shareKey, isContinuation } = this.#options;
    return new Promise((resolve, reject) => {
      const rows: PromptRowResult[] = [];
      const push = (output: SequenceOutput): void => {
        if (output.started !== undefined) this.#begin(output.started, sentAtMs);
        rows.push(...(output.promptRows ?? []));
        if (output.finish !== undefined) resolve(rows);
      };
      const fail = (error: StvError): void => reject(error);
      const nothing = { maxTokens: 0, stopTokens: [], sampling: DEFAULT_SAMPLING, logprobs: undefined };
      const spec = { ...nothing, priority, shareKey, isContinuation, ...path };
      this.#open.push(host.send(model, { push, fail }, spec));
    });
  }

  /** The first path to start tells; later ones find its rows in the cache. */
  #begin({ cachedTokens, waitedMs }: NonNullable<SequenceOutput['started']>, sentAtMs: number): void {
    if (this.#startedAtMs !== undefined) return;
    this.#startedAtMs = Math.min(this.#options.now(), sentAtMs + waitedMs);
    this.#cachedTokens = cachedTokens;
    this.#options.onStart();
  }
}
