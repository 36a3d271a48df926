// What a running server's JavaScript really holds: the objects that are left after a collection, asked of Node's inspector.
import { once } from 'node:events';
import { WebSocket } from 'undici';
import { until } from './report.mjs';

/** For the server's environment: its inspector, which SIGUSR1 starts, takes a free loopback port. */
export const inspectable = { NODE_OPTIONS: '--inspect-port=127.0.0.1:0' };

/** V8's own: functions are compiled, and compiled again, as long as a server lives. */
const compiled = new Set(['code', 'hidden', 'object shape']);

/**
 * Bytes in use after a full collection: `data` is what the program holds, `code` what V8 has compiled for it. The inspector stays
 * open, so that two calls see the same sockets of the server.
 */
export async function heapInUse(server) {
  server.signal('SIGUSR1');
  const address = await until(10_000, () => /Debugger listening on (ws:\S+)/.exec(server.stderr)?.[1]);
  if (address === undefined) throw new Error('The inspector did not start.');
  const socket = new WebSocket(address);
  await once(socket, 'open');
  const parts = [];
  const call = (method) =>
    new Promise((resolve) => {
      const onMessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.method === 'HeapProfiler.addHeapSnapshotChunk') parts.push(message.params.chunk);
        if (message.id !== 1) return;
        socket.removeEventListener('message', onMessage);
        resolve();
      };
      socket.addEventListener('message', onMessage);
      socket.send(JSON.stringify({ id: 1, method }));
    });
  // the second one frees what the finalizers of the first let go
  for (let i = 0; i < 2; i++) await call('HeapProfiler.collectGarbage');
  await call('HeapProfiler.takeHeapSnapshot');
  socket.close();
  return sizes(JSON.parse(parts.join('')));
}

function sizes({ snapshot: { meta }, nodes }) {
  const { node_fields: fields, node_types: types } = meta;
  const [typeAt, sizeAt] = [fields.indexOf('type'), fields.indexOf('self_size')];
  const found = { data: 0, code: 0 };
  for (let node = 0; node < nodes.length; node += fields.length) {
    found[compiled.has(types[typeAt][nodes[node + typeAt]]) ? 'code' : 'data'] += nodes[node + sizeAt];
  }
  return found;
}
