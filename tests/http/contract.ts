/** Holds answers and events against the committed openapi.json, so that the contract cannot say one thing and the server do another. */
import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import type { InjectOptions, LightMyRequestResponse } from 'fastify';
import { expect } from 'vitest';
import type { App } from '../../src/routes/route-deps.ts';

interface Document {
  readonly paths: Record<string, Record<string, { responses: Record<string, { content?: Record<string, unknown> }> }>>;
  readonly components: { schemas: Record<string, unknown> };
}

export const committed = JSON.parse(
  readFileSync(new URL('../../openapi/openapi.json', import.meta.url), 'utf8'),
) as Document;

const ajv = new Ajv2020({ strict: false, allErrors: true });
ajv.addSchema(committed, 'contract');

function pointer(...parts: readonly string[]): string {
  return `contract#/${parts.map((part) => encodeURIComponent(part.replaceAll('~', '~0').replaceAll('/', '~1'))).join('/')}`;
}

function expectValid(value: unknown, at: string): void {
  const validate = ajv.getSchema(at);
  if (validate === undefined) throw new Error(`the contract has no schema at ${at}`);
  validate(value);
  expect(validate.errors ?? [], `${at}: ${JSON.stringify(value)?.slice(0, 500)}`).toEqual([]);
}

/** The template of the contract that a concrete path belongs to. */
function templateOf(url: string): string | undefined {
  const path = url.split('?', 1)[0] ?? '';
  const templates = Object.keys(committed.paths);
  const fits = (template: string): boolean =>
    new RegExp(`^${template.replace('{model}', '.+').replaceAll(/\{\w+\}/g, '[^/]+')}$`).test(path);
  return templates.find((template) => template === path) ?? templates.find(fits);
}

/** The JSON body of an answer must fit what the contract gives for its route and status; errors fit everywhere. */
export function expectContract(method: string, url: string, status: number, body: unknown): void {
  const template = templateOf(url);
  const operation = template === undefined ? undefined : committed.paths[template]?.[method.toLowerCase()];
  if (operation === undefined) {
    expectValid(body, pointer('components', 'schemas', 'Error'));
    return;
  }
  expect(Object.keys(operation.responses), `${method} ${url} answers ${status}`).toContain(String(status));
  expectValid(
    body,
    pointer(
      'paths',
      template as string,
      method.toLowerCase(),
      'responses',
      String(status),
      'content',
      'application/json',
      'schema',
    ),
  );
}

const terminalComponents: Readonly<Record<string, string>> = {
  'verification-end': 'Verification',
  'refinement-end': 'Refinement',
  error: 'Error',
};

/** The data of an event of `/verify`, `/refine` or `/solve`. */
export function expectEvent(route: 'verify' | 'refine' | 'solve', name: string | undefined, data: unknown): void {
  const pascal = `${route}-${name}`.replaceAll(/(?:^|-)([a-z])/g, (_, letter: string) => letter.toUpperCase());
  const terminal = route === 'solve' && name === 'verification-end' ? undefined : terminalComponents[name ?? ''];
  expectValid(data, pointer('components', 'schemas', terminal ?? `${pascal}Event`));
}

export function expectComponent(name: string, value: unknown): void {
  expectValid(value, pointer('components', 'schemas', name));
}

/** `inject`, with the JSON answer checked against the contract. */
export async function call(
  app: App,
  options: InjectOptions & { readonly url: string },
): Promise<LightMyRequestResponse> {
  const answer = await app.inject(options);
  if (String(answer.headers['content-type'] ?? '').startsWith('application/json') && options.url !== '/openapi.json') {
    expectContract(options.method ?? 'GET', options.url, answer.statusCode, answer.json());
  }
  return answer;
}

export function post(app: App, url: string, payload: object, headers: Record<string, string> = {}) {
  return call(app, { method: 'POST', url, payload, headers });
}

export interface ParsedEvent {
  readonly event: string | undefined;
  readonly id: string | undefined;
  readonly data: unknown;
}

/** Events of a complete stream body; comments are left out. */
export function parseEvents(body: string): ParsedEvent[] {
  return body
    .split('\n\n')
    .filter((block) => block !== '' && !block.startsWith(':'))
    .map((block) => {
      const field = (name: string): string | undefined =>
        block
          .split('\n')
          .filter((line) => line.startsWith(`${name}: `))
          .map((line) => line.slice(name.length + 2))
          .join('\n') || undefined;
      const data = field('data') ?? '';
      return { event: field('event'), id: field('id'), data: data === '[DONE]' ? data : (JSON.parse(data) as unknown) };
    });
}
