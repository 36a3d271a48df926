/** A model hub on a loopback port: the routes of the real one that a pull uses, with faults on request. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

export interface HubFault {
  /** Close the connection after this many bytes of the file's body; counted down per request. */
  cutAfter?: number;
  /** How many more requests the fault meets. Default: all. */
  times?: number;
  /** Answer without regard to `range`. */
  ignoreRange?: boolean;
  /** Other bytes than the listing promises. */
  content?: Uint8Array;
  status?: number;
  /** Send nothing after the first bytes until the client goes away. */
  stallAfter?: number;
}

export interface HubServer {
  readonly url: string;
  /** Sizes up to 1000 bytes are plain git files, larger ones LFS. */
  readonly files: Map<string, Uint8Array>;
  readonly faults: Map<string, HubFault>;
  /** `method path range` of every request. */
  readonly requests: string[];
  commit: string;
  /** Wanted in `authorization`, if set. */
  token?: string;
  stop(): Promise<void>;
}

export const REPO = 'acme/tiny';
const LFS_FROM = 1_000;

export async function startHub(files: Readonly<Record<string, Uint8Array | string>>): Promise<HubServer> {
  const server = createServer((request, response) => answer(hub, request, response));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const hub: HubServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    files: new Map(Object.entries(files).map(([name, content]) => [name, Buffer.from(content)])),
    faults: new Map(),
    requests: [],
    commit: 'c'.repeat(40),
    stop: async () => {
      server.closeAllConnections();
      server.close();
      if (server.listening) await once(server, 'close');
    },
  };
  onTestFinished(() => hub.stop());
  return hub;
}

function answer(hub: HubServer, request: IncomingMessage, response: ServerResponse): unknown {
  const { pathname, searchParams } = new URL(request.url ?? '', hub.url);
  hub.requests.push([request.method, pathname, request.headers.range].filter(Boolean).join(' '));
  const json = (status: number, value: unknown): void => {
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
  };
  const isOther = pathname.startsWith('/storage/');
  if (!isOther && hub.token !== undefined && request.headers.authorization !== `Bearer ${hub.token}`) {
    return json(401, { error: 'Invalid username or password.' });
  }
  const known = [hub.commit, 'main', 'v1'];
  const [, info] = new RegExp(`^/api/models/${REPO}/revision/(.+)$`, 'u').exec(pathname) ?? [];
  if (info !== undefined && known.includes(decodeURIComponent(info))) {
    return json(200, {
      _id: '1',
      id: REPO,
      sha: hub.commit,
      private: false,
      downloads: 0,
      likes: 0,
      gated: false,
      lastModified: '2026-01-01T00:00:00Z',
    });
  }
  const [, tree] = new RegExp(`^/api/models/${REPO}/tree/(.+)$`, 'u').exec(pathname) ?? [];
  if (tree !== undefined && known.includes(tree)) {
    const recursive = searchParams.get('recursive') === 'true';
    return json(200, [...hub.files].filter(([name]) => recursive || !name.includes('/')).map(listed));
  }
  const [, revision, name] = new RegExp(`^/${REPO}/resolve/([^/]+)/(.+)$`, 'u').exec(pathname) ?? [];
  if (revision === hub.commit && name !== undefined && hub.files.has(decodeURIComponent(name))) {
    const content = hub.files.get(decodeURIComponent(name)) ?? new Uint8Array();
    if (content.length < LFS_FROM) return send(hub, decodeURIComponent(name), request, response);
    response.writeHead(302, { location: `/storage/${name}` }).end();
    return undefined;
  }
  if (isOther) return send(hub, decodeURIComponent(pathname.slice('/storage/'.length)), request, response);
  return response.writeHead(404, { 'x-error-code': 'RepoNotFound' }).end();
}

function listed([path, content]: readonly [string, Uint8Array]): object {
  const blob = createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');
  if (content.length < LFS_FROM) return { type: 'file', path, size: content.length, oid: blob };
  const oid = createHash('sha256').update(content).digest('hex');
  return {
    type: 'file',
    path,
    size: content.length,
    oid: '0'.repeat(40),
    lfs: { oid, size: content.length, pointerSize: 134 },
  };
}

function send(hub: HubServer, name: string, request: IncomingMessage, response: ServerResponse): void {
  const fault = hub.faults.get(name) ?? {};
  const meets = fault.times === undefined || fault.times-- > 0;
  const { cutAfter, ignoreRange, content, status, stallAfter }: HubFault = meets ? fault : {};
  if (status !== undefined) {
    response.writeHead(status).end();
    return;
  }
  const body = content ?? hub.files.get(name) ?? new Uint8Array();
  const start = ignoreRange === true ? 0 : Number(/^bytes=(\d+)-/u.exec(request.headers.range ?? '')?.[1] ?? 0);
  if (start > 0 && start >= body.length) {
    response.writeHead(416, { 'content-range': `bytes */${body.length}` }).end();
    return;
  }
  const rest = body.subarray(start);
  const headers = { 'content-length': String(rest.length), 'accept-ranges': 'bytes' };
  if (start > 0)
    response.writeHead(206, { ...headers, 'content-range': `bytes ${start}-${body.length - 1}/${body.length}` });
  else response.writeHead(200, headers);
  const sent = cutAfter ?? stallAfter;
  if (sent === undefined || sent >= rest.length) response.end(rest);
  else response.write(rest.subarray(0, sent), () => (cutAfter === undefined ? undefined : response.destroy()));
}
