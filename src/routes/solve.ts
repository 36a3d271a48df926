/** `POST /solve` and the routes of a run: the loop as JSON, as a stream, in the background; replay, cancel, erase, list. */
import type { FastifyRequest } from 'fastify';
import { StvError } from '../errors.ts';
import type { FoundRun } from '../runs/run-registry.ts';
import { shareTokenOf } from './auth.ts';
import { streamFrames, wantsStream } from './named-events.ts';
import { refusable } from './refusable.ts';
import { makeId } from './request-id.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { answerOrStream, errorAnswers, inferenceErrors, jsonAnswer } from './schemas.ts';
import {
  listQuery,
  replayHeaders,
  Share,
  Solve,
  type SolveBody,
  SolveEvent,
  SolveList,
  SolveState,
  shareQuery,
  solveBody,
  solveHeaders,
  solveParams,
} from './schemas-solve.ts';
import { idempotencyKeyOf, ownerOf, toSolveRequest, traceContextOf } from './solve-request.ts';
import {
  errorOf,
  holdFor,
  isEmptyFailure,
  solveAnswerOf,
  solveFrames,
  wireAnswer,
  wireState,
  wireSummary,
} from './solve-wire.ts';
import { clientSignal } from './sse.ts';

export function registerSolve(app: App, deps: RouteDeps): void {
  const config = { scope: 'infer' } as const;

  app.post(
    '/solve',
    {
      config,
      schema: {
        operationId: 'solve',
        tags: ['loop'],
        summary: 'Run the verification-refinement loop',
        headers: solveHeaders,
        body: solveBody(deps.config),
        response: {
          200: answerOrStream(Solve, SolveEvent, 'The answer, or the events of the run'),
          202: jsonAnswer(SolveState, 'The run goes on in the background'),
          ...inferenceErrors,
          ...errorAnswers(409, 422),
        },
      },
    },
    async (request, reply) => {
      deps.serving.require();
      const body: SolveBody = request.body;
      const isStored = body.store === true || body.background === true;
      const signal = clientSignal(reply);
      const key = idempotencyKeyOf(request);
      const found = await deps.runs.start({
        request: { ...toSolveRequest(body, makeId('slv'), deps.config), ...traceContextOf(request) },
        owner: ownerOf(request),
        isStored,
        label: body.label,
        idempotency: key === undefined ? undefined : { key, body },
      });
      if (isStored) request.leaveQuota?.();
      else if (found.kind === 'live') holdFor(found.live, signal);
      if (body.background === true) {
        reply.code(202);
        return stateOf(found, deps);
      }
      if (wantsStream(request)) {
        const events = deps.runs.events(found, 0, signal);
        // a stored run waits where others are refused
        return streamFrames(request, reply, solveFrames(isStored ? events : refusable(events)), deps, signal);
      }
      return answerOf(found, deps, signal);
    },
  );

  app.get(
    '/solve',
    {
      config,
      schema: {
        operationId: 'listSolves',
        tags: ['loop'],
        summary: 'List stored runs, newest first',
        querystring: listQuery,
        response: { 200: jsonAnswer(SolveList, 'One page of runs'), ...errorAnswers(400, 401, 403, 404) },
      },
    },
    async (request) => {
      const { limit, after } = request.query;
      const { runs, hasMore } = await deps.runs.list(ownerOf(request), limit ?? 20, after);
      return { object: 'list', data: runs.map(wireSummary), has_more: hasMore };
    },
  );

  const shareable = { ...config, isShareable: true } as const;
  const findFor = (request: FastifyRequest, id: string): Promise<FoundRun> => {
    const token = shareTokenOf(request);
    return token === undefined ? deps.runs.find(id, ownerOf(request)) : deps.runs.findShared(id, token);
  };

  app.get(
    '/solve/:id',
    {
      config: shareable,
      schema: {
        operationId: 'getSolve',
        tags: ['loop'],
        summary: 'State or answer of a run',
        params: solveParams,
        querystring: shareQuery,
        response: { 200: jsonAnswer(SolveState, 'The run'), ...errorAnswers(400, 401, 403, 404) },
      },
    },
    async (request) => stateOf(await findFor(request, request.params.id), deps),
  );

  app.get(
    '/solve/:id/events',
    {
      // an answer without a body would hold up its connection until the run ends
      exposeHeadRoute: false,
      config: shareable,
      schema: {
        operationId: 'replaySolve',
        tags: ['loop'],
        summary: 'Replay the events of a run, then follow it',
        description:
          'From the beginning, or after the event that the header `Last-Event-ID` names. An id above that of the newest event is ' +
          'refused. Behind the last event of a run that has ended there is nothing: 204, at which an EventSource stops.',
        params: solveParams,
        querystring: shareQuery,
        headers: replayHeaders,
        response: {
          200: { description: 'The events', content: { 'text/event-stream': { schema: SolveEvent } } },
          204: { description: 'The run has ended and `Last-Event-ID` is its last event' },
          ...errorAnswers(400, 401, 403, 404),
        },
      },
    },
    async (request, reply) => {
      const after = lastEventId(request);
      const found = await findFor(request, request.params.id);
      if (await deps.runs.isReadToEnd(found, after)) return reply.code(204).send();
      const signal = clientSignal(reply);
      return streamFrames(request, reply, solveFrames(deps.runs.events(found, after, signal)), deps, signal);
    },
  );

  app.post(
    '/solve/:id/share',
    {
      config,
      schema: {
        operationId: 'shareSolve',
        tags: ['loop'],
        summary: 'A read-only link to a stored run',
        params: solveParams,
        response: { 200: jsonAnswer(Share, 'The link'), ...errorAnswers(400, 401, 403, 404, 409, 503) },
      },
    },
    async (request) => {
      const { id } = request.params;
      const token = await deps.runs.share(await deps.runs.find(id, ownerOf(request)));
      return { object: 'share', solve_id: id, token, path: `/solve/${id}?token=${token}` };
    },
  );

  app.post(
    '/solve/:id/cancel',
    {
      config,
      schema: {
        operationId: 'cancelSolve',
        tags: ['loop'],
        summary: 'Cancel a live run; never erases',
        description: 'Also a run that goes on at another server of the same database. One that has ended answers 409.',
        params: solveParams,
        response: {
          202: jsonAnswer(SolveState, 'The run is being cancelled'),
          ...errorAnswers(400, 401, 403, 404, 409, 503),
        },
      },
    },
    async (request, reply) => {
      const found = await deps.runs.find(request.params.id, ownerOf(request));
      await deps.runs.cancel(found);
      return reply.code(202).send(await stateOf(found, deps));
    },
  );

  app.delete(
    '/solve/:id',
    {
      config,
      schema: {
        operationId: 'deleteSolve',
        tags: ['loop'],
        summary: 'Cancel a live run (202), erase an ended one (204)',
        description: 'To cancel without ever erasing, use `POST /solve/{id}/cancel`.',
        params: solveParams,
        response: {
          202: jsonAnswer(SolveState, 'The run is being cancelled'),
          204: { description: 'The run and all its texts are erased' },
          ...errorAnswers(400, 401, 403, 404, 503),
        },
      },
    },
    async (request, reply) => {
      const found = await deps.runs.find(request.params.id, ownerOf(request));
      if ((await deps.runs.remove(found)) === 'cancelled') return reply.code(202).send(await stateOf(found, deps));
      return reply.code(204).send();
    },
  );
}

