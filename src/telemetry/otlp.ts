/** The only module that knows OpenTelemetry: spans of runs, sent in batches over OTLP/HTTP. Touches no global state. */
import { type Context, ROOT_CONTEXT, SpanStatusCode, trace } from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BatchSpanProcessor, NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import { ATTR_SERVICE_NAME, ATTR_SERVICE_VERSION } from '@opentelemetry/semantic-conventions';
import { StvError } from '../errors.ts';
import type { Span, SpanAttributes, SpanName } from '../stv/spans.ts';
import { version } from '../version.ts';
import { parseTraceparent, type Telemetry } from './telemetry.ts';

/** How long a shutdown waits for a collector that does not answer. */
const closeMs = 3000;

/** `base` is the collector's address; `/v1/traces` is added. Headers come from OTEL_EXPORTER_OTLP_HEADERS, as elsewhere. */
export function createTelemetry(base: URL): Telemetry {
  const url = `${base.href.replace(/\/+$/, '')}/v1/traces`;
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({
      [ATTR_SERVICE_NAME]: process.env['OTEL_SERVICE_NAME'] ?? 'stv-server',
      [ATTR_SERVICE_VERSION]: version,
    }),
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter({ url, timeoutMillis: closeMs }))],
  });
  const tracer = provider.getTracer('stv-server', version);

  function begin(name: SpanName, attributes: SpanAttributes, parent: Context): Span {
    const span = tracer.startSpan(`stv.${name}`, { attributes: given(attributes) }, parent);
    const context = trace.setSpan(parent, span);
    return {
      child: (childName, childAttributes = {}) => begin(childName, childAttributes, context),
      end(last = {}, error) {
        span.setAttributes(given(last));
        const code = error === undefined ? last['error.type'] : codeOf(error);
        // a message may be about a user's text; a code never is
        if (code !== undefined) span.setAttribute('error.type', code).setStatus({ code: SpanStatusCode.ERROR });
        span.end();
      },
    };
  }

  return {
    startRun({ id, traceparent }, isResumed) {
      return begin('solve', { 'stv.solve_id': id, 'stv.resumed': isResumed }, parentOf(traceparent));
    },
    startCall(name, { id, model, traceparent }) {
      return begin(name, { 'stv.call_id': id, 'gen_ai.request.model': model }, parentOf(traceparent));
    },
    async close() {
      // a collector that is away costs its spans, not the shutdown
      await provider.shutdown().catch(() => {});
    },
  };
}

function parentOf(traceparent: string | undefined): Context {
  const remote = parseTraceparent(traceparent);
  return remote === undefined ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, { ...remote, isRemote: true });
}

function given(attributes: SpanAttributes): Record<string, string | number | boolean> {
  return Object.fromEntries(
    Object.entries(attributes).filter((entry): entry is [string, string | number | boolean] => entry[1] !== undefined),
  );
}

function codeOf(error: unknown): string {
  return error instanceof StvError ? error.code : 'internal';
}
