/** A server on loopback that does to its clients what networks and proxies do. Written by hand per test. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: unknown;
}

export interface Misbehaving {
  readonly url: string;
  /** In order of arrival. */
  readonly seen: SeenRequest[];
  /** Connections that their client closed. */
  readonly hungUp: { count: number };
}

export type Behaviour = (request: SeenRequest, response: ServerResponse, index: number) => void | Promise<void>;

/** Listens until the test has finished. */
export async function misbehave(behaviour: Behaviour): Promise<Misbehaving> {
  const seen: SeenRequest[] = [];
  const hungUp = { count: 0 };
  const server = createServer(async (incoming, response) => {
    let text = '';
    for await (const chunk of incoming) text += chunk;
    const { method = '', url = '', headers } = incoming;
    const request = { method, path: url, headers, body: text === '' ? undefined : JSON.parse(text) };
    seen.push(request);
    response.on('close', () => {
      if (!response.writableFinished) hungUp.count += 1;
    });
    await behaviour(request, response, seen.length - 1);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen, hungUp };
}

export function refuse(
  response: ServerResponse,
  status: number,
  error: object,
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify({ error }));
}

export function answer(response: ServerResponse, body: object, status = 200): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

export function openStream(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
  response.flushHeaders();
}

export interface WireEvent {
  readonly event: string;
  readonly id: number;
  readonly data: object;
}

export function frame({ event, id, data }: WireEvent): string {
  return `event: ${event}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** The events of a small run: a start, deltas, an end. */
export function runEvents(numDeltas: number): WireEvent[] {
  const solve_id = 'slv_1';
  const deltas = Array.from({ length: numDeltas }, (_, index) => ({
    event: 'attempt-delta',
    id: index + 2,
    data: { solve_id, chain: 0, round: 0, text: `${index} ` },
  }));
  return [
    { event: 'solve-start', id: 1, data: { solve_id, seed: 1 } },
    ...deltas,
    { event: 'solve-end', id: numDeltas + 2, data: { id: solve_id, solve_id, object: 'solve', status: 'accepted' } },
  ];
}
