/**
 * Server-sent events: one write per event, early headers, heartbeat comments, back-pressure (`connections.ts` cuts off readers that
 * take nothing), and the socket's closing as an AbortSignal. Knows no event by name.
 */
import type { ServerResponse } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { codeOf, toWireError, type WireError } from './error-handler.ts';
import type { RouteDeps } from './route-deps.ts';

export interface Frame {
  readonly event?: string;
  readonly id?: number;
  /** One line: JSON, or `[DONE]`. */
  readonly data: string;
}

/** The bytes of one event. Names come from our own code; a line break in one would forge another field. */
export function encodeFrame(frame: Frame): string {
  if (frame.event !== undefined && /[\r\n]/.test(frame.event)) throw new Error('line break in an event name');
  const event = frame.event === undefined ? '' : `event: ${frame.event}\n`;
  const id = frame.id === undefined ? '' : `id: ${frame.id}\n`;
  const data = frame.data
    .split(/\r\n|\r|\n/)
    .map((line) => `data: ${line}\n`)
    .join('');
  return `${event}${id}${data}\n`;
}

/** Aborts when the client goes away before the answer is complete, whatever phase the request is in. */
export function clientSignal(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  const { raw } = reply;
  const onClose = (): void => {
    if (!raw.writableEnded) controller.abort(new Error('the client closed the connection'));
  };
  if (raw.destroyed || raw.closed) onClose();
  else raw.once('close', onClose);
  return controller.signal;
}

export interface StreamOptions {
  readonly deps: Pick<RouteDeps, 'config' | 'metrics'>;
  /** How long a failure may still become a status instead of an `error` event; then the headers go out. */
  readonly headerDelayMs?: number;
  readonly signal: AbortSignal;
  /** Frames that end a stream in which `error` was thrown. */
  readonly onError: (error: WireError) => readonly Frame[];
}

/**
 * Sends `frames` as the answer. A failure before the first frame (and before `headerDelayMs`) is thrown, so that it gets its
 * status; later ones end the stream through `onError`. Resolves when the stream has ended, for whatever reason.
 */
export async function sendEvents(
  request: FastifyRequest,
  reply: FastifyReply,
  frames: AsyncIterable<Frame>,
  options: StreamOptions,
): Promise<void> {
  const { metrics } = options.deps;
  metrics.openStreams(1);
  try {
    await send(request, reply, frames, options);
  } finally {
    metrics.openStreams(-1);
  }
}

async function send(
  request: FastifyRequest,
  reply: FastifyReply,
  frames: AsyncIterable<Frame>,
  options: StreamOptions,
): Promise<void> {
  const iterator = frames[Symbol.asyncIterator]();
  const first = iterator.next();
  // A rejection is handled by whoever awaits `first` below; this only keeps the early one from counting as unhandled.
  first.catch(() => {});
  await settledWithin(first, options.headerDelayMs ?? 2000);

  const stream = openStream(reply, options);
  try {
    let next = await first;
    while (!next.done && !options.signal.aborted) {
      await stream.write(encodeFrame(next.value));
      if (options.signal.aborted) break;
      next = await iterator.next();
    }
  } catch (thrown) {
    if (!options.signal.aborted) {
      const wire = toWireError(thrown, request.id);
      options.deps.metrics.countError(codeOf(wire));
      request.log.warn({ code: wire.body.error.code, err: wire.status === 500 ? thrown : undefined }, 'stream failed');
      for (const frame of options.onError(wire)) await stream.write(encodeFrame(frame));
    }
  } finally {
    await iterator.return?.();
    stream.end();
  }
}

/** Waits for a promise, but no longer than `ms`; throws what it threw, if that was in time. */
async function settledWithin(promise: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  try {
    await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

interface OpenStream {
  write(chunk: string): Promise<void>;
  end(): void;
}

function openStream(reply: FastifyReply, options: StreamOptions): OpenStream {
  const raw = reply.raw;
  reply.hijack();
  raw.writeHead(200, {
    ...(reply.getHeaders() as Record<string, string>),
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    'x-accel-buffering': 'no',
  });
  raw.flushHeaders();
  const heartbeat = setTimeout(() => {
    heartbeat.refresh();
    // a reader behind on events needs no comments
    if (!raw.writableNeedDrain && !raw.writableEnded) raw.write(': keep-alive\n\n');
  }, options.deps.config.heartbeatMs);
  heartbeat.unref();
  return {
    async write(chunk) {
      if (options.signal.aborted || raw.destroyed) return;
      heartbeat.refresh();
      if (!raw.write(chunk)) await drained(raw);
    },
    end() {
      clearTimeout(heartbeat);
      if (!raw.destroyed) raw.end();
    },
  };
}

/** Waits until the reader has taken what was written, or the connection is closed. */
function drained(raw: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      raw.off('drain', done);
      raw.off('close', done);
      resolve();
    };
    raw.once('drain', done);
    raw.once('close', done);
    if (raw.destroyed) done();
  });
}
