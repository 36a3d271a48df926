/** `POST /tokenize` and `POST /detokenize`: a model's tokens as numbers; the only routes on which they are seen. */
import type { Engine } from '../engine/engine.ts';
import { blameTokens } from './error-field.ts';
import { dropNulls, findModel } from './openai-params.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { inferenceErrors, jsonAnswer } from './schemas.ts';
import { Detokenized, detokenizeBody, Tokenized, tokenizeBody } from './schemas-openai.ts';

export function registerTokenize(app: App, deps: RouteDeps): void {
  app.post(
    '/tokenize',
    {
      config: { scope: 'infer', isLight: true },
      preValidation: async (request) => dropNulls(request.body),
      schema: {
        operationId: 'tokenize',
        tags: ['models'],
        summary: 'Tokens of a text; special tokens in it stay text',
        body: tokenizeBody(deps.config),
        response: { 200: jsonAnswer(Tokenized, 'The tokens'), ...inferenceErrors },
      },
    },
    async (request) => {
      const { engine } = deps.serving.require();
      const tokens = await engine.tokenize(nameOf(engine, request.body.model), request.body.text);
      return { tokens, count: tokens.length };
    },
  );

  app.post(
    '/detokenize',
    {
      config: { scope: 'infer', isLight: true },
      preValidation: async (request) => dropNulls(request.body),
      schema: {
        operationId: 'detokenize',
        tags: ['models'],
        summary: 'Text of tokens',
        body: detokenizeBody,
        response: { 200: jsonAnswer(Detokenized, 'The text'), ...inferenceErrors },
      },
    },
    async (request) => {
      const { engine } = deps.serving.require();
      const { model, tokens } = request.body;
      return { text: await engine.detokenize(nameOf(engine, model), tokens).catch(blameTokens('tokens')) };
    },
  );
}

/** The loop has no tokenizer of its own, so `solve` is no model here. */
function nameOf(engine: Engine, model: string): string {
  return findModel(engine, model, []).name;
}
