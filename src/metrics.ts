/**
 * Prometheus metrics: the only import of prom-client. Others hand over plain facts; labels come from fixed sets, never from
 * what a user wrote. Base units, `_total` for counters.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineStatus } from './engine/engine.ts';
import type { EngineStats } from './engine/engine-stats.ts';
import { EngineGauges, type Teller } from './metrics-engines.ts';
import { addModelMetrics, forgetModels } from './metrics-models.ts';
import { addRemoteMetrics } from './metrics-remote.ts';
import type { ModelSwap } from './model-swap.ts';
import type { SolveEvent } from './stv/solve-events.ts';
import type { RoleUsage } from './stv/usage.ts';

export interface Metrics {
  /** The exposition text and its content type. */
  expose(): Promise<{ readonly contentType: string; readonly text: string }>;
  observeHttp(route: string, method: string, status: number, seconds: number): void;
  countError(code: string): void;
  observeVerification(mode: 'full' | 'score', verdict: string, agreement: number): void;
  observeSolveEvent(event: SolveEvent): void;
  /** `engine`: the one that tells it; absent = the only one. */
  observeEngine(stats: EngineStats, engine?: Teller): void;
  /** Streams that are open now. */
  openStreams(change: 1 | -1): void;
  /** Asked at each scrape; set when the engine is there. */
  setEngineStatus(source: () => EngineStatus): void;
  /** Asked at each scrape what is loaded. */
  setModels(models: ModelSwap): void;
  /** Asked at each scrape how many runs go on. */
  setRuns(runs: { readonly numLive: number }): void;
}

type Stats<T extends EngineStats['type']> = Extract<EngineStats, { readonly type: T }>;

const latencyBuckets = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640];

const lagResolutionMs = 10;

const theOnlyEngine: Teller = {};

