/**
 * Jinja templates with limits: those of a checkpoint or a pack come from somebody else, so rendering one is bounded in
 * steps, nesting, size of every intermediate value and time. A leaf: knows neither models nor messages.
 */
import * as jinja from '@huggingface/jinja';
import { StvError } from './errors.ts';

// The package's type files name their siblings without an extension, which Node's resolution does not find: what is used
// of its classes is written down here.
interface Environment {
  set(name: string, value: unknown): unknown;
}
interface Interpreter {
  run(program: unknown): { readonly value: unknown };
  evaluate(statement: unknown, environment: Environment): unknown;
}
const { Environment, Interpreter, Template } = jinja as unknown as {
  readonly Environment: new () => Environment;
  readonly Interpreter: new (environment: Environment) => Interpreter;
  readonly Template: new (source: string) => { readonly parsed: unknown };
};

export interface TemplateLimits {
  /** Characters of the template itself. */
  readonly maxSource: number;
  /** UTF-16 units of the output and of every value on the way; an entry of a list counts `LIST_ENTRY_SIZE` beside. */
  readonly maxOutput: number;
  /** Evaluated nodes. */
  readonly maxSteps: number;
  /** Nested evaluations (expressions, blocks, macro calls). */
  readonly maxDepth: number;
  readonly maxMs: number;
}

const DEFAULT_LIMITS: TemplateLimits = {
  maxSource: 256 * 1024,
  maxOutput: 4 * 1024 * 1024,
  maxSteps: 1_000_000,
  maxDepth: 400,
  maxMs: 5_000,
};

const MAX_VALUE_DEPTH = 1_000;
/** A loop makes a scope for each entry before it looks at the first: entries are dear even when they print as nothing. */
const LIST_ENTRY_SIZE = 32;
const RANGE_ENTRY_STEPS = 16;

/** Thrown inside a rendering; `renderTemplate` and its callers turn it into a sentence of their own. */
class LimitReached extends Error {}
class RaisedByTemplate extends Error {}

/**
 * Size of a value as printing it would cost. Lists are values in Jinja here (no operation changes one), so a size once
 * found stays true; without the memo a list that holds itself twice at each of forty levels would take 2^40 visits.
 */
function sizeOf(value: unknown, known: WeakMap<object, number>, depth = 0): number {
  if (depth > MAX_VALUE_DEPTH) throw new LimitReached(`${MAX_VALUE_DEPTH} levels of nested values`);
  if (typeof value === 'string') return value.length;
  if (typeof value !== 'object' || value === null) return 1;
  if (Array.isArray(value)) {
    const seen = known.get(value);
    if (seen !== undefined) return seen;
    let size = value.length * LIST_ENTRY_SIZE;
    for (const item of value) size += sizeOf(item, known, depth + 1);
    known.set(value, size);
    return size;
  }
  if (value instanceof Map) {
    // maps are namespaces as well, which do change: never remembered
    let size = 1;
    for (const [key, item] of value) size += sizeOf(key, known, depth + 1) + sizeOf(item, known, depth + 1);
    return size;
  }
  return 'value' in value ? sizeOf(value.value, known, depth + 1) : 1;
}

/** Steps of one rendering; entries of a range cost some too, as a loop over it may have an empty body. */
class StepBudget {
  readonly #max: number;
  #taken = 0;

  constructor(max: number) {
    this.#max = max;
  }

  take(steps: number): void {
    this.#taken += steps;
    if (this.#taken > this.#max) throw new LimitReached(`${this.#max} steps`);
  }
}

class BoundedInterpreter extends Interpreter {
  readonly #limits: TemplateLimits;
  readonly #deadline: number;
  readonly #sizes = new WeakMap<object, number>();
  readonly #budget: StepBudget;
  #depth = 0;

  constructor(environment: Environment, limits: TemplateLimits, budget: StepBudget) {
    super(environment);
    this.#limits = limits;
    this.#budget = budget;
    this.#deadline = performance.now() + limits.maxMs;
  }

