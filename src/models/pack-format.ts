/** `pack.json` as people write it: the schema, and every complaint about a value at once. */
import { Ajv, type ValidateFunction } from 'ajv';
import Type, { type Static } from 'typebox';

const strict = { additionalProperties: false } as const;
const Text = Type.String({ minLength: 1, maxLength: 2_000 });
const Probability = Type.Number({ minimum: 0, maximum: 1 });

const Role = Type.Object(
  {
    source: Text,
    hash: Type.Optional(Type.String({ pattern: '^sha256:[0-9a-f]{64}$' })),
    weights: Type.Optional(Type.Union([Type.Literal('int8'), Type.Literal('int4'), Type.Literal('fp32')])),
    kv: Type.Optional(Type.Union([Type.Literal('auto'), Type.Literal('int8'), Type.Literal('fp32')])),
    context: Type.Optional(Type.Integer({ minimum: 16, maximum: 1_048_576 })),
    template_variables: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
    /** With a source that begins with openai: only. */
    remote: Type.Optional(
      Type.Object(
        {
          /** The variable that holds the key; a pack cannot name just any variable of the environment. */
          api_key_env: Type.Optional(Type.String({ pattern: '^STV_[A-Z0-9_]{0,48}API_KEY$' })),
          dialect: Type.Optional(
            Type.Union([Type.Literal('auto'), Type.Literal('vllm'), Type.Literal('llama.cpp'), Type.Literal('openai')]),
          ),
          max_concurrent: Type.Optional(Type.Integer({ minimum: 1, maximum: 4_096 })),
          max_queued: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000 })),
          max_retries: Type.Optional(Type.Integer({ minimum: 0, maximum: 10 })),
          connect_ms: Type.Optional(Type.Integer({ minimum: 1, maximum: 600_000 })),
          first_event_ms: Type.Optional(Type.Integer({ minimum: 1, maximum: 86_400_000 })),
          stall_ms: Type.Optional(Type.Integer({ minimum: 1, maximum: 86_400_000 })),
        },
        strict,
      ),
    ),
  },
  strict,
);

const Prompt = Type.Object(
  {
    messages: Type.Array(
      Type.Object(
        {
          role: Type.Union([Type.Literal('system'), Type.Literal('user'), Type.Literal('assistant')]),
          template: Text,
        },
        strict,
      ),
      { minItems: 1, maxItems: 32 },
    ),
    assistant_prefix: Type.Optional(Type.String({ maxLength: 2_000 })),
  },
  strict,
);

/** Within the engine's bounds (`SAMPLING_BOUNDS`): what loads must be served. */
const Sampling = Type.Object(
  {
    temperature: Type.Optional(Type.Number({ minimum: 0, maximum: 2 })),
    top_p: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 1 })),
    top_k: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000 })),
    min_p: Type.Optional(Probability),
    presence_penalty: Type.Optional(Type.Number({ minimum: -2, maximum: 2 })),
    frequency_penalty: Type.Optional(Type.Number({ minimum: -2, maximum: 2 })),
    repetition_penalty: Type.Optional(Type.Number({ minimum: 0.1, maximum: 10 })),
    max_tokens: Type.Optional(Type.Integer({ minimum: 1, maximum: 8_192 })),
  },
  strict,
);

const Calibration = Type.Union([
  Type.Null(),
  Type.Object({ temperature: Type.Number({ exclusiveMinimum: 0 }), bias: Type.Optional(Type.Number()) }, strict),
  Type.Object({ points: Type.Array(Type.Tuple([Probability, Probability]), { minItems: 2, maxItems: 1_000 }) }, strict),
]);

