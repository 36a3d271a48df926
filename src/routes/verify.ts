/** `POST /verify`: one solution in, verdict, score and feedback out; JSON or a stream of the same facts. */

import { StvError } from '../errors.ts';
import { foldVerify } from '../stv/fold.ts';
import { type VerifyEvent, verify } from '../stv/verify.ts';
import { serviceFor } from './limits.ts';
import { streamNamedEvents, wantsStream } from './named-events.ts';
import { refusableCall } from './refusable.ts';
import { makeId } from './request-id.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { answerOrStream, inferenceErrors } from './schemas.ts';
import { Verification, type VerifyBody, VerifyEvent as VerifyEventSchema, verifyBody } from './schemas-verify.ts';
import { traceContextOf } from './solve-request.ts';
import { clientSignal } from './sse.ts';
import { toWire } from './wire.ts';
import { samplingOf } from './wire-in.ts';

export function registerVerify(app: App, deps: RouteDeps): void {
  app.post(
    '/verify',
    {
      config: { scope: 'infer' },
      schema: {
        operationId: 'verify',
        tags: ['loop'],
        summary: 'Verify a solution',
        body: verifyBody(deps.config),
        response: { 200: answerOrStream(Verification, VerifyEventSchema, 'The verification'), ...inferenceErrors },
      },
    },
    async (request, reply) => {
      const { engine, pack } = serviceFor(deps, request);
      const body: VerifyBody = request.body;
      const mode = body.mode ?? 'full';
      if (mode === 'score' && (body.votes ?? 1) !== 1) {
        throw new StvError('invalid_value', `\`votes\` must be 1 in mode \`score\`, got ${body.votes}.`, {
          param: 'votes',
        });
      }
      const signal = clientSignal(reply);
      const id = makeId('vrf');
      const model = body.model ?? 'verifier';
      const span = deps.telemetry?.startCall('verify', { id, model, ...traceContextOf(request) });
      const events = observed(
        verify(
          {
            id,
            problem: body.problem,
            solution: body.solution,
            reference: body.reference,
            mode,
            votes: body.votes ?? 1,
            earlyStop: body.early_stop ?? true,
            model,
            ...samplingOf(body),
            seed: body.seed,
            priority: 'interactive',
          },
          { engine, pack },
          { signal, span },
        ),
        deps,
        mode,
      );
      if (wantsStream(request)) return streamNamedEvents(request, reply, refusableCall(events), deps, signal);
      return toWire(await foldVerify(events));
    },
  );
}

async function* observed(
  events: AsyncIterable<VerifyEvent>,
  deps: RouteDeps,
  mode: 'full' | 'score',
): AsyncGenerator<VerifyEvent> {
  for await (const event of events) {
    if (event.type === 'verification-end') deps.metrics.observeVerification(mode, event.verdict, event.agreement);
    yield event;
  }
}
