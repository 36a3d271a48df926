/** `/admin/models`: what is loaded, and the exchange of a role's model while the server serves. */
import { type Static, Type } from 'typebox';
import type { ModelInfo } from '../engine/engine.ts';
import { StvError } from '../errors.ts';
import { type ModelSwap, type SwapStatus, swapRoles } from '../model-swap.ts';
import { toWireError } from './error-handler.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { ErrorObject, errorAnswers, jsonAnswer, nullable, oneOf, strictObject } from './schemas.ts';

const bytes = nullable(
  Type.Integer({ minimum: 0, description: 'Resident memory; null where the system does not tell' }),
);
const seconds = Type.Integer({ minimum: 0, description: 'Unix seconds' });

const LoadedModel = strictObject(
  {
    name: Type.String({ description: 'Full name with digest' }),
    aliases: Type.Array(Type.String()),
    digest: Type.String(),
    context_length: Type.Integer({ minimum: 1 }),
    remote: Type.Boolean(),
    device: nullable(Type.String({ description: '`cpu`, `webgpu` or `cuda`; null for remote models' })),
    warning: nullable(Type.String({ description: 'Why it runs there and not on a faster device' })),
  },
  { title: 'LoadedModel' },
);

const ModelLoad = strictObject(
  {
    role: oneOf(swapRoles),
    name: Type.String(),
    status: oneOf(['loading', 'ready', 'failed']),
    progress: strictObject({
      what: Type.String(),
      done: nullable(Type.Number({ minimum: 0 })),
      total: nullable(Type.Number({ minimum: 0 })),
    }),
    started: seconds,
    ended: nullable(seconds),
    error: nullable(ErrorObject),
  },
  { title: 'ModelLoad' },
);

const AdminModels = strictObject(
  {
    object: oneOf(['admin.models']),
    pack: strictObject({ name: Type.String(), version: Type.String() }),
    models: Type.Array(LoadedModel),
    memory_bytes: bytes,
    draining: Type.Array(
      strictObject({
        models: Type.Array(LoadedModel),
        users: Type.Integer({ minimum: 0, description: 'Requests and runs that began before the swap' }),
        memory_bytes: bytes,
      }),
      { description: 'Exchanged models that still answer what began before' },
    ),
    load: nullable(ModelLoad),
    available: Type.Array(strictObject({ name: Type.String(), kind: oneOf(['pack', 'checkpoint']) })),
  },
  { title: 'AdminModels' },
);

const LoadRequest = strictObject({
  name: Type.String({ minLength: 1, maxLength: 400, description: 'A pack or checkpoint below the model folders' }),
  wait: Type.Optional(Type.Boolean({ default: true, description: 'Answer when the new models serve, not at once' })),
});

export function registerAdmin(app: App, deps: RouteDeps): void {
  const answer = async (): Promise<Static<typeof AdminModels>> => {
    const swap = requireSwap(deps);
    const { current } = swap;
    if (current === undefined) throw new StvError('not_ready', 'The models are still loading.');
    const { engine, pack } = current;
    return {
      object: 'admin.models',
      pack: { name: pack.name, version: pack.version },
      models: engine.models().map(toWire),
      memory_bytes: engine.residentBytes?.() ?? null,
      draining: swap.draining.map((each) => ({
        models: each.engine.models().map(toWire),
        users: each.users(),
        memory_bytes: each.engine.residentBytes?.() ?? null,
      })),
      load: swap.status === undefined ? null : loadToWire(swap.status),
      available: [...(await swap.available())],
    };
  };

  app.get(
    '/admin/models',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'adminModels',
        tags: ['operations'],
        summary: 'What is loaded, what drains, how far a load is, what could be loaded',
        response: { 200: jsonAnswer(AdminModels, 'The models'), ...errorAnswers(401, 403, 503) },
      },
    },
    answer,
  );

  app.post(
    '/admin/models/:role/load',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'loadModel',
        tags: ['operations'],
        summary: 'Exchange the model of a role while the server serves',
        description:
          'The new model starts beside the running one; what begins once it serves gets it, what began before ends with the old one, ' +
          'whose memory then returns. A pack brings its prompts and formats for the role; a checkpoint takes over those in service. ' +
          'A load that fails leaves everything as it was.',
        params: strictObject({ role: oneOf(swapRoles) }),
        body: LoadRequest,
        response: {
          200: jsonAnswer(AdminModels, 'The new models serve'),
          202: jsonAnswer(AdminModels, 'The load has begun (`wait: false`)'),
          ...errorAnswers(400, 401, 403, 404, 408, 409, 413, 415, 422, 503),
        },
      },
    },
    async (request, reply) => {
      const { role } = request.params;
      const { name, wait = true } = request.body;
      const { done } = await requireSwap(deps).load(role, name);
      if (wait) await done;
      else reply.code(202);
      return answer();
    },
  );
}

function requireSwap({ models }: RouteDeps): ModelSwap {
  if (models === undefined) throw new StvError('not_ready', 'This server was started without models to exchange.');
  return models;
}

function toWire({
  name,
  aliases,
  digest,
  contextLength,
  remote,
  device,
  warning,
}: ModelInfo): Static<typeof LoadedModel> {
  return {
    name,
    aliases: [...aliases],
    digest,
    context_length: contextLength,
    remote,
    device: device ?? null,
    warning: warning ?? null,
  };
}

function loadToWire(status: SwapStatus): Static<typeof ModelLoad> {
  const { role, name, state, progress, startedAtMs, endedAtMs, error } = status;
  return {
    role,
    name,
    status: state,
    progress: { what: progress.what, done: progress.done ?? null, total: progress.total ?? null },
    started: Math.floor(startedAtMs / 1000),
    ended: endedAtMs === undefined ? null : Math.floor(endedAtMs / 1000),
    error: error === undefined ? null : (toWireError(error).body.error as Static<typeof ErrorObject>),
  };
}