function lastEventId(request: FastifyRequest): number {
  const given = request.headers['last-event-id'];
  if (given === undefined || given === '') return 0;
  if (typeof given === 'string' && /^\d{1,12}$/.test(given)) return Number(given);
  throw new StvError('invalid_value', 'The header Last-Event-ID must hold the number of an event.', {
    param: 'Last-Event-ID',
  });
}

async function stateOf(found: FoundRun, deps: RouteDeps): Promise<Record<string, unknown>> {
  if (found.kind === 'stored') {
    const { stored } = found;
    return wireState(stored.id, stored.created, await deps.runs.stateOf(stored), stored.status);
  }
  const { run, state } = found.live;
  return wireState(run.id, run.created, state, state === undefined ? 'queued' : 'running');
}

/** Waits for the end of the run; the answer is the fold of its events. */
async function answerOf(found: FoundRun, deps: RouteDeps, signal: AbortSignal): Promise<Record<string, unknown>> {
  for await (const event of deps.runs.events(found, 0, signal)) {
    if (event.type !== 'solve-end') continue;
    const answer = solveAnswerOf(event);
    if (answer.error !== null && isEmptyFailure(answer)) throw errorOf(answer.error);
    return wireAnswer(answer);
  }
  if (signal.aborted) throw new StvError('cancelled', 'The client closed the connection.');
  throw new StvError('internal', 'The run ended without an answer.');
}