export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry, prefix: 'stv_' });
  const http = new Histogram({
    name: 'stv_http_request_duration_seconds',
    help: 'Time from the first byte of a request to the last of its answer',
    labelNames: ['route', 'method', 'status'],
    buckets: latencyBuckets,
    registers,
  });
  const errors = new Counter({
    name: 'stv_errors_total',
    help: 'Errors answered, by code',
    labelNames: ['code'],
    registers,
  });
  const verdicts = new Counter({
    name: 'stv_verdicts_total',
    help: 'Verdicts given',
    labelNames: ['verdict', 'mode'],
    registers,
  });
  const agreement = new Histogram({
    name: 'stv_verifier_agreement_ratio',
    help: 'Share of the votes cast that equal the verdict',
    buckets: [0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1],
    registers,
  });
  const solves = new Counter({
    name: 'stv_solves_total',
    help: 'Runs ended, by status',
    labelNames: ['status', 'stop_reason'],
    registers,
  });
  const rounds = new Histogram({
    name: 'stv_solve_rounds',
    help: 'Rounds of the chain that gave the solution, by how the run ended (accepted: rounds to acceptance)',
    labelNames: ['status'],
    buckets: [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 50, 101],
    registers,
  });
  const roundVerdicts = new Counter({
    name: 'stv_solve_round_verdicts_total',
    help: 'Verdicts by round of the loop (rounds from 10 on together)',
    labelNames: ['round', 'verdict'],
    registers,
  });
  const tokens = new Counter({
    name: 'stv_tokens_total',
    help: 'Tokens of ended runs, by role and kind',
    labelNames: ['role', 'kind'],
    registers,
  });
  new Gauge({
    name: 'stv_solves_running',
    help: 'Runs under way in this process',
    registers,
    collect() {
      this.set(runs?.numLive ?? 0);
    },
  });
  const streams = new Gauge({ name: 'stv_open_streams', help: 'Event streams open', registers });
  const requests = new Counter({
    name: 'stv_requests_total',
    help: 'Engine requests ended, by finish reason',
    labelNames: ['model', 'kind', 'finish_reason'],
    registers,
  });
  const engineErrors = new Counter({
    name: 'stv_engine_errors_total',
    help: 'Engine requests that ended with an error',
    labelNames: ['model', 'code'],
    registers,
  });
  const byModel = { labelNames: ['model'], registers };
  const promptTokens = new Counter({ name: 'stv_prompt_tokens_total', help: 'Prompt tokens', ...byModel });
  const outputTokens = new Counter({ name: 'stv_output_tokens_total', help: 'Generated tokens', ...byModel });
  const hitTokens = new Counter({
    name: 'stv_prefix_cache_hit_tokens_total',
    help: 'Prompt tokens whose cache was reused',
    ...byModel,
  });
  const queryTokens = new Counter({
    name: 'stv_prefix_cache_query_tokens_total',
    help: 'Prompt tokens that were looked up in the prefix cache',
    ...byModel,
  });
  const drafted = new Counter({
    name: 'stv_prediction_tokens_total',
    help: 'Guessed tokens that were verified, by outcome; from the prediction of the request, or from what its text repeats',
    labelNames: ['model', 'source', 'outcome'],
    registers,
  });
  const queue = new Histogram({
    name: 'stv_queue_duration_seconds',
    help: 'Time a request waited for its first step',
    labelNames: ['model'],
    buckets: latencyBuckets,
    registers,
  });
  const firstToken = new Histogram({
    name: 'stv_time_to_first_token_seconds',
    help: 'Time from the call to the first token',
    labelNames: ['model'],
    buckets: latencyBuckets,
    registers,
  });
  const interToken = new Histogram({
    name: 'stv_inter_token_latency_seconds',
    help: 'Mean time per output token after the first, of each request',
    labelNames: ['model'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56],
    registers,
  });
  const duration = new Histogram({
    name: 'stv_request_duration_seconds',
    help: 'Time from the call to the end of an engine request',
    labelNames: ['model'],
    buckets: latencyBuckets,
    registers,
  });
  const steps = new Histogram({
    name: 'stv_step_duration_seconds',
    help: 'Time of one step in the engine host',
    labelNames: ['model', 'part'],
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
    registers,
  });
  const width = new Histogram({
    name: 'stv_step_sequences',
    help: 'Sequences in a step',
    labelNames: ['model'],
    buckets: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32],
    registers,
  });
  const stepTokens = new Counter({
    name: 'stv_step_tokens_total',
    help: 'Tokens computed, by kind',
    labelNames: ['model', 'kind'],
    registers,
  });
  const preemptions = new Counter({
    name: 'stv_preemptions_total',
    help: 'Sequences sent back to the queue',
    ...byModel,
  });
  const evictions = new Counter({ name: 'stv_evictions_total', help: 'Cached prefixes given up', ...byModel });
  const hostEvents = new Counter({
    name: 'stv_engine_host_events_total',
    help: 'Starts, crashes and hangs of the engine host',
    labelNames: ['event'],
    registers,
  });
  const gauges = new EngineGauges(registry);
  /** What is counted by model. */
  const ofModels = [
    requests,
    engineErrors,
    promptTokens,
    outputTokens,
    hitTokens,
    queryTokens,
    drafted,
    queue,
    firstToken,
    interToken,
    duration,
    steps,
    width,
    stepTokens,
    preemptions,
    evictions,
  ];

  const lag = monitorEventLoopDelay({ resolution: lagResolutionMs });
  lag.enable();
  // what is measured is the time between two timers, their own interval included
  const lagSeconds = (ns: number): number => Math.max(0, ns / 1e9 - lagResolutionMs / 1000);
  new Gauge({
    name: 'stv_event_loop_lag_seconds',
    help: 'Delay of the event loop since the last scrape',
    labelNames: ['quantile'],
    registers,
    collect() {
      for (const [quantile, percentile] of [
        ['0.5', 50],
        ['0.99', 99],
      ] as const) {
        this.set({ quantile }, lagSeconds(lag.percentile(percentile)));
      }
      this.set({ quantile: '1' }, lagSeconds(lag.max));
      lag.reset();
    },
  });

  let engineStatus: (() => EngineStatus) | undefined;
  new Gauge({
    name: 'stv_sequences_running',
    help: 'Sequences in the batch',
    registers,
    collect() {
      this.set(engineStatus?.().running ?? 0);
    },
  });
  new Gauge({
    name: 'stv_sequences_waiting',
    help: 'Sequences in the queue',
    registers,
    collect() {
      this.set(engineStatus?.().waiting ?? 0);
    },
  });
  new Gauge({
    name: 'stv_last_token_age_seconds',
    help: 'Age of the last token; 0 before the first',
    registers,
    collect() {
      this.set((engineStatus?.().lastTokenMsAgo ?? 0) / 1000);
    },
  });

  let models: ModelSwap | undefined;
  let runs: { readonly numLive: number } | undefined;
  addModelMetrics(registry, () => models);
  addRemoteMetrics(registry, () => engineStatus?.().remotes ?? []);

  function addTokens(role: string, usage: RoleUsage['generator']): void {
    tokens.inc({ role, kind: 'prompt' }, usage.promptTokens);
    tokens.inc({ role, kind: 'cached' }, usage.promptTokensDetails.cachedTokens);
    tokens.inc({ role, kind: 'completion' }, usage.completionTokens);
  }

  function observeRequest({ model, kind, finishReason, usage, timings, firstTokenMs }: Stats<'request'>): void {
    requests.inc({ model, kind, finish_reason: finishReason });
    promptTokens.inc({ model }, usage.promptTokens);
    outputTokens.inc({ model }, usage.completionTokens);
    drafted.inc({ model, source: 'prediction', outcome: 'accepted' }, usage.acceptedPredictionTokens);
    drafted.inc({ model, source: 'prediction', outcome: 'rejected' }, usage.rejectedPredictionTokens);
    queue.observe({ model }, timings.queueMs / 1000);
    duration.observe({ model }, (timings.queueMs + timings.prefillMs + timings.decodeMs) / 1000);
    if (kind === 'generate' && firstTokenMs !== undefined) firstToken.observe({ model }, firstTokenMs / 1000);
    if (usage.completionTokens > 1) {
      interToken.observe({ model }, timings.decodeMs / 1000 / (usage.completionTokens - 1));
    }
  }

  function observeStep(step: Stats<'step'>): void {
    const { model } = step;
    steps.observe({ model, part: 'forward' }, step.forwardMs / 1000);
    steps.observe({ model, part: 'outside' }, step.outsideMs / 1000);
    width.observe({ model }, step.numLanes);
    stepTokens.inc({ model, kind: 'prompt' }, step.numPromptTokens);
    stepTokens.inc({ model, kind: 'output' }, step.numOutputTokens);
    const accepted = step.numRepeatAcceptedTokens;
    drafted.inc({ model, source: 'repeat', outcome: 'accepted' }, accepted);
    drafted.inc({ model, source: 'repeat', outcome: 'rejected' }, step.numRepeatDraftTokens - accepted);
    hitTokens.inc({ model }, step.prefixHitTokens);
    queryTokens.inc({ model }, step.prefixQueryTokens);
    preemptions.inc({ model }, step.numPreemptions);
    evictions.inc({ model }, step.numEvictions);
  }

  return {
    async expose() {
      if (models?.current !== undefined) {
        const loaded = [models.current, ...models.draining].map(({ engine }) => engine);
        gauges.keep(new Set(loaded));
        await forgetModels(ofModels, new Set(loaded.flatMap((engine) => engine.models()).map(({ name }) => name)));
      }
      return { contentType: registry.contentType, text: await registry.metrics() };
    },
    observeHttp: (route, method, status, seconds) => http.observe({ route, method, status }, seconds),
    countError: (code) => errors.inc({ code }),
    observeVerification(mode, verdict, agreed) {
      verdicts.inc({ verdict, mode });
      agreement.observe(agreed);
    },
    observeSolveEvent(event) {
      if (event.type === 'verification-end') {
        verdicts.inc({ verdict: event.verdict, mode: 'solve' });
        agreement.observe(event.agreement);
        roundVerdicts.inc({ round: event.round < 10 ? String(event.round) : '10+', verdict: event.verdict });
      }
      if (event.type !== 'solve-end') return;
      solves.inc({ status: event.status, stop_reason: event.stopReason ?? 'none' });
      if (event.round !== null) rounds.observe({ status: event.status }, event.round + 1);
      addTokens('generator', event.usage.generator);
      addTokens('verifier', event.usage.verifier);
    },
    observeEngine(stats, engine = theOnlyEngine) {
      gauges.observe(stats, engine);
      switch (stats.type) {
        case 'request':
          observeRequest(stats);
          break;
        case 'step':
          observeStep(stats);
          break;
        case 'error':
          engineErrors.inc({ model: stats.model, code: stats.code });
          break;
        case 'host':
          hostEvents.inc({ event: stats.event });
          break;
        // held at the moment, not counted
        case 'slots':
        case 'queue':
          break;
      }
    },
    openStreams: (change) => streams.inc(change),
    setEngineStatus(source) {
      engineStatus = source;
    },
    setModels(source) {
      models = source;
    },
    setRuns(source) {
      runs = source;
    },
  };
}
