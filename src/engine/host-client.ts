/**
 * Every sequence that the engine host has been given, seen from the API process: sends them, hands outputs to their receivers, takes
 * them out again, and ends each of them exactly once when the host goes down. Keeps the crash ledger. Knows no text.
 */
import { StvError } from '../errors.ts';
import { CrashLedger, requestHash } from './crash-ledger.ts';
import type { EngineStats } from './engine-stats.ts';
import type { SpawnHost } from './host-link.ts';
import type { FromHost, HostModel, HostModelReady, SequenceOutput, SequenceSpec } from './messages.ts';
import { Supervisor, type SupervisorState } from './supervisor.ts';

export interface HostClientOptions {
  readonly spawn: SpawnHost;
  readonly models: readonly HostModel[];
  /** For stats: by index. */
  readonly names: readonly string[];
  readonly hangAfterMs: number;
  readonly loadTimeoutMs: number;
  readonly minRestartDelayMs: number;
  readonly maxRestartDelayMs: number;
  readonly now: () => number;
  readonly emit: (stats: EngineStats) => void;
}

/** Whom a sequence belongs to. */
export interface Receiver {
  /** Not called after an output with `finish`, nor after an abort. */
  push(output: SequenceOutput): void;
  /** At most once, instead of an output with `finish`. */
  fail(error: StvError): void;
}

/** One sequence that the host knows of. */
export interface OpenSequence {
  readonly id: number;
  readonly model: number;
  readonly hash: string;
  readonly isSuspect: boolean;
}

interface Entry extends OpenSequence {
  readonly receiver: Receiver;
  hasStarted: boolean;
}

export class HostClient {
  readonly #options: HostClientOptions;
  readonly #supervisor: Supervisor;
  readonly #crashes: CrashLedger;
  readonly #entries = new Map<number, Entry>();
  /** Aborted since the host's last message: it may be at work on them still, and die of one. */
  #givenUp: Entry[] = [];
  #limits: readonly HostModelReady[] = [];
  #nextId = 1;
  #lastStepAtMs: number | undefined;
  #lastTokenAtMs: number | undefined;
  /** The suspect whose own step was announced and has not been reported done. */
  #suspectAtWork: number | undefined;

