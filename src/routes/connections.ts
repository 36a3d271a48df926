/**
 * What a connection does to the answers that go over it: a client that stops reading is cut off, and an answer whose turn never
 * came ends with its connection. Otherwise neither `finish` nor `close` would come, and whatever waits for them would never be free.
 */
import type { ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import type { App } from './route-deps.ts';

/** `slowReaderMs`: milliseconds for which nothing of what waits may be taken. */
export function watchConnections(app: App, slowReaderMs: number): void {
  const open = new WeakMap<Socket, Set<ServerResponse>>();
  app.addHook('onRequest', async (request, reply) => {
    const { raw } = reply;
    const { socket } = request.raw;
    // injected requests have none
    if (!(socket instanceof Socket)) return;
    // the timeout of the socket counts from its last progress, and is told to the answer whose turn it is
    raw.setTimeout(slowReaderMs, () => {
      const unreadBytes = raw.writableLength;
      // while nothing waits, the silence is the server's own
      if (unreadBytes === 0) return;
      request.log.error({ slowReaderMs, unreadBytes }, 'the reader of an answer took nothing; cut off');
      socket.destroy();
    });
    // ahead of Node's own listener, which sets how long an idle connection is kept
    raw.prependOnceListener('finish', () => socket.setTimeout(0));
    answersOf(socket, open).add(raw);
    raw.once('close', () => open.get(socket)?.delete(raw));
  });
}

/** The answers of a connection that have not ended. */
function answersOf(socket: Socket, open: WeakMap<Socket, Set<ServerResponse>>): Set<ServerResponse> {
  const known = open.get(socket);
  if (known !== undefined) return known;
  const answers = new Set<ServerResponse>();
  open.set(socket, answers);
  socket.once('close', () => {
    for (const raw of answers) {
      // Node tells the one whose turn it is
      if (raw.socket !== null) continue;
      raw.destroy();
      raw.emit('close');
    }
  });
  return answers;
}
