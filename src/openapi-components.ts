/**
 * Gives the generated document named components: every inline schema with a `title` moves to `components.schemas` once and
 * is referred to from there. Pure.
 */

type Json = Record<string, unknown>;

/** Throws when two different schemas claim one title. */
export function hoistTitledSchemas(document: Json): Json {
  const schemas: Record<string, unknown> = {};
  const paths = hoist(document['paths'], schemas);
  const components = (document['components'] ?? {}) as Json;
  const sorted = Object.fromEntries(Object.entries(schemas).sort(([a], [b]) => (a < b ? -1 : 1)));
  return { ...document, paths, components: { ...components, schemas: sorted } };
}

function hoist(node: unknown, schemas: Record<string, unknown>): unknown {
  if (Array.isArray(node)) return node.map((item) => hoist(item, schemas));
  if (typeof node !== 'object' || node === null) return node;
  const copy = Object.fromEntries(Object.entries(node).map(([key, value]) => [key, hoist(value, schemas)]));
  const title = copy['title'];
  if (typeof title !== 'string' || !('type' in copy || 'anyOf' in copy)) return copy;
  const { title: _, ...schema } = copy;
  const known = schemas[title];
  if (known !== undefined && JSON.stringify(known) !== JSON.stringify(schema)) {
    throw new Error(`two different schemas are called ${title}`);
  }
  schemas[title] = schema;
  return { $ref: `#/components/schemas/${title}` };
}
