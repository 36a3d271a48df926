/** Streams of our own routes: the event's `type` is its SSE name, the rest its data in snake_case. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { RouteDeps } from './route-deps.ts';
import { type Frame, sendEvents } from './sse.ts';
import { toWire } from './wire.ts';

/** `stream: true` in the body, or a client that accepts event streams. */
export function wantsStream(request: FastifyRequest): boolean {
  const body = request.body as { readonly stream?: boolean } | undefined;
  if (body?.stream !== undefined) return body.stream;
  return (request.headers.accept ?? '').split(',').some((type) => type.trim().startsWith('text/event-stream'));
}

export interface NamedEvent {
  readonly type: string;
}

/** Ids count from 1 where the events have none of their own. */
export async function* namedFrames(
  events: AsyncIterable<NamedEvent & { readonly id?: unknown }>,
): AsyncGenerator<Frame> {
  let count = 0;
  for await (const event of events) {
    count += 1;
    const { type, ...data } = event;
    yield { event: type, id: count, data: JSON.stringify(toWire(data)) };
  }
}

export async function streamNamedEvents(
  request: FastifyRequest,
  reply: FastifyReply,
  events: AsyncIterable<NamedEvent>,
  deps: RouteDeps,
  signal: AbortSignal,
): Promise<void> {
  await streamFrames(request, reply, namedFrames(events), deps, signal);
}

/** Sends frames with the server's timings; a failure in mid-stream becomes the terminal event `error`. */
export async function streamFrames(
  request: FastifyRequest,
  reply: FastifyReply,
  frames: AsyncIterable<Frame>,
  deps: RouteDeps,
  signal: AbortSignal,
): Promise<void> {
  await sendEvents(request, reply, frames, {
    deps,
    signal,
    onError: (wire) => [{ event: 'error', data: JSON.stringify(wire.body) }],
  });
}
