/**
 * The API process's end of one generation: outputs of the engine host come in, events go out. Turns tokens into text, finds stop
 * strings, counts, and joins deltas that nobody has read yet, so a slow reader costs no more than its text.
 */
import type { StvError } from '../errors.ts';
import type { FinishReason, GenerationEvent, Timings, TokenLogprob, Usage } from './engine.ts';
import type { PromptRowResult, SequenceOutput, TokenLogprobs } from './messages.ts';
import { OutputText, type TextPiece } from './output-text.ts';
import type { TokenTable } from './text-encoding.ts';

export interface GenerationStreamOptions {
  readonly table: TokenTable;
  readonly model: string;
  readonly prompt: Int32Array;
  readonly stop: readonly string[];
  readonly includeStop: boolean;
  readonly stopTokens: readonly number[];
  readonly wantsLogprobs: boolean;
  readonly wantsPromptLogprobs: boolean;
  /** When the request was made, on the clock of `now`. */
  readonly requestedAtMs: number;
  readonly now: () => number;
  /** Called once, when the host has begun with the sequence. */
  readonly onStart: () => void;
  /** Called when the text ended here before the sequence ended in the host: it must be taken out there. */
  readonly onStopString: () => void;
}

type EndEvent = Extract<GenerationEvent, { type: 'end' }>;

interface Generated {
  readonly token: number;
  readonly logprobs: TokenLogprobs | undefined;
}

export class GenerationStream {
  readonly #options: GenerationStreamOptions;
  readonly #text: OutputText<Generated>;
  readonly #promptRows: PromptRowResult[] = [];
  /** The delta that the reader has not taken yet. */
  #pendingText = '';
  #pending: Generated[] = [];
  #ending: EndEvent | StvError | undefined;
  #wake: (() => void) | undefined;
  #endToken: TokenLogprob | undefined;
  #completionTokens = 0;
  #cachedTokens = 0;
  #acceptedTokens = 0;
  #rejectedTokens = 0;
  #startedAtMs: number | undefined;
  #firstTokenAtMs: number | undefined;

  constructor(options: GenerationStreamOptions) {
    this.#options = options;
    this.#text = new OutputText({ stop: options.stop, includeStop: options.includeStop });
  }

  get hasEnded(): boolean {
    return this.#ending !== undefined;
  }

  /** From the request to the first token. */
  get firstTokenMs(): number | undefined {
    return this.#firstTokenAtMs === undefined ? undefined : this.#firstTokenAtMs - this.#options.requestedAtMs;
  }

