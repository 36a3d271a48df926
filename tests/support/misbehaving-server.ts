/**
 * An OpenAI-compatible server on loopback that does what a test tells it: behaves by default, and answers each request that a
 * script is queued for with resets, half events, stalls, wrong types. Counts connections and sees who hangs up.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { onTestFinished } from 'vitest';

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: any;
  /** Resolves when the connection of this request is closed by the client before the answer was complete. */
  readonly hungUp: Promise<void>;
  /** Milliseconds, monotonic. */
  readonly atMs: number;
}

/** Writes the answer. Returning without ending it leaves the connection open. */
export type Behaviour = (answer: ServerResponse, request: SeenRequest) => void | Promise<void>;

export interface MisbehavingServer {
  /** Base address with `/v1`. */
  readonly url: string;
  /** Requests of the OpenAI routes that generate; questions at the start are in `asked`. */
  readonly seen: SeenRequest[];
  readonly asked: SeenRequest[];
  readonly numConnections: () => number;
  /** One for each next generating request, in order; after them it behaves. */
  next(...behaviours: readonly Behaviour[]): void;
  /** Answers of other routes (`GET /v1/models`, `POST /tokenize`) by path; a function of the body, or a status. */
  route(path: string, answer: ((body: any) => unknown) | number): void;
  close(): Promise<void>;
}

export async function startMisbehavingServer({
  port = 0,
}: {
  readonly port?: number;
} = {}): Promise<MisbehavingServer> {
  const seen: SeenRequest[] = [];
  const asked: SeenRequest[] = [];
  const queue: Behaviour[] = [];
  const sockets = new Set<Socket>();
  const routes = new Map<string, ((body: any) => unknown) | number>([
    ['/v1/models', () => ({ object: 'list', data: [{ id: 'm', object: 'model', owned_by: 'someone' }] })],
  ]);
  let numConnections = 0;
  const server = createServer((request, answer) => {
    void (async () => {
      let text = '';
      for await (const part of request) text += part;
      const path = request.url ?? '';
      const record: SeenRequest = {
        method: request.method ?? '',
        path,
        headers: request.headers,
        body: text === '' ? undefined : (JSON.parse(text) as unknown),
        hungUp: new Promise((resolve) => {
          answer.on('close', () => {
            if (!answer.writableFinished) resolve();
          });
        }),
        atMs: performance.now(),
      };
      const isGenerating = /\/(?:chat\/)?completions$/.test(path);
      (isGenerating ? seen : asked).push(record);
      if (isGenerating) return (queue.shift() ?? behave())(answer, record);
      const found = routes.get(path) ?? 404;
      if (typeof found === 'number')
        sendJson({ error: { message: 'secret words of the user', code: found } }, found)(answer, record);
      else sendJson(await found(record.body))(answer, record);
    })().catch((error: unknown) => {
      answer.destroy(error as Error);
    });
  });
  server.on('connection', (socket) => {
    numConnections += 1;
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  onTestFinished(close);
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    seen,
    asked,
    numConnections: () => numConnections,
    next: (...behaviours) => void queue.push(...behaviours),
    route: (path, answer) => void routes.set(path, answer),
    close,
  };
}

/** A chunk of a chat answer. */
export function chunk(text: string, more: Readonly<Record<string, unknown>> = {}): string {
  return `data: ${JSON.stringify({
    object: 'chat.completion.chunk',
    choices: [{ index: 0, delta: { content: text }, finish_reason: null, ...more }],
  })}\n\n`;
}

export const finish = (reason = 'stop'): string =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, finish_reason: reason }] })}\n\n`;

export const usage = (prompt: number, completion: number): string =>
  `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: prompt, completion_tokens: completion } })}\n\n`;

export const done = 'data: [DONE]\n\n';

export function stream(answer: ServerResponse): ServerResponse {
  return answer.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
}

/** A whole good answer, word by word. JSON for a request that is not a stream. */
export function behave(words: readonly string[] = ['Two ', 'and ', 'two.']): Behaviour {
  return (answer, { body }) => {
    if (body.stream !== true) {
      const text = words.join('');
      const choice = { index: 0, message: { role: 'assistant', content: text }, text, finish_reason: 'stop' };
      sendJson({ choices: [choice], usage: { prompt_tokens: 9, completion_tokens: words.length } })(answer);
      return;
    }
    stream(answer);
    for (const word of words) answer.write(chunk(word));
    answer.end(finish() + usage(9, words.length) + done);
  };
}

export function sendJson(value: unknown, status = 200, headers: Readonly<Record<string, string>> = {}) {
  return (answer: ServerResponse, _request?: SeenRequest): void => {
    answer.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value));
  };
}

/** Writes these parts, then lets the socket go without an end. */
export function reset(...parts: readonly string[]): Behaviour {
  return async (answer) => {
    if (parts.length > 0) {
      stream(answer);
      for (const part of parts) await new Promise((resolve) => answer.write(part, resolve));
      // let them arrive before the reset overtakes them
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    answer.socket?.resetAndDestroy();
  };
}

/** Writes these parts and then nothing, for ever. */
export function stall(...parts: readonly string[]): Behaviour {
  return (answer) => {
    stream(answer);
    answer.flushHeaders();
    for (const part of parts) answer.write(part);
  };
}

/** Writes this text one character at a time, without hurry. @param before written at once */
export function drip(everyMs: number, text: string, before = ''): Behaviour {
  return async (answer) => {
    stream(answer).write(before === '' ? ':\n' : before);
    for (const char of text) {
      if (answer.destroyed) return;
      answer.write(char);
      await new Promise((resolve) => setTimeout(resolve, everyMs));
    }
    answer.end();
  };
}
