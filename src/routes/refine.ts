/** `POST /refine`: an attempt and what was said about it in, a better attempt out. */
import { foldRefine } from '../stv/fold.ts';
import { refine } from '../stv/refine.ts';
import { serviceFor } from './limits.ts';
import { streamNamedEvents, wantsStream } from './named-events.ts';
import { refusableCall } from './refusable.ts';
import { makeId } from './request-id.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { answerOrStream, inferenceErrors } from './schemas.ts';
import { type RefineBody, RefineEvent, Refinement, refineBody } from './schemas-verify.ts';
import { traceContextOf } from './solve-request.ts';
import { clientSignal } from './sse.ts';
import { toWire } from './wire.ts';
import { samplingOf } from './wire-in.ts';

export function registerRefine(app: App, deps: RouteDeps): void {
  app.post(
    '/refine',
    {
      config: { scope: 'infer' },
      schema: {
        operationId: 'refine',
        tags: ['loop'],
        summary: 'Improve an attempt from feedback',
        body: refineBody(deps.config),
        response: { 200: answerOrStream(Refinement, RefineEvent, 'The refinement'), ...inferenceErrors },
      },
    },
    async (request, reply) => {
      const { engine, pack } = serviceFor(deps, request);
      const body: RefineBody = request.body;
      const signal = clientSignal(reply);
      const id = makeId('ref');
      const model = body.model ?? 'generator';
      const span = deps.telemetry?.startCall('refine', { id, model, ...traceContextOf(request) });
      const events = refine(
        {
          id,
          problem: body.problem,
          attempt: body.attempt,
          // feedback without a verdict was given because something is wrong
          feedback: typeof body.feedback === 'string' ? { verdict: 'reject', text: body.feedback } : body.feedback,
          model,
          ...samplingOf(body),
          seed: body.seed,
          priority: 'interactive',
        },
        { engine, pack },
        { signal, span },
      );
      if (wantsStream(request)) return streamNamedEvents(request, reply, refusableCall(events), deps, signal);
      return toWire(await foldRefine(events));
    },
  );
}
