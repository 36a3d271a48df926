/**
 * Keeps one engine host alive: starts it, notices its death or its silence, ends what is left of it and starts another with
 * growing pauses. Knows nothing of requests; the owner is told once for each host that went down.
 */
import { StvError } from '../errors.ts';
import type { HostLink, SpawnHost } from './host-link.ts';
import type { FromHost, HostModel, HostModelReady, ToHost } from './messages.ts';

export interface SupervisorOptions {
  readonly spawn: SpawnHost;
  readonly models: readonly HostModel[];
  /** Silence for so long while the host has work, or has not answered what it was sent, means that it hangs. */
  readonly hangAfterMs: number;
  /** Loading may take this long. */
  readonly loadTimeoutMs: number;
  readonly minRestartDelayMs: number;
  readonly maxRestartDelayMs: number;
  /** How long a host may take to end by itself. Default 3 s. */
  readonly shutdownGraceMs?: number;
  /** Whether somebody waits for the host. */
  readonly hasWork: () => boolean;
  readonly onMessage: (message: FromHost) => void;
  readonly onReady: (models: readonly HostModelReady[], loadMs: number) => void;
  /** The host is gone; a new one follows after `retryAfterMs` or so. */
  readonly onDown: (event: 'crashed' | 'hung', detail: string, livedMs: number) => void;
  readonly now: () => number;
}

export type SupervisorState = 'loading' | 'ready' | 'restarting' | 'closed';

/** A host that has lived so long is not part of a series of failures. */
const STABLE_AFTER_MS = 60_000;
const DEFAULT_SHUTDOWN_GRACE_MS = 3000;
/** Shortest time to ask anyone to wait; also where loading takes longer than it did before. */
const MIN_RETRY_MS = 250;
/** What loading is taken for at least. */
const MIN_LOAD_MS = 500;

