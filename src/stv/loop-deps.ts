/** What the loop is given by whoever puts the server together, and what every request of it has in common. */
import type { Engine } from '../engine/engine.ts';
import type { LoopPack } from './loop-pack.ts';
import type { Span } from './spans.ts';

export interface LoopDeps {
  readonly engine: Engine;
  readonly pack: LoopPack;
  /** Milliseconds since the epoch; default the system clock. */
  readonly now?: (() => number) | undefined;
  /** An unsigned 32-bit number for requests without a seed; default random. */
  readonly drawSeed?: (() => number) | undefined;
}

export interface LoopCallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Of the whole call; whoever is called ends it. */
  readonly span?: Span | undefined;
}

/** What a request may set of the sampling; the rest is the pack's. Bounds are checked at the edge. */
export interface SamplingOptions {
  readonly temperature?: number | undefined;
  readonly topP?: number | undefined;
  readonly topK?: number | undefined;
  readonly minP?: number | undefined;
  readonly maxTokens?: number | undefined;
}

export type Priority = 'interactive' | 'batch';
