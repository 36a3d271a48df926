/**
 * What the engine host does between messages: opens models, keeps one core for each, and lets their steps take turns. Knows neither
 * processes nor channels, so tests run it in place.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { toStvError } from '../errors.ts';
import type { CausalLM } from '../models/causal-lm.ts';
import { EngineCore } from './core.ts';
import type { FromHost, HostModel, HostModelReady, SequenceSpec, ToHost } from './messages.ts';

/** A model as it was opened; `device` is where it runs. */
export interface OpenedHostModel {
  readonly model: CausalLM;
  readonly device: string;
  readonly warning?: string | undefined;
}

export type OpenModel = (model: HostModel) => OpenedHostModel | Promise<OpenedHostModel>;

export interface HostLoopOptions {
  readonly openModel: OpenModel;
  readonly post: (message: FromHost) => void;
  /** The host cannot go on, or is done; called after the last message. */
  readonly exit: (code: number) => void;
  /** Clock of the steps; default performance.now. */
  readonly now?: () => number;
}

export class HostLoop {
  readonly #options: HostLoopOptions;
  readonly #opened: OpenedHostModel[] = [];
  readonly #cores: EngineCore[] = [];
  #isRunning = false;
  #isShut = false;

  constructor(options: HostLoopOptions) {
    this.#options = options;
  }

  async handle(message: ToHost): Promise<void> {
    switch (message.type) {
      case 'load':
        await this.#load(message.models);
        break;
      case 'add':
        this.#add(message.model, message.sequence);
        await this.#run();
        break;
      case 'abort':
        this.#abort(message.model, message.ids);
        break;
      case 'shutdown':
        this.#shutDown(0);
        break;
    }
  }

  /** Reports a defect and gives up: the supervisor starts a fresh host. */
  crash(thrown: unknown): void {
    const { code, message } = toStvError(thrown);
    this.#options.post({ type: 'fatal', code, message });
    this.#shutDown(1);
  }

  async #load(models: readonly HostModel[]): Promise<void> {
    for (const [index, model] of models.entries()) {
      const startMs = performance.now();
      const opened = await this.#options.openModel(model);
      this.#opened.push(opened);
      this.#cores.push(
        new EngineCore(opened.model, {
          chunkTokens: model.chunkTokens,
          reusePrefixes: model.reusePrefixes,
          isDrafting: model.drafting,
          now: this.#options.now,
          onSuspectStep: (id) => this.#options.post({ type: 'suspect-step', model: index, id }),
        }),
      );
      this.#options.post({ type: 'loading', model: index, ms: performance.now() - startMs });
    }
    this.#options.post({ type: 'ready', models: this.#opened.map(readyOf) });
    await this.#warmUp();
  }

  /** Finishes what loading left for later, while nobody asks for a step. */
  async #warmUp(): Promise<void> {
    for (const { model } of this.#opened) {
      for (;;) {
        await nextTurn();
        if (this.#isRunning || this.#isShut) return;
        if (model.warmUp?.() !== true) break;
      }
    }
  }

  #add(model: number, sequence: SequenceSpec): void {
    const core = this.#coreAt(model);
    try {
      core.add(sequence);
    } catch (thrown) {
      this.#options.post({ type: 'refused', model, id: sequence.id, message: toStvError(thrown).message });
    }
  }

  #abort(model: number, ids: readonly number[]): void {
    const core = this.#coreAt(model);
    for (const id of ids) core.abort(id);
    if (core.hasWork) return; // a step is going to tell
    this.#options.post({ type: 'slots', model, used: core.numSlotsUsed, cached: core.numSlotsCached });
  }

  /** Steps until no core has work. Messages are read between steps: each step ends with a turn of the event loop. */
  async #run(): Promise<void> {
    if (this.#isRunning) return;
    this.#isRunning = true;
    let turn = 0;
    try {
      for (;;) {
        const index = this.#nextWithWork(turn);
        if (index === undefined || this.#isShut) break;
        turn = index + 1;
        const result = this.#coreAt(index).step();
        if (result !== undefined) this.#options.post({ type: 'step', model: index, ...result });
        await nextTurn();
      }
    } finally {
      this.#isRunning = false;
    }
    await this.#warmUp();
  }

  /** The first core with work, beginning at `from` and going round. */
  #nextWithWork(from: number): number | undefined {
    for (let i = 0; i < this.#cores.length; i++) {
      const index = (from + i) % this.#cores.length;
      if (this.#cores[index]?.hasWork) return index;
    }
    return undefined;
  }

  #coreAt(model: number): EngineCore {
    const core = this.#cores[model];
    if (core === undefined) throw new Error(`The engine host has no model ${model}.`);
    return core;
  }

  #shutDown(code: number): void {
    if (this.#isShut) return;
    this.#isShut = true;
    // a host that gives up ends at once: releasing what a lost device held may never come back
    if (code === 0) for (const { model } of this.#opened) model.dispose();
    this.#options.exit(code);
  }
}

function readyOf({ model, device, warning }: OpenedHostModel): HostModelReady {
  const { vocabSize, maxLength, maxLanes, numSlots } = model.limits;
  return { vocabSize, maxLength, maxLanes, numSlots, device, ...(warning === undefined ? {} : { warning }) };
}
