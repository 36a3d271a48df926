/**
 * Prometheus metrics: the only import of prom-client. Others hand over plain facts; labels come from fixed sets, never from
 * what a user wrote. Base units, `_total` for counters.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineStatus, FinishReason, Timings, Usage } from './engine/engine.ts';
import type { SolveEvent } from './stv/solve-events.ts';
import type { RoleUsage } from './stv/usage.ts';

export interface FinishedGeneration {
  readonly finishReason: FinishReason;
  readonly usage: Usage;
  readonly timings: Timings;
}

export interface Metrics {
  /** The exposition text and its content type. */
  expose(): Promise<{ readonly contentType: string; readonly text: string }>;
  observeHttp(route: string, method: string, status: number, seconds: number): void;
  countError(code: string): void;
  observeVerification(mode: 'full' | 'score', verdict: string, agreement: number): void;
  observeSolveEvent(event: SolveEvent): void;
  observeGeneration(generation: FinishedGeneration): void;
  /** Streams that are open now. */
  openStreams(change: 1 | -1): void;
  /** Asked at each scrape; set when the engine is there. */
  setEngineSource(source: () => EngineGauges | undefined): void;
}

/** What the engine can tell at a scrape. Counters are totals since its start. */
export interface EngineGauges {
  readonly status: EngineStatus;
  readonly counters: Readonly<Record<string, number>>;
}

const latencyBuckets = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640];

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
    help: 'Rounds of the chain that gave the solution',
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
    help: 'Tokens of ended runs and requests by role and kind',
    labelNames: ['role', 'kind'],
    registers,
  });
  const liveRuns = new Gauge({ name: 'stv_solves_running', help: 'Runs under way', registers });
  const streams = new Gauge({ name: 'stv_open_streams', help: 'Event streams open', registers });
  const requests = new Counter({
    name: 'stv_requests_total',
    help: 'Generations of the /v1 routes ended, by finish reason',
    labelNames: ['finish_reason'],
    registers,
  });
  const queue = new Histogram({
    name: 'stv_queue_duration_seconds',
    help: 'Time a generation waited for its first step',
    buckets: latencyBuckets,
    registers,
  });
  const firstToken = new Histogram({
    name: 'stv_time_to_first_token_seconds',
    help: 'Time from arrival to the first token',
    buckets: latencyBuckets,
    registers,
  });
  const interToken = new Histogram({
    name: 'stv_inter_token_latency_seconds',
    help: 'Mean time per output token after the first',
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56],
    registers,
  });

  const lag = monitorEventLoopDelay({ resolution: 10 });
  lag.enable();
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
        this.set({ quantile }, lag.percentile(percentile) / 1e9);
      }
      this.set({ quantile: '1' }, lag.max / 1e9);
      lag.reset();
    },
  });

  let engineSource: () => EngineGauges | undefined = () => undefined;
  const sequences = new Gauge({
    name: 'stv_sequences_running',
    help: 'Sequences in the batch',
    registers,
    collect() {
      const gauges = engineSource();
      if (gauges === undefined) return;
      this.set(gauges.status.running);
      waiting.set(gauges.status.waiting);
      tokenAge.set((gauges.status.lastTokenMsAgo ?? 0) / 1000);
      for (const [name, value] of Object.entries(gauges.counters)) engineTotals.set({ name }, value);
    },
  });
  sequences.set(0);
  const waiting = new Gauge({ name: 'stv_sequences_waiting', help: 'Sequences in the queue', registers });
  const tokenAge = new Gauge({ name: 'stv_last_token_age_seconds', help: 'Age of the last token', registers });
  const engineTotals = new Gauge({
    name: 'stv_engine_total',
    help: 'Running totals of the engine since its start',
    labelNames: ['name'],
    registers,
  });

  function addTokens(role: string, usage: RoleUsage['generator']): void {
    tokens.inc({ role, kind: 'prompt' }, usage.promptTokens);
    tokens.inc({ role, kind: 'cached' }, usage.promptTokensDetails.cachedTokens);
    tokens.inc({ role, kind: 'completion' }, usage.completionTokens);
  }

  return {
    async expose() {
      return { contentType: registry.contentType, text: await registry.metrics() };
    },
    observeHttp: (route, method, status, seconds) => http.observe({ route, method, status }, seconds),
    countError: (code) => errors.inc({ code }),
    observeVerification(mode, verdict, agreed) {
      verdicts.inc({ verdict, mode });
      agreement.observe(agreed);
    },
    observeSolveEvent(event) {
      if (event.type === 'solve-start') liveRuns.inc();
      if (event.type === 'verification-end') {
        verdicts.inc({ verdict: event.verdict, mode: 'solve' });
        agreement.observe(event.agreement);
        roundVerdicts.inc({ round: event.round < 10 ? String(event.round) : '10+', verdict: event.verdict });
      }
      if (event.type !== 'solve-end') return;
      liveRuns.dec();
      solves.inc({ status: event.status, stop_reason: event.stopReason ?? 'none' });
      if (event.round !== null) rounds.observe(event.round + 1);
      addTokens('generator', event.usage.generator);
      addTokens('verifier', event.usage.verifier);
    },
    observeGeneration({ finishReason, usage, timings }) {
      requests.inc({ finish_reason: finishReason });
      queue.observe(timings.queueMs / 1000);
      if (usage.completionTokens > 0) firstToken.observe((timings.queueMs + timings.prefillMs) / 1000);
      if (usage.completionTokens > 1) interToken.observe(timings.decodeMs / 1000 / (usage.completionTokens - 1));
      tokens.inc({ role: 'direct', kind: 'prompt' }, usage.promptTokens);
      tokens.inc({ role: 'direct', kind: 'cached' }, usage.cachedTokens);
      tokens.inc({ role: 'direct', kind: 'completion' }, usage.completionTokens);
    },
    openStreams: (change) => streams.inc(change),
    setEngineSource(source) {
      engineSource = source;
    },
  };
}
