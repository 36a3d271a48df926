/** Streams of the OpenAI routes: unnamed events of JSON chunks, an `error` object in place of the rest, `[DONE]` last. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { RouteDeps } from './route-deps.ts';
import { type Frame, sendEvents } from './sse.ts';

const done: Frame = { data: '[DONE]' };

async function* chunkFrames(chunks: AsyncIterable<object>): AsyncGenerator<Frame> {
  for await (const chunk of chunks) yield { data: JSON.stringify(chunk) };
  yield done;
}

export async function streamOpenAi(
  request: FastifyRequest,
  reply: FastifyReply,
  chunks: AsyncIterable<object>,
  deps: RouteDeps,
  signal: AbortSignal,
): Promise<void> {
  await sendEvents(request, reply, chunkFrames(chunks), {
    deps,
    signal,
    onError: (wire) => [{ data: JSON.stringify(wire.body) }, done],
  });
}
