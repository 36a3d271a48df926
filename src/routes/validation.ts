/**
 * Schema checks at the edge and their messages: each names the field, the limit and the value given, and never repeats
 * a text of the user. Bodies are taken as they are (no coercion, nothing removed); path and query are text by nature and coerced.
 */
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv';
import type { FastifySchemaCompiler } from 'fastify';
import { StvError } from '../errors.ts';

const shared = {
  strict: false,
  // the limits of the contract count UTF-16 units, as `string.length` does
  unicode: false,
  // ajv writes a deprecation of that option to the console; its alternative counts code points
  logger: false,
  // one mistake is enough to refuse; collecting all of them costs time that a hostile body can choose
  allErrors: false,
  useDefaults: false,
  removeAdditional: false,
  verbose: true,
} as const;

/** The compiler that Fastify uses for every route. */
export function createValidatorCompiler(): FastifySchemaCompiler<object> {
  const strictly = new Ajv({ ...shared, coerceTypes: false });
  const coercing = new Ajv({ ...shared, coerceTypes: true });
  return ({ schema, httpPart }) => {
    let compiled: ValidateFunction | undefined;
    return (data: unknown) => {
      // at the first request of the route: compiling all of them would be the larger part of a start
      compiled ??= (httpPart === 'body' ? strictly : coercing).compile(schema);
      return compiled(data) ? { value: data } : { error: toValidationError(compiled.errors ?? []) };
    };
  };
}

/** The first mistake as an StvError whose `param` is the path of the field as the client spelled it. */
export function toValidationError(errors: readonly ErrorObject[]): StvError {
  const error = selectError(errors);
  if (error === undefined) return new StvError('invalid_value', 'The request does not fit the schema of this route.');
  const field = fieldPath(error.instancePath);
  if (error.keyword === 'additionalProperties') {
    const param = join(field, clip(String(error.params['additionalProperty'])));
    const known = Object.keys((error.parentSchema?.['properties'] as object | undefined) ?? {});
    return new StvError('unknown_field', `Unknown field \`${param}\`; this place knows ${known.join(', ')}.`, {
      param,
    });
  }
  if (error.keyword === 'required') {
    const param = join(field, String(error.params['missingProperty']));
    return new StvError('invalid_value', `The field \`${param}\` is required.`, { param });
  }
  const place = field === '' ? 'The body' : `\`${field}\``;
  const subject = error.propertyName === undefined ? place : `${place} has a key that`;
  const message = `${subject} ${expectation(error)}, got ${describe(error)}.`;
  return new StvError('invalid_value', message, field === '' ? {} : { param: field });
}

/**
 * Out of the errors of a union only those of the branch that the caller meant: the one whose type fits and whose constants
 * (`rule: "votes"`) agree. Where that is not one branch, the error of the union itself.
 */
function selectError(errors: readonly ErrorObject[]): ErrorObject | undefined {
  const union = errors.findLast((error) => error.keyword === 'anyOf');
  // of a key that is wrong, what is wrong with it
  if (union === undefined) return errors.find((error) => error.propertyName !== undefined) ?? errors[0];
  const branches = union.schema as readonly BranchSchema[];
  const meant = branches.flatMap((branch, index) => (isMeant(branch, union.data) ? [index] : []));
  if (meant.length !== 1) return union;
  const prefix = `${union.schemaPath}/${meant[0]}/`;
  return selectError(errors.filter((error) => error.schemaPath.startsWith(prefix))) ?? union;
}

interface BranchSchema {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, { readonly const?: unknown }>>;
}

function isMeant(branch: BranchSchema, value: unknown): boolean {
  if (branch.type !== kindOf(value)) return false;
  return Object.entries(branch.properties ?? {}).every(
    ([name, property]) => property.const === undefined || property.const === (value as Record<string, unknown>)[name],
  );
}

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : typeof value;
}

function expectation(error: ErrorObject): string {
  const { params } = error;
  switch (error.keyword) {
    case 'type':
      return `must be ${article(String(params['type']))}`;
    case 'minimum':
      return `must be at least ${params['limit']}`;
    case 'maximum':
      return `must be at most ${params['limit']}`;
    case 'exclusiveMinimum':
      return `must be more than ${params['limit']}`;
    case 'exclusiveMaximum':
      return `must be less than ${params['limit']}`;
    case 'minLength':
      return `must hold at least ${counted(params['limit'], 'UTF-16 unit')}`;
    case 'maxLength':
      return `must hold at most ${counted(params['limit'], 'UTF-16 unit')}`;
    case 'minItems':
      return `must hold at least ${counted(params['limit'], 'item')}`;
    case 'maxItems':
      return `must hold at most ${counted(params['limit'], 'item')}`;
    case 'maxProperties':
      return `must hold at most ${counted(params['limit'], 'key')}`;
    case 'minProperties':
      return `must hold at least ${counted(params['limit'], 'key')}`;
    case 'enum':
      return `must be one of ${(params['allowedValues'] as unknown[]).map((value) => JSON.stringify(value)).join(', ')}`;
    case 'const':
      return `must be ${JSON.stringify(params['allowedValue'])}`;
    case 'pattern':
      return `must match ${params['pattern']}`;
    case 'anyOf': {
      const hint = error.parentSchema?.['description'];
      return typeof hint === 'string' ? `must be ${hint}` : 'fits none of the forms this field can have';
    }
    default:
      return `${error.message ?? 'is not valid'}`;
  }
}

/** The value given, in few words: sizes for what is long, kinds for what is nested. */
function describe(error: ErrorObject): string {
  const value: unknown = error.data;
  if (error.keyword === 'minLength' || error.keyword === 'maxLength') return String((value as string).length);
  if (error.keyword === 'minItems' || error.keyword === 'maxItems') return String((value as unknown[]).length);
  if (error.keyword.endsWith('Properties')) return String(Object.keys(value as object).length);
  if (value === undefined) return 'nothing';
  if (value === null || typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (typeof value === 'string') {
    const isShort = value.length <= 32 && error.instancePath !== '';
    return isShort ? JSON.stringify(value) : `a text of ${value.length} UTF-16 units`;
  }
  return Array.isArray(value) ? 'an array' : 'an object';
}

function article(type: string): string {
  const names = type.split(',');
  return names.map((name) => (name === 'null' ? name : `${/^[aeiou]/.test(name) ? 'an' : 'a'} ${name}`)).join(' or ');
}

function counted(limit: unknown, unit: string): string {
  return `${limit} ${unit}${limit === 1 ? '' : 's'}`;
}

/** `/accept/k` -> `accept.k`. */
function fieldPath(instancePath: string): string {
  return instancePath
    .split('/')
    .slice(1)
    .map((part) => clip(part.replaceAll('~1', '/').replaceAll('~0', '~')))
    .join('.');
}

function join(field: string, name: string): string {
  return field === '' ? name : `${field}.${name}`;
}

function clip(name: string): string {
  return name.length <= 64 ? name : `${name.slice(0, 64)}…`;
}