  constructor(options: HostClientOptions) {
    this.#options = options;
    this.#crashes = new CrashLedger({ now: options.now });
    this.#supervisor = new Supervisor({
      ...options,
      hasWork: () => this.#entries.size > 0,
      onMessage: (message) => this.#receive(message),
      onReady: (limits, ms) => {
        this.#limits = limits;
        options.emit({ type: 'host', event: 'ready', ms });
      },
      onDown: (event, detail, livedMs) => this.#hostDown(event, detail, livedMs),
    });
  }

  /** Resolves when every model is ready. Rejects with the StvError that says why it cannot be. */
  start(): Promise<void> {
    return this.#supervisor.start();
  }

  get state(): SupervisorState {
    return this.#supervisor.state;
  }

  get reason(): string | undefined {
    return this.#supervisor.reason;
  }

  get pid(): number | undefined {
    return this.#supervisor.pid;
  }

  /** Sequences that a step has computed something for. */
  get numRunning(): number {
    let count = 0;
    for (const { hasStarted } of this.#entries.values()) if (hasStarted) count++;
    return count;
  }

  get lastStepAtMs(): number | undefined {
    return this.#lastStepAtMs;
  }

  get lastTokenAtMs(): number | undefined {
    return this.#lastTokenAtMs;
  }

  /** What the model really holds, once it has been loaded. */
  limitsOf(model: number): HostModelReady | undefined {
    return this.#limits[model];
  }

  /** Throws StvError `not_ready` with the time after which a host can be expected. */
  checkReady(): void {
    const { state, reason, retryAfterMs } = this.#supervisor;
    if (state === 'ready') return;
    throw new StvError('not_ready', reason ?? `The engine is ${state}.`, state === 'closed' ? {} : { retryAfterMs });
  }

  /** Hands a sequence to the host. Throws StvError `not_ready` or `request_quarantined`. */
  send(model: number, receiver: Receiver, spec: Omit<SequenceSpec, 'id'>): OpenSequence {
    this.checkReady();
    const hash = requestHash(model, spec.prompt);
    if (this.#crashes.isQuarantined(hash)) {
      throw new StvError(
        'request_quarantined',
        'This request crashed the engine twice and is not taken for some time.',
      );
    }
    const isSuspect = this.#crashes.isSuspect(hash);
    const entry: Entry = { id: this.#nextId++, model, hash, isSuspect, receiver, hasStarted: false };
    this.#supervisor.send({ type: 'add', model, sequence: { ...spec, id: entry.id, isSuspect } });
    this.#entries.set(entry.id, entry);
    return entry;
  }

  /** Takes it out of the host. Without effect once it has ended. */
  abort(sequence: OpenSequence): void {
    const entry = this.#takeOut(sequence);
    if (entry !== undefined) this.#givenUp.push(entry);
  }

  /** Takes it out because its text is complete: it did its work without a crash. */
  complete(sequence: OpenSequence): void {
    this.#takeOut(sequence);
    this.#acquit(sequence.hash);
  }

  #takeOut({ id, model }: OpenSequence): Entry | undefined {
    const entry = this.#entries.get(id);
    if (entry === undefined) return undefined;
    // while it still counts as work, or the clock of the host's silence would start anew
    this.#supervisor.send({ type: 'abort', model, ids: [id] });
    this.#entries.delete(id);
    return entry;
  }

  /** Not while others of the same prompt are under way: each of them may be the one. */
  #acquit(hash: string): void {
    for (const entry of this.#entries.values()) if (entry.hash === hash) return;
    this.#crashes.acquit(hash);
  }

  /** Fails what is open and ends the host. */
  async close(error: StvError): Promise<void> {
    this.#failAll(error);
    await this.#supervisor.close();
  }

  #receive(message: FromHost): void {
    if (message.type === 'suspect-step') this.#suspectAtWork = message.id;
    if (message.type === 'step' || message.type === 'slots') this.#givenUp = [];
    if (message.type === 'refused') {
      this.#deliver({
        id: message.id,
        tokens: [],
        finish: { reason: 'error', code: 'internal', message: message.message },
      });
    }
    if (message.type === 'slots') this.#emitSlots(message.model, message.used, message.cached);
    if (message.type !== 'step') return;
    this.#suspectAtWork = undefined;
    this.#lastStepAtMs = this.#options.now();
    if (message.stats.numOutputTokens > 0) this.#lastTokenAtMs = this.#lastStepAtMs;
    for (const output of message.outputs) this.#deliver(output);
    this.#options.emit({ type: 'step', model: this.#options.names[message.model] ?? '', ...message.stats });
  }

  #deliver(output: SequenceOutput): void {
    const entry = this.#entries.get(output.id);
    if (entry === undefined) return; // aborted here, the host had not read it yet
    entry.hasStarted = true;
    const { finish } = output;
    if (finish !== undefined) this.#entries.delete(output.id);
    if (finish?.reason === 'error') {
      entry.receiver.fail(new StvError(finish.code, finish.message));
      return;
    }
    if (finish !== undefined) this.#acquit(entry.hash);
    entry.receiver.push(output);
  }

  #hostDown(event: 'crashed' | 'hung', detail: string, livedMs: number): void {
    const lost = [...this.#entries.values(), ...this.#givenUp];
    this.#givenUp = [];
    const suspect = lost.find(({ id }) => id === this.#suspectAtWork);
    this.#suspectAtWork = undefined;
    this.#crashes.blame(culprits(lost, suspect).map(({ hash }) => hash));
    const what = event === 'hung' ? 'stopped answering' : 'ended unexpectedly';
    this.#failAll(
      new StvError('engine_crashed', `The engine ${what} and is starting again; the request was lost.`, {
        retryAfterMs: this.#supervisor.retryAfterMs,
        cause: new Error(detail),
      }),
    );
    for (const model of this.#options.names.keys()) this.#emitSlots(model, 0, 0);
    this.#options.emit({ type: 'host', event, ms: livedMs });
  }

  #emitSlots(model: number, used: number, cached: number): void {
    this.#options.emit({ type: 'slots', model: this.#options.names[model] ?? '', used, cached });
  }

  #failAll(error: StvError): void {
    const entries = [...this.#entries.values()];
    this.#entries.clear();
    for (const { receiver } of entries) receiver.fail(error);
  }
}

/**
 * Whom to blame for the death of a host. A suspect's own step has one culprit, and so has a host with one request at work; any other
 * step may have had any of those that do not run alone.
 */
function culprits(lost: readonly Entry[], suspectAtWork: Entry | undefined): readonly Entry[] {
  if (suspectAtWork !== undefined) return [suspectAtWork];
  const [only, ...others] = lost;
  if (only?.hasStarted === true && others.length === 0) return [only];
  return lost.filter(({ isSuspect }) => !isSuspect);
}
