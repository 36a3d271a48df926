/** `GET /v1/models`: what is loaded, by alias and by full name, and the loop as a model of its own. */
import type { Static } from 'typebox';
import type { ModelInfo } from '../engine/engine.ts';
import { StvError } from '../errors.ts';
import { digestLoopPack, type LoopPack } from '../stv/loop-pack.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { errorAnswers, jsonAnswer } from './schemas.ts';
import { Model, ModelList } from './schemas-openai.ts';

/** When this process began to serve; models have no other date. */
const created = Math.floor(Date.now() / 1000);

function entries(model: ModelInfo): Static<typeof Model>[] {
  const names = [...new Set([...model.aliases, model.name])];
  return names.map((id) => ({
    id,
    object: 'model' as const,
    created,
    owned_by: 'stv-server',
    root: model.name,
    aliases: names.filter((name) => name !== id),
    context_length: model.contextLength,
    remote: model.remote,
  }));
}

function solveEntry(models: readonly ModelInfo[], pack: LoopPack): Static<typeof Model> {
  return {
    id: 'solve',
    object: 'model',
    created,
    owned_by: 'stv-server',
    root: models.map((model) => model.name).join(' + '),
    aliases: [],
    context_length: null,
    remote: false,
    loop_digest: digestLoopPack(pack),
  };
}

export function registerModels(app: App, deps: RouteDeps): void {
  const all = (): Static<typeof Model>[] => {
    const { engine, pack } = deps.serving.require();
    const models = engine.models();
    const seen = new Set<string>();
    // one model may serve both roles, under one full name
    return [...models.flatMap(entries), solveEntry(models, pack)].filter(({ id }) => !seen.has(id) && seen.add(id));
  };

  app.get(
    '/v1/models',
    {
      config: { scope: 'infer' },
      schema: {
        operationId: 'listModels',
        tags: ['openai'],
        summary: 'Models by every name they answer to',
        response: { 200: jsonAnswer(ModelList, 'The models'), ...errorAnswers(401, 403, 503) },
      },
    },
    async () => ({ object: 'list', data: all() }),
  );

  // a wildcard, because full names hold slashes
  app.get(
    '/v1/models/*',
    {
      config: { scope: 'infer' },
      schema: {
        operationId: 'getModel',
        tags: ['openai'],
        summary: 'One model by name or alias',
        response: { 200: jsonAnswer(Model, 'The model'), ...errorAnswers(401, 403, 404, 503) },
      },
    },
    async (request) => {
      const name = (request.params as { readonly '*': string })['*'];
      const found = all().find((model) => model.id === name);
      if (found !== undefined) return found;
      throw new StvError('model_not_found', 'There is no model of this name; GET /v1/models lists them.', {
        param: 'id',
      });
    },
  );
}
