// Requests that note what came and when, and whether a stream ended as the contract says: with exactly one terminal event.
import { createParser } from 'eventsource-parser';
import { Agent, request } from 'undici';

/** No limit of the client may shape what is measured. */
const agent = new Agent({
  connections: 8192,
  pipelining: 1,
  headersTimeout: 0,
  bodyTimeout: 0,
  keepAliveTimeout: 1000,
  // whatever the server would allow
  keepAliveMaxTimeout: 1000,
});

/** Status of a request without a body. */
export async function ask(url, method) {
  const answer = await request(url, { dispatcher: agent, method });
  await answer.body.dump();
  return answer.statusCode;
}

/**
 * One POST, streamed or not, to its end.
 * `kind`: `json`, `openai` or `named` says what a terminal event is. `end`: `answer` (2xx JSON), `refused` (an error with a status),
 * `complete` (terminal event of success), `error` (terminal event of failure), `broken` (the connection ended without one),
 * `cancelled` (the caller's signal).
 */
export async function post(url, route, body, { kind = 'openai', signal, headers = {}, onEvent, onOpen } = {}) {
  const result = { route, startedAt: performance.now(), status: 0, events: [], terminals: 0, end: 'broken' };
  const finish = (end, extra = {}) => Object.assign(result, { end, endedAt: performance.now() }, extra);
  let answer;
  try {
    answer = await request(url + route, {
      dispatcher: agent,
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(kind === 'named' ? { accept: 'text/event-stream' } : {}),
        ...headers,
      },
      body: JSON.stringify(
        kind === 'openai' ? { stream: true, stream_options: { include_usage: true }, ...body } : body,
      ),
      signal,
    });
    result.status = answer.statusCode;
    result.headers = answer.headers;
    result.openedAt = performance.now();
    onOpen?.(result);
    if (!String(answer.headers['content-type']).startsWith('text/event-stream')) {
      const text = await answer.body.text();
      const json = JSON.parse(text);
      return answer.statusCode < 300 ? finish('answer', { json }) : finish('refused', { error: json.error });
    }
    let outcome;
    const parser = createParser({
      onEvent: ({ event, id, data }) => {
        const parsed = data === '[DONE]' ? data : JSON.parse(data);
        const item = { event, id, data: parsed, at: performance.now() };
        result.lastAt = item.at;
        if (result.firstTokenAt === undefined && isText(kind, item)) result.firstTokenAt = item.at;
        if (kind === 'named') result.events.push(item);
        else if (parsed.usage) result.usage = parsed.usage;
        const ending = endingOf(kind, route, item);
        if (ending !== undefined) {
          result.terminals += 1;
          outcome = ending;
          result.error = parsed.error ?? undefined;
        }
        if (parsed === '[DONE]') result.dones = (result.dones ?? 0) + 1;
        onEvent?.(item, result);
      },
    });
    const decoder = new TextDecoder();
    for await (const bytes of answer.body) parser.feed(decoder.decode(bytes, { stream: true }));
    return finish(outcome ?? 'broken');
  } catch (thrown) {
    return finish(signal?.aborted ? 'cancelled' : 'broken', { thrown: thrown.code ?? thrown.message });
  }
}

function isText(kind, { event, data }) {
  if (kind === 'named') return event?.endsWith('-delta') === true;
  const choice = data.choices?.[0];
  return Boolean(choice?.delta?.content || choice?.text);
}

const lastEvents = { '/solve': 'solve-end', '/verify': 'verification-end', '/refine': 'refinement-end' };

function endingOf(kind, route, { event, data }) {
  if (kind === 'named') {
    if (event === 'error') return 'error';
    if (event !== lastEvents[route]) return undefined;
    return data.status === 'failed' ? 'error' : 'complete';
  }
  if (data.error) return 'error';
  return data.choices?.[0]?.finish_reason ? 'complete' : undefined;
}

/** Whether it ended exactly once, as its kind must. */
export function endedOnce({ end, terminals, dones }, kind) {
  if (end === 'answer' || end === 'refused') return true;
  return terminals === 1 && (kind === 'named' || dones === 1);
}

const subjects = ['a train', 'the gardener', 'a class', 'the baker', 'a sailor', 'two friends', 'the engineer'];
const acts = ['counts', 'measures', 'divides', 'compares', 'collects', 'explains', 'draws', 'forgets'];
const things = ['apples', 'rope', 'fractions', 'coins', 'triangles', 'hours', 'litres of paint'];

/** Sentences that differ from the first word on, so that no prefix is shared. */
export function words(seed, count) {
  let state = (seed * 2654435761) >>> 0;
  const pick = (list) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return list[(state >>> 8) % list.length];
  };
  const text = ['Story', `${seed}:`];
  while (text.length < count) text.push(...`${pick(subjects)} ${pick(acts)} ${pick(things)}.`.split(' '));
  return text.slice(0, count).join(' ');
}
