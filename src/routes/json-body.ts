/** JSON bodies with a bound on nesting, found before anything is built from them. */
import type { FastifyError } from 'fastify';
import { StvError } from '../errors.ts';
import type { App } from './route-deps.ts';

/** The deepest body of the contract has eight levels; tools of clients nest their schemas somewhat deeper. */
const maxDepth = 64;

const forbiddenKey =
  'The body has a key `__proto__`, or a key `prototype` inside `constructor`; neither is allowed anywhere in it.';

/** Replaces the framework's parser by one that looks at the nesting first. */
export function installJsonBodies(app: App): void {
  const parse = app.getDefaultJsonParser('error', 'error');
  app.removeContentTypeParser('application/json');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (depthOf(body as string) > maxDepth) {
      const message = `The body must nest at most ${maxDepth} levels of objects and lists.`;
      done(new StvError('invalid_value', message, { limit: { name: 'json_depth', value: maxDepth } }));
      return;
    }
    void parse(request, body as string, (error, value) => {
      const isForbidden =
        (error as Partial<FastifyError> | null)?.code === 'FST_ERR_CTP_INVALID_JSON_BODY' && isJson(body as string);
      done(isForbidden ? new StvError('invalid_value', forbiddenKey) : error, value);
    });
  });
}

/** Levels of brackets outside of strings, in one pass; stops counting above the bound. What is not JSON is the parser's to say. */
function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  let isText = false;
  for (let index = 0; index < text.length && deepest <= maxDepth; index++) {
    const unit = text.charCodeAt(index);
    if (isText) {
      if (unit === 0x5c) index++;
      else if (unit === 0x22) isText = false;
    } else if (unit === 0x22) isText = true;
    else if (unit === 0x5b || unit === 0x7b) deepest = Math.max(deepest, ++depth);
    else if (unit === 0x5d || unit === 0x7d) depth--;
  }
  return deepest;
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
