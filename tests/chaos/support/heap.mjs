// What a running server's JavaScript really holds: its heap after a collection, asked of Node's inspector.
import { once } from 'node:events';
import { WebSocket } from 'undici';
import { until } from './report.mjs';

/** For the server's environment: its inspector, which SIGUSR1 starts, takes a free loopback port. */
export const inspectable = { NODE_OPTIONS: '--inspect-port=127.0.0.1:0' };

/** Bytes in use after a full collection. The inspector stays open, so that two calls see the same sockets of the server. */
export async function heapInUse(server) {
  server.signal('SIGUSR1');
  const address = await until(10_000, () => /Debugger listening on (ws:\S+)/.exec(server.stderr)?.[1]);
  if (address === undefined) throw new Error('The inspector did not start.');
  const socket = new WebSocket(address);
  await once(socket, 'open');
  const call = async (method, params = {}) => {
    socket.send(JSON.stringify({ id: 1, method, params }));
    const [{ data }] = await once(socket, 'message');
    return JSON.parse(data).result;
  };
  // the second one frees what the finalizers of the first let go
  for (let i = 0; i < 2; i++) await call('HeapProfiler.collectGarbage');
  const { result } = await call('Runtime.evaluate', { expression: 'process.memoryUsage().heapUsed' });
  socket.close();
  return result.value;
}
