// What a running server's JavaScript really holds: its heap after a collection, asked of Node's inspector.
import { WebSocket } from 'undici';
import { until } from './report.mjs';

/** For the server's environment: its inspector, which SIGUSR1 starts, takes a free loopback port. */
export const inspectable = { NODE_OPTIONS: '--inspect-port=127.0.0.1:0' };

/** Bytes in use after a full collection. The inspector stays open, so that two calls see the same sockets of the server. */
export async function heapInUse(server) {
  server.signal('SIGUSR1');
  const address = () => /Debugger listening on (ws:\S+)/.exec(server.stderr)?.[1];
  if (!(await until(10_000, async () => address() !== undefined, 20))) throw new Error('The inspector did not start.');
  const socket = new WebSocket(address());
  const answers = new Map();
  socket.addEventListener('message', ({ data }) => {
    const { id, result } = JSON.parse(data);
    answers.get(id)?.(result);
  });
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve);
    socket.addEventListener('error', reject);
  });
  const call = (method, params = {}) =>
    new Promise((resolve) => {
      const id = answers.size + 1;
      answers.set(id, resolve);
      socket.send(JSON.stringify({ id, method, params }));
    });
  // the second one frees what the finalizers of the first let go
  for (let i = 0; i < 2; i++) await call('HeapProfiler.collectGarbage');
  const { result } = await call('Runtime.evaluate', { expression: 'process.memoryUsage().heapUsed' });
  socket.close();
  return result.value;
}
