/** Builds sequences and drives an EngineCore by hand, checking after every step what must always hold. */
import { EngineCore, type EngineCoreOptions } from '../../src/engine/core.ts';
import type { SequenceOutput, SequenceSpec, StepStats } from '../../src/engine/messages.ts';
import { DEFAULT_SAMPLING } from '../../src/engine/sampling-params.ts';
import { FakeCausalLM, type FakeCausalLMOptions } from './fake-causal-lm.ts';

export function spec(id: number, prompt: readonly number[], changes: Partial<SequenceSpec> = {}): SequenceSpec {
  return {
    id,
    prompt: Int32Array.from(prompt),
    maxTokens: 8,
    stopTokens: [],
    sampling: { ...DEFAULT_SAMPLING, temperature: 0 },
    priority: 'interactive',
    logprobs: undefined,
    promptRows: [],
    ...changes,
  };
}

/** What a sequence got, folded over its outputs. */
export interface Collected {
  readonly tokens: number[];
  readonly logprobs: number[];
  readonly promptRows: { position: number; logprobs: readonly number[] }[];
  numStarted: number;
  cachedTokens: number;
  finish: NonNullable<SequenceOutput['finish']> | undefined;
  numFinishes: number;
}

export class CoreDriver {
  readonly model: FakeCausalLM;
  readonly core: EngineCore;
  readonly results = new Map<number, Collected>();
  readonly stats: StepStats[] = [];
  /** The core's clock, in milliseconds; a step takes one. */
  nowMs = 0;

  constructor(model: FakeCausalLMOptions = {}, options: Partial<EngineCoreOptions> = {}) {
    this.model = new FakeCausalLM(model);
    this.core = new EngineCore(this.model, { chunkTokens: 16, reusePrefixes: true, now: () => this.nowMs, ...options });
  }

  add(sequence: SequenceSpec): void {
    this.results.set(sequence.id, {
      tokens: [],
      logprobs: [],
      promptRows: [],
      numStarted: 0,
      cachedTokens: 0,
      finish: undefined,
      numFinishes: 0,
    });
    this.core.add(sequence);
    this.core.checkIntegrity();
  }

  abort(id: number): void {
    this.core.abort(id);
    this.core.checkIntegrity();
  }

  step(): readonly SequenceOutput[] {
    this.nowMs++;
    const result = this.core.step();
    this.core.checkIntegrity();
    if (result === undefined) return [];
    this.stats.push(result.stats);
    for (const output of result.outputs) {
      const collected = this.results.get(output.id);
      if (collected === undefined) throw new Error(`Output for the unknown sequence ${output.id}.`);
      if (collected.finish !== undefined) throw new Error(`Output for sequence ${output.id} after its end.`);
      if (output.started !== undefined) {
        collected.numStarted++;
        collected.cachedTokens = output.started.cachedTokens;
      }
      collected.tokens.push(...output.tokens);
      for (const { logprob } of output.logprobs ?? []) collected.logprobs.push(logprob);
      for (const row of output.promptRows ?? []) collected.promptRows.push(row);
      if (output.finish !== undefined) {
        collected.finish = output.finish;
        collected.numFinishes++;
      }
    }
    return result.outputs;
  }

  /** Steps until nothing is open. Throws if that takes more than `maxSteps`. */
  run(maxSteps = 10_000): void {
    for (let i = 0; i < maxSteps; i++) {
      if (!this.core.hasWork) return;
      this.step();
    }
    throw new Error(
      `Still at work after ${maxSteps} steps: ${this.core.numRunning} run, ${this.core.numWaiting} wait.`,
    );
  }

  result(id: number): Collected {
    const collected = this.results.get(id);
    if (collected === undefined) throw new Error(`Sequence ${id} was never added.`);
    return collected;
  }
}

/** The same sequence with nobody beside it, in one chunk, without reuse, token by token. */
export function runAlone(sequence: SequenceSpec, model: FakeCausalLMOptions = {}): Collected {
  const driver = new CoreDriver(
    { ...model, numSlots: 1, maxLanes: 1, maxBatchedTokens: 4096, recording: false },
    { chunkTokens: 4096, reusePrefixes: false, isDrafting: false },
  );
  driver.add(sequence);
  driver.run();
  return driver.result(sequence.id);
}