  /** What the host did. Ignored once the stream has ended. */
  push(output: SequenceOutput): void {
    if (this.hasEnded) return;
    const nowMs = this.#options.now();
    if (output.started !== undefined) this.#begin(nowMs, output.started);
    if (output.promptRows !== undefined) this.#promptRows.push(...output.promptRows);
    if (output.drafted?.isPredicted === true) {
      this.#acceptedTokens += output.drafted.accepted;
      this.#rejectedTokens += output.drafted.rejected;
    }
    for (const [i, token] of output.tokens.entries()) {
      this.#firstTokenAtMs ??= nowMs;
      this.#completionTokens++;
      const isEnd = this.#options.stopTokens.includes(token);
      const logprobs = output.logprobs?.[i];
      if (isEnd) {
        // ends the text but is no part of it
        if (this.#options.wantsLogprobs) this.#endToken = this.#tokenLogprob(token, logprobs);
        break;
      }
      const piece = this.#text.push(this.#options.table.visibleBytes(token), { token, logprobs });
      this.#add(piece);
      if (piece.match === undefined) continue;
      this.#end('stop', nowMs, piece.match.stop);
      if (output.finish === undefined) this.#options.onStopString();
      return;
    }
    if (output.finish !== undefined && output.finish.reason !== 'error') this.finish(output.finish.reason);
    else this.#signal();
  }

  /** Ends it from this side (or as the host said): what was held back is text. */
  finish(reason: FinishReason): void {
    if (this.hasEnded) return;
    this.#add(this.#text.end());
    this.#end(reason, this.#options.now());
  }

  fail(error: StvError): void {
    if (this.hasEnded) return;
    this.#ending = error;
    this.#signal();
  }

  /** The next delta, then the end. Throws the StvError that the stream failed with, after the deltas before it. */
  async next(): Promise<GenerationEvent> {
    for (;;) {
      if (this.#pendingText !== '' || this.#pending.length > 0) return this.#takeDelta();
      if (this.#ending !== undefined) {
        if ('type' in this.#ending) return this.#ending;
        throw this.#ending;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  get usage(): Usage {
    return {
      promptTokens: this.#options.prompt.length,
      cachedTokens: this.#cachedTokens,
      completionTokens: this.#completionTokens,
      // a stop string may have cut off some of them
      acceptedPredictionTokens: Math.min(this.#acceptedTokens, this.#completionTokens),
      rejectedPredictionTokens: this.#rejectedTokens,
    };
  }

  #begin(nowMs: number, { cachedTokens, waitedMs }: NonNullable<SequenceOutput['started']>): void {
    this.#cachedTokens = cachedTokens;
    // the message comes after the first step; the wait ended when that step began
    this.#startedAtMs = Math.min(nowMs, this.#sentAtMs + waitedMs);
    this.#options.onStart();
  }

  #sentAtMs = 0;

  /** The sequence has been handed to the host. */
  markSent(): void {
    this.#sentAtMs = this.#options.now();
  }

  #add(piece: TextPiece<Generated>): void {
    this.#pendingText += piece.text;
    for (const item of piece.items) this.#pending.push(item);
  }

  #end(finishReason: FinishReason, nowMs: number, stop?: string): void {
    const { model, wantsPromptLogprobs } = this.#options;
    this.#ending = {
      type: 'end',
      finishReason,
      ...(stop === undefined ? {} : { stop }),
      ...(this.#endToken === undefined ? {} : { endToken: this.#endToken }),
      usage: this.usage,
      timings: this.#timings(nowMs),
      model,
      ...(wantsPromptLogprobs ? { promptLogprobs: this.#promptLogprobs() } : {}),
    };
    this.#signal();
  }

  #timings(endMs: number): Timings {
    const requested = this.#options.requestedAtMs;
    const started = this.#startedAtMs ?? endMs;
    const first = this.#firstTokenAtMs ?? endMs;
    return { queueMs: started - requested, prefillMs: Math.max(0, first - started), decodeMs: endMs - first };
  }

  #signal(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  #takeDelta(): GenerationEvent {
    const text = this.#pendingText;
    const generated = this.#pending;
    this.#pendingText = '';
    this.#pending = [];
    const tokens = generated.map(({ token }) => token);
    if (!this.#options.wantsLogprobs) return { type: 'delta', text, tokens };
    const logprobs = generated.map(({ token, logprobs: found }) => this.#tokenLogprob(token, found));
    return { type: 'delta', text, tokens, logprobs };
  }

  #promptLogprobs(): (TokenLogprob | null)[] {
    const prompt = this.#options.prompt;
    const result: (TokenLogprob | null)[] = [null];
    for (const { position, logprobs, topTokens, topLogprobs } of this.#promptRows) {
      const token = prompt[position + 1];
      const logprob = logprobs[0];
      if (token === undefined || logprob === undefined) continue;
      result.push(this.#tokenLogprob(token, { logprob, topTokens, topLogprobs }));
    }
    return result;
  }

  #tokenLogprob(token: number, found: TokenLogprobs | undefined): TokenLogprob {
    const top = (found?.topTokens ?? []).map((id, i) => ({
      ...this.#spelling(id),
      logprob: found?.topLogprobs[i] ?? Number.NEGATIVE_INFINITY,
    }));
    return { ...this.#spelling(token), logprob: found?.logprob ?? Number.NEGATIVE_INFINITY, top };
  }

  #spelling(token: number): { token: number; text: string; bytes: readonly number[] } {
    const bytes = this.#options.table.bytes(token);
    return { token, text: Buffer.from(bytes).toString('utf8'), bytes: [...bytes] };
  }
}