export class Supervisor {
  readonly #options: SupervisorOptions;
  #state: SupervisorState = 'loading';
  #reason: string | undefined = 'The models are loading.';
  #link: HostLink | undefined;
  #watch: NodeJS.Timeout | undefined;
  #restart: NodeJS.Timeout | undefined;
  #spawnedAtMs = 0;
  #readyAtMs = 0;
  #lastSignAtMs = 0;
  /** Something was sent and nothing has come since. Every message has an answer: an abort too is followed by a step or `slots`. */
  #isAnswerDue = false;
  #loadMs = 0;
  #checkedAtMs = 0;
  /** When the next host will probably be ready. */
  #expectedAtMs = 0;
  #numFailures = 0;
  #isHung = false;
  #fatal: StvError | undefined;
  #settleStart: { resolve(): void; reject(error: StvError): void } | undefined;
  #onClosed: (() => void) | undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  get state(): SupervisorState {
    return this.#state;
  }

  /** Why it is not ready. */
  get reason(): string | undefined {
    return this.#reason;
  }

  get pid(): number | undefined {
    return this.#link?.pid;
  }

  /** When a new host can be expected, from now. */
  get retryAfterMs(): number {
    return Math.round(Math.max(MIN_RETRY_MS, this.#expectedAtMs - this.#options.now()));
  }

  /** Resolves when the first host is ready. Rejects if it cannot load: then trying again would not help. */
  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#settleStart = { resolve, reject };
      this.#spawn();
      this.#checkedAtMs = this.#options.now();
      this.#watch = setInterval(() => this.#check(), this.#checkIntervalMs);
      this.#watch.unref();
    });
  }

  /**
   * Only while `ready`. Starts the clock of silence unless the host owes something already: call before what begins counts as work,
   * and while what is given up still does.
   */
  send(message: ToHost): void {
    if (!this.#owes) this.#lastSignAtMs = this.#options.now();
    this.#isAnswerDue = true;
    this.#link?.send(message);
  }

  /** Asks the host to end and makes sure that it does. */
  async close(): Promise<void> {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#reason = 'The engine is closed.';
    clearInterval(this.#watch);
    clearTimeout(this.#restart);
    this.#settleStart?.reject(new StvError('draining', 'The engine was closed while it was loading.'));
    this.#settleStart = undefined;
    const link = this.#link;
    if (link === undefined) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => link.kill(), this.#options.shutdownGraceMs ?? DEFAULT_SHUTDOWN_GRACE_MS);
      this.#onClosed = () => {
        clearTimeout(timer);
        resolve();
      };
      link.send({ type: 'shutdown' });
    });
  }

  #spawn(): void {
    this.#spawnedAtMs = this.#options.now();
    this.#lastSignAtMs = this.#spawnedAtMs;
    this.#isAnswerDue = false;
    this.#isHung = false;
    this.#fatal = undefined;
    const link = this.#options.spawn({
      onMessage: (message) => {
        if (this.#link === link) this.#receive(message);
      },
      onExit: (detail) => {
        if (this.#link === link) this.#lost(detail);
      },
    });
    this.#link = link;
    link.send({ type: 'load', models: this.#options.models });
  }

  #receive(message: FromHost): void {
    this.#lastSignAtMs = this.#options.now();
    this.#isAnswerDue = false;
    if (message.type === 'ready') {
      this.#readyAtMs = this.#lastSignAtMs;
      this.#loadMs = this.#readyAtMs - this.#spawnedAtMs;
      if (this.#state === 'closed') return;
      this.#state = 'ready';
      this.#reason = undefined;
      this.#options.onReady(message.models, this.#loadMs);
      this.#settleStart?.resolve();
      this.#settleStart = undefined;
    } else if (message.type === 'fatal') {
      this.#fatal = new StvError(message.code, message.message);
    }
    this.#options.onMessage(message);
  }

  #lost(detail: string): void {
    this.#link = undefined;
    if (this.#state === 'closed') {
      this.#onClosed?.();
      return;
    }
    if (this.#settleStart !== undefined) {
      this.#state = 'closed';
      this.#reason = this.#fatal?.message ?? `The engine host ended while it was loading (${detail}).`;
      clearInterval(this.#watch);
      this.#settleStart.reject(this.#fatal ?? new StvError('runtime_failed', this.#reason));
      return;
    }
    const wasReady = this.#state === 'ready';
    const event = this.#isHung ? 'hung' : 'crashed';
    if (wasReady && this.#options.now() - this.#readyAtMs > STABLE_AFTER_MS) this.#numFailures = 0;
    this.#state = 'restarting';
    this.#reason = `The engine host ${event === 'hung' ? 'hung' : 'crashed'} (${this.#fatal?.message ?? detail}) and is starting again.`;
    const delayMs = this.#restartDelayMs();
    this.#expectedAtMs = this.#options.now() + delayMs + Math.max(this.#loadMs, MIN_LOAD_MS);
    this.#restart = setTimeout(() => this.#spawn(), delayMs);
    this.#options.onDown(event, this.#fatal?.message ?? detail, this.#options.now() - this.#spawnedAtMs);
    this.#numFailures++;
  }

  #restartDelayMs(): number {
    const { minRestartDelayMs, maxRestartDelayMs } = this.#options;
    return Math.min(maxRestartDelayMs, minRestartDelayMs * 2 ** this.#numFailures);
  }

  /** Who gives up takes the work away, not the debt: else a host that hangs would live for as long as nobody has patience. */
  get #owes(): boolean {
    return this.#isAnswerDue || this.#options.hasWork();
  }

  get #checkIntervalMs(): number {
    return Math.max(10, Math.min(250, this.#options.hangAfterMs / 4));
  }

  #check(): void {
    const nowMs = this.#options.now();
    // Where this process stood still (paused, or busy with one thing) so did its clock of the host, whose messages are still unread.
    const stoodStillMs = nowMs - this.#checkedAtMs - this.#checkIntervalMs;
    this.#checkedAtMs = nowMs;
    if (stoodStillMs > this.#checkIntervalMs) {
      this.#lastSignAtMs += stoodStillMs;
      this.#spawnedAtMs += stoodStillMs;
    }
    const isLoading = this.#link !== undefined && this.#state !== 'ready';
    const isSilent = isLoading
      ? nowMs - this.#spawnedAtMs > this.#options.loadTimeoutMs
      : this.#state === 'ready' && this.#owes && nowMs - this.#lastSignAtMs > this.#options.hangAfterMs;
    if (!isSilent || this.#isHung) return;
    this.#isHung = true;
    this.#link?.kill();
  }
}
