/** `GET /traces`: finished rounds of stored runs as JSON Lines, for training. */
import { Readable } from 'node:stream';
import type { FastifyReply } from 'fastify';
import type { TraceOptions } from '../stv/run-store.ts';
import type { TraceRecord } from '../stv/traces.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { errorAnswers } from './schemas.ts';
import { Trace, tracesQuery } from './schemas-traces.ts';
import { toWire } from './wire.ts';

/** Traces held in memory at a time; each holds whole texts. */
const chunkSize = 50;

export function registerTraces(app: App, deps: RouteDeps): void {
  app.get(
    '/traces',
    {
      config: { scope: 'traces' },
      schema: {
        operationId: 'traces',
        tags: ['loop'],
        summary: 'Finished rounds of stored runs, oldest first, one JSON object a line',
        description:
          'For training. A key with the scope `traces` reads the stored runs of every key. An erased run takes its ' +
          'traces with it. An empty answer means that there is nothing after `after` yet.',
        querystring: tracesQuery,
        response: {
          200: { description: 'One trace a line', content: { 'application/jsonl': { schema: Trace } } },
          ...errorAnswers(400, 401, 403),
        },
      },
    },
    async (request, reply) => {
      const { after, limit = 100, labels = false } = request.query;
      const read = (options: Pick<TraceOptions, 'after' | 'limit'>): Promise<TraceRecord[]> =>
        deps.runs.traces({ ...options, withLabels: labels });
      // what fails at once is an error answer; later only a broken connection can tell
      const first = await read({ after, limit: Math.min(limit, chunkSize) });
      return sendLines(reply, linesOf(first, limit, read));
    },
  );
}

function sendLines(reply: FastifyReply, lines: AsyncIterable<string>): FastifyReply {
  return reply.type('application/jsonl; charset=utf-8').send(Readable.from(lines, { highWaterMark: 2 }));
}

async function* linesOf(
  first: readonly TraceRecord[],
  limit: number,
  read: (options: Pick<TraceOptions, 'after' | 'limit'>) => Promise<TraceRecord[]>,
): AsyncGenerator<string> {
  let page = first;
  let left = limit;
  while (page.length > 0) {
    for (const trace of page) yield `${JSON.stringify({ object: 'trace', ...toWire(trace) })}\n`;
    left -= page.length;
    if (page.length < chunkSize || left <= 0) return;
    page = await read({ after: page.at(-1)?.traceId, limit: Math.min(left, chunkSize) });
  }
}