const FIELDS = {
  format: Type.Literal(1),
  name: Type.String({ pattern: '^[a-z0-9][a-z0-9._-]{0,63}$' }),
  version: Type.String({ pattern: '^[0-9]+\\.[0-9]+\\.[0-9]+([-+][0-9A-Za-z.+-]+)?$', maxLength: 64 }),
  license: Text,
  description: Type.Optional(Text),
  /** Missing only in a folder of prompts that are used around a bare checkpoint. */
  roles: Type.Optional(Type.Object({ generator: Role, verifier: Role }, strict)),
  prompts: Type.Object(
    { generate: Prompt, refine: Prompt, verify: Prompt, verify_reference: Type.Optional(Prompt) },
    strict,
  ),
  feedback: Type.Object(
    {
      open: Type.String({ maxLength: 2_000 }),
      close: Type.String({ maxLength: 2_000 }),
      stop: Type.Array(Text, { minItems: 1, maxItems: 16 }),
    },
    strict,
  ),
  verdict: Type.Object(
    {
      open: Text,
      close: Type.String({ maxLength: 2_000 }),
      words: Type.Object({ accept: Text, reject: Text, undetermined: Type.Optional(Text) }, strict),
      min_mass: Type.Optional(Probability),
    },
    strict,
  ),
  answer: Type.Union([
    Type.Literal('boxed'),
    Type.Literal('last_line'),
    Type.Object({ pattern: Type.String({ minLength: 1, maxLength: 500 }) }, strict),
  ]),
  sampling: Type.Object({ generator: Sampling, verifier: Sampling }, strict),
  calibration: Calibration,
  reasoning: Type.Optional(Type.Object({ open: Text, close: Text, opened: Type.Optional(Type.Boolean()) }, strict)),
};

export const PackFile = Type.Object(FIELDS, strict);
export type PackFile = Static<typeof PackFile>;
export type RoleFields = Static<typeof Role>;
export type PromptFields = Static<typeof Prompt>;
export type SamplingFields = Static<typeof Sampling>;
export type CalibrationFields = Static<typeof Calibration>;

function fieldOf(pointer: string): string {
  return pointer
    .replace(/\/(\d+)(?=\/|$)/gu, '[$1]')
    .replaceAll('/', '.')
    .replace(/^\./u, '');
}

function given(value: unknown, pointer: string): string {
  const found = pointer
    .split('/')
    .slice(1)
    .reduce<unknown>((at, key) => (typeof at === 'object' && at !== null ? Reflect.get(at, key) : undefined), value);
  const text = JSON.stringify(found) ?? 'nothing';
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

let check: ValidateFunction | undefined;

/** Everything that is wrong with a parsed `pack.json`, one sentence each, field named; empty when it is a `PackFile`. */
export function complaintsAbout(value: unknown): readonly string[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return ['it does not hold a JSON object'];
  check ??= new Ajv({ allErrors: true, strict: false }).compile(PackFile);
  check(value);
  const lines: string[] = [];
  // a choice complains once for each alternative: its literals are gathered into one sentence
  const literals = new Map<string, unknown[]>();
  for (const { keyword, instancePath, message, params } of check.errors ?? []) {
    const field = fieldOf(instancePath);
    const inside = (name: unknown): string => (field === '' ? String(name) : `${field}.${String(name)}`);
    if (keyword === 'const') {
      literals.set(instancePath, [...(literals.get(instancePath) ?? []), params['allowedValue']]);
    } else if (keyword === 'required') {
      lines.push(`${inside(params['missingProperty'])} is missing`);
    } else if (keyword === 'additionalProperties') {
      lines.push(`${inside(params['additionalProperty'])} is not a known field`);
    } else if (keyword !== 'anyOf' && !literals.has(instancePath)) {
      lines.push(`${field} ${message ?? 'is wrong'}, not ${given(value, instancePath)}`);
    }
  }
  for (const [pointer, allowed] of literals) {
    const choices = allowed.map((literal) => JSON.stringify(literal)).join(' or ');
    lines.push(`${fieldOf(pointer)} must be ${choices}, not ${given(value, pointer)}`);
  }
  return [...new Set(lines)];
}
