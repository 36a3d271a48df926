/** `GET /metrics` and `GET /openapi.json`. */
import type {} from '@fastify/swagger';
import { Type } from 'typebox';
import type { App, RouteDeps } from './route-deps.ts';
import { errorAnswers } from './schemas.ts';

export function registerOperations(app: App, deps: RouteDeps): void {
  app.get(
    '/metrics',
    {
      config: { scope: 'metrics' },
      schema: {
        operationId: 'metrics',
        tags: ['operations'],
        summary: 'Prometheus metrics',
        response: {
          200: { description: 'Prometheus text', content: { 'text/plain': { schema: Type.String() } } },
          ...errorAnswers(401, 403),
        },
      },
    },
    async (_request, reply) => {
      const { contentType, text } = await deps.metrics.expose();
      return reply.type(contentType).send(text);
    },
  );

  app.get(
    '/openapi.json',
    {
      schema: {
        operationId: 'openapi',
        tags: ['operations'],
        summary: 'This contract',
        response: {
          200: { description: 'OpenAPI 3.1', content: { 'application/json': { schema: Type.Object({}) } } },
        },
      },
    },
    async () => app.swagger(),
  );
}