  override evaluate(statement: unknown, environment: Environment): unknown {
    this.#budget.take(1);
    if (performance.now() > this.#deadline) throw new LimitReached(`${this.#limits.maxMs} ms`);
    if (++this.#depth > this.#limits.maxDepth) throw new LimitReached(`${this.#limits.maxDepth} levels of nesting`);
    try {
      const value = super.evaluate(statement, environment);
      if (sizeOf(value, this.#sizes) > this.#limits.maxOutput) {
        throw new LimitReached(`${this.#limits.maxOutput} characters`);
      }
      return value;
    } finally {
      this.#depth--;
    }
  }
}

function boundedRange(budget: StepBudget): (start: number, stop?: number, step?: number) => number[] {
  return (start, stop, step = 1) => {
    const [from, to] = stop === undefined ? [0, start] : [start, stop];
    if (!Number.isFinite(from) || !Number.isFinite(to) || !Number.isFinite(step) || step === 0) {
      throw new Error('range() takes finite numbers and a step other than zero');
    }
    const length = Math.max(0, Math.ceil((to - from) / step));
    budget.take(length * RANGE_ENTRY_STEPS);
    return Array.from({ length }, (_, index) => from + index * step);
  };
}

const MONTHS = 'January February March April May June July August September October November December'.split(' ');
const DAYS = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split(' ');

/** The directives that chat templates use, in UTC and English whatever the machine's locale. */
function strftime(date: Date, format: string): string {
  const two = (number: number): string => String(number).padStart(2, '0');
  const month = MONTHS[date.getUTCMonth()] ?? '';
  const day = DAYS[date.getUTCDay()] ?? '';
  const values: Readonly<Record<string, string>> = {
    Y: String(date.getUTCFullYear()),
    m: two(date.getUTCMonth() + 1),
    d: two(date.getUTCDate()),
    H: two(date.getUTCHours()),
    M: two(date.getUTCMinutes()),
    S: two(date.getUTCSeconds()),
    B: month,
    b: month.slice(0, 3),
    A: day,
    a: day.slice(0, 3),
    '%': '%',
  };
  return format.replace(/%([YmdHMSBbAa%])/g, (_, directive: string) => values[directive] ?? '');
}

export interface RenderOptions {
  readonly limits?: Partial<TemplateLimits>;
  /** Clock of `strftime_now`. */
  readonly now?: () => Date;
}

/** What a template did wrong. `reason` never holds a value that was given to it. */
export type TemplateFailure =
  | { readonly kind: 'syntax' | 'limit' | 'evaluation'; readonly reason: string }
  /** The template itself refused its input with `raise_exception`. */
  | { readonly kind: 'refused'; readonly reason: string };

export type TemplateResult =
  | { readonly ok: true; readonly text: string }
  | { readonly ok: false; readonly failure: TemplateFailure };

/** A parsed template. Parsing happens once; each rendering has its own environment and its own budget. */
export class BoundedTemplate {
  readonly source: string;
  readonly #program: unknown;
  readonly #limits: TemplateLimits;
  readonly #now: () => Date;

  /** Throws StvError `pack_invalid` that begins with `where` when the source is too long or is not Jinja. */
  constructor(source: string, where: string, options: RenderOptions = {}) {
    this.source = source;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#now = options.now ?? ((): Date => new Date());
    if (source.length > this.#limits.maxSource) {
      throw new StvError(
        'pack_invalid',
        `${where}: the template has ${source.length} characters; at most ${this.#limits.maxSource} are allowed.`,
      );
    }
    try {
      this.#program = new Template(source).parsed;
    } catch (error) {
      const reason = error instanceof RangeError ? 'nested too deeply' : error instanceof Error ? error.message : '';
      throw new StvError('pack_invalid', `${where}: the template is not valid Jinja: ${reason}`, { cause: error });
    }
  }

  /** Renders with `variables` as globals. Synchronous; never throws for anything the template does. */
  render(variables: Readonly<Record<string, unknown>>): TemplateResult {
    const environment = new Environment();
    const budget = new StepBudget(this.#limits.maxSteps);
    const globals = {
      true: true,
      false: false,
      none: null,
      True: true,
      False: false,
      None: null,
      range: boundedRange(budget),
      raise_exception: (message: unknown): never => {
        throw new RaisedByTemplate(String(message));
      },
      // A template that can do without the date is made to: the prompt then stays the same from day to day.
      ...(/strftime_now\s+is\s+(not\s+)?defined/.test(this.source)
        ? {}
        : { strftime_now: (format: unknown): string => strftime(this.#now(), String(format)) }),
    };
    for (const [name, value] of Object.entries({ ...globals, ...variables })) environment.set(name, value);
    try {
      const { value } = new BoundedInterpreter(environment, this.#limits, budget).run(this.#program);
      const text = typeof value === 'string' ? value : '';
      if (text.length > this.#limits.maxOutput) throw new LimitReached(`${this.#limits.maxOutput} characters`);
      return { ok: true, text };
    } catch (error) {
      return { ok: false, failure: this.#describe(error) };
    }
  }

  #describe(error: unknown): TemplateFailure {
    if (error instanceof LimitReached) {
      return { kind: 'limit', reason: `it needs more than ${error.message}` };
    }
    if (error instanceof RangeError) return { kind: 'limit', reason: 'it needs more memory or nesting than allowed' };
    const message = error instanceof Error ? error.message : '';
    // Messages can be put together from the input; only words that stand in the template itself are passed on.
    const quotable = message !== '' && this.source.includes(message);
    if (error instanceof RaisedByTemplate) {
      return { kind: 'refused', reason: quotable ? message : 'it refuses these messages' };
    }
    return { kind: 'evaluation', reason: quotable ? message : 'an expression in it cannot be evaluated' };
  }
}
