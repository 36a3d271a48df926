/** `/health/*`: three different questions. Alive: the process answers. Ready: both roles can serve. Progress: work moves. */
import { Type } from 'typebox';
import type { Engine } from '../engine/engine.ts';
import { StvError } from '../errors.ts';
import { toWireError } from './error-handler.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { ErrorObject, jsonAnswer, nullable, oneOf, strictObject } from './schemas.ts';

const Live = strictObject({ status: oneOf(['live']) }, { title: 'Live' });
const readyFields = {
  status: oneOf(['ready', 'loading', 'restarting', 'draining', 'failed']),
  reason: nullable(Type.String()),
};
const Ready = strictObject(readyFields, { title: 'Ready' });
/** An error as on every other route, beside what a probe reads. */
const NotReady = strictObject({ ...readyFields, error: ErrorObject }, { title: 'NotReady' });
const milliseconds = nullable(Type.Number({ minimum: 0 }));
const progressFields = {
  status: oneOf(['idle', 'ok', 'stalled', 'loading', 'restarting', 'draining', 'failed']),
  running: Type.Integer({ minimum: 0 }),
  waiting: Type.Integer({ minimum: 0 }),
  last_step_ms_ago: milliseconds,
  last_token_ms_ago: milliseconds,
};
const Progress = strictObject(progressFields, { title: 'Progress' });
const NoProgress = strictObject({ ...progressFields, error: ErrorObject }, { title: 'NoProgress' });

export function registerHealth(app: App, deps: RouteDeps): void {
  /** The engine that has work, and when that was first seen; an age before that says nothing about it. */
  let busy: { readonly engine: Engine; readonly sinceMs: number } | undefined;
  app.get(
    '/health/live',
    {
      schema: {
        operationId: 'live',
        tags: ['operations'],
        summary: 'The process answers',
        response: { 200: jsonAnswer(Live, 'Always, while the process answers') },
      },
    },
    async () => ({ status: 'live' }),
  );

  app.get(
    '/health/ready',
    {
      schema: {
        operationId: 'ready',
        tags: ['operations'],
        summary: 'Both roles can serve',
        response: { 200: jsonAnswer(Ready, 'Ready'), 503: jsonAnswer(NotReady, 'Not ready, and why') },
      },
    },
    async (_request, reply) => {
      const { status, reason } = readiness(deps);
      if (status === 'ready') return { status, reason };
      reply.code(503).header('retry-after', '5');
      return { status, reason, error: errorOf(status, reason) };
    },
  );

  app.get(
    '/health/progress',
    {
      schema: {
        operationId: 'progress',
        tags: ['operations'],
        summary: 'Work moves, or there is none',
        response: {
          200: jsonAnswer(Progress, 'Moving or idle'),
          503: jsonAnswer(NoProgress, 'Nothing moves: stalled, loading, restarting or failed'),
        },
      },
    },
    async (_request, reply) => {
      const current = deps.serving.state;
      const engine = 'service' in current ? current.service?.engine : undefined;
      if (engine === undefined || !hasWork(engine)) busy = undefined;
      else if (busy?.engine !== engine) busy = { engine, sinceMs: Date.now() };
      const progress = progressOf(deps, busy === undefined ? 0 : Date.now() - busy.sinceMs);
      if (['ok', 'idle', 'draining'].includes(progress.status)) return progress;
      reply.code(503);
      const reason = progress.status === 'stalled' ? 'Work waits and nothing has moved for the limit.' : null;
      return { ...progress, error: errorOf(progress.status, reason) };
    },
  );
}

function hasWork(engine: Engine): boolean {
  const { running, waiting } = engine.status();
  return running + waiting > 0;
}

function errorOf(status: string, reason: string | null) {
  const code = status === 'draining' ? 'draining' : 'not_ready';
  return toWireError(new StvError(code, reason ?? `The server is ${status}.`)).body.error;
}

function readiness({ serving, runs }: RouteDeps): { status: string; reason: string | null } {
  const current = serving.state;
  if (current.state === 'draining') return { status: 'draining', reason: 'The server is shutting down.' };
  if (current.state !== 'ready') return { status: current.state, reason: current.reason };
  const engine = current.service.engine.status();
  // what needs no store is served all the same
  const { storeTrouble } = runs;
  if (engine.state === 'ready') {
    return { status: 'ready', reason: storeTrouble === undefined ? null : `Runs cannot be stored: ${storeTrouble}` };
  }
  const status = engine.state === 'closed' ? 'failed' : engine.state;
  return { status, reason: engine.reason ?? `The engine is ${engine.state}.` };
}

function progressOf({ serving, config }: RouteDeps, busyMs: number) {
  const current = serving.state;
  const service = current.state === 'ready' || current.state === 'draining' ? current.service : undefined;
  if (service === undefined) {
    return { status: current.state, running: 0, waiting: 0, last_step_ms_ago: null, last_token_ms_ago: null };
  }
  const engine = service.engine.status();
  const numBusy = engine.running + engine.waiting;
  const age = Math.min(busyMs, engine.lastStepMsAgo ?? Number.POSITIVE_INFINITY);
  const isStalled = numBusy > 0 && age > config.stallSeconds * 1000;
  const moving = numBusy > 0 ? 'ok' : 'idle';
  let status: string = isStalled ? 'stalled' : moving;
  if (engine.state === 'loading' || engine.state === 'restarting') status = engine.state;
  if (engine.state === 'closed') status = 'failed';
  if (current.state === 'draining' && !isStalled) status = 'draining';
  return {
    status,
    running: engine.running,
    waiting: engine.waiting,
    last_step_ms_ago: engine.lastStepMsAgo,
    last_token_ms_ago: engine.lastTokenMsAgo,
  };
}
