/** What a remote server is and can, asked once at the start: its dialect, the model's name, its context, a tokenizer. */
import { StvError } from '../../errors.ts';
import { DEFAULT_REMOTE_CONTEXT, type RemoteConfig, type RemoteDialect } from './remote-config.ts';
import { RemoteFailure } from './remote-failure.ts';
import type { RemoteHttp, RemoteRoute } from './remote-http.ts';

export interface RemoteProfile {
  readonly dialect: Exclude<RemoteDialect, 'auto'>;
  /** As the server calls it. */
  readonly model: string;
  readonly contextLength: number;
  /** The server encodes text for us. */
  readonly hasTokenizer: boolean;
  /** Fields of every request that renders the chat template. */
  readonly templateFields: Readonly<Record<string, unknown>>;
}

/** Most that a question at the start may take: a server that loads its model answers late or with 503. */
const PROBE_MS = 10_000;

/**
 * Throws RemoteFailure while the server cannot be asked (a later attempt can help) and StvError `config_invalid` when it can and
 * the configuration does not fit it.
 */
export async function probeRemote(http: RemoteHttp, config: RemoteConfig, signal: AbortSignal): Promise<RemoteProfile> {
  const models = await askModels(http, signal);
  const entry = chooseModel(http.name, models, config.model);
  const model = entry?.id ?? config.model;
  if (model === undefined) {
    throw new StvError('config_invalid', `The remote ${http.name} does not list its models; name the one to use.`);
  }
  const dialect =
    config.dialect === undefined || config.dialect === 'auto' ? await guess(http, entry, signal) : config.dialect;
  const contextLength =
    (dialect === 'llama.cpp' ? await askLlamaContext(http, signal) : undefined) ??
    entry?.contextLength ??
    config.contextLength ??
    DEFAULT_REMOTE_CONTEXT;
  const hasTokenizer =
    dialect === 'llama.cpp' ||
    (dialect === 'vllm' &&
      (await answers(http, { own: '/tokenize' }, { model, prompt: 'a', add_special_tokens: false }, signal)));
  return {
    dialect,
    model,
    contextLength: Math.min(contextLength, config.contextLength ?? Number.POSITIVE_INFINITY),
    hasTokenizer,
    templateFields:
      dialect === 'openai' || Object.keys(config.templateVariables ?? {}).length === 0
        ? {}
        : { chat_template_kwargs: config.templateVariables },
  };
}

interface ModelEntry {
  readonly id: string;
  readonly names: readonly string[];
  readonly owner: string | undefined;
  readonly contextLength: number | undefined;
}

/** undefined where the server has no such route. */
async function askModels(http: RemoteHttp, signal: AbortSignal): Promise<readonly ModelEntry[] | undefined> {
  let answer: unknown;
  try {
    answer = await http.json({ api: '/models' }, undefined, { signal, timeoutMs: PROBE_MS });
  } catch (thrown) {
    if (!(thrown instanceof RemoteFailure)) throw thrown;
    if (thrown.kind === 'unsupported') return undefined;
    if (thrown.status === 401 || thrown.status === 403) {
      throw new StvError(
        'config_invalid',
        `The remote ${http.name} does not take the API key; set the variable that the configuration names for it.`,
        { cause: thrown },
      );
    }
    throw thrown;
  }
  const data: unknown = typeof answer === 'object' && answer !== null ? Reflect.get(answer, 'data') : undefined;
  if (!Array.isArray(data)) {
    throw new RemoteFailure('malformed', `The remote ${http.name} answered /models without a list of models.`);
  }
  return data.flatMap((value: unknown) => readEntry(value) ?? []);
}

function readEntry(value: unknown): ModelEntry | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const field = (name: string): unknown => Reflect.get(value, name);
  const id = field('id');
  if (typeof id !== 'string') return undefined;
  const aliases = field('aliases');
  const root = field('root');
  const owner = field('owned_by');
  const meta = field('meta');
  const maxLength =
    field('max_model_len') ?? (typeof meta === 'object' && meta !== null ? Reflect.get(meta, 'n_ctx') : undefined);
  return {
    id,
    names: [id, ...(Array.isArray(aliases) ? aliases : []), root].filter((name) => typeof name === 'string'),
    owner: typeof owner === 'string' ? owner : undefined,
    contextLength: typeof maxLength === 'number' && maxLength > 0 ? Math.floor(maxLength) : undefined,
  };
}

function chooseModel(
  remote: string,
  models: readonly ModelEntry[] | undefined,
  wanted: string | undefined,
): ModelEntry | undefined {
  if (models === undefined) return undefined;
  const found =
    wanted === undefined && models.length === 1
      ? models[0]
      : models.find(({ names }) => wanted !== undefined && names.includes(wanted));
  if (found !== undefined) return found;
  const listed = models.slice(0, 10).map(({ id }) => id);
  const offer = listed.length === 0 ? 'it lists none' : `it lists ${listed.join(', ')}`;
  throw new StvError(
    'config_invalid',
    wanted === undefined
      ? `The remote ${remote} serves ${models.length} models; name the one to use: ${offer}.`
      : `The remote ${remote} does not serve the model "${wanted}"; ${offer}.`,
  );
}

async function guess(
  http: RemoteHttp,
  entry: ModelEntry | undefined,
  signal: AbortSignal,
): Promise<Exclude<RemoteDialect, 'auto'>> {
  const owner = entry?.owner?.toLowerCase();
  if (owner === 'llamacpp' || owner === 'llama.cpp') return 'llama.cpp';
  // SGLang takes the fields of vLLM
  if (owner === 'vllm' || owner === 'sglang') return 'vllm';
  // `vllm serve` behind a proxy that renames the owner still says how long its context is
  if (
    entry !== undefined &&
    (await answers(http, { own: '/version' }, undefined, signal)) &&
    entry.contextLength !== undefined
  ) {
    return 'vllm';
  }
  return 'openai';
}

async function askLlamaContext(http: RemoteHttp, signal: AbortSignal): Promise<number | undefined> {
  try {
    const props = await http.json({ own: '/props' }, undefined, { signal, timeoutMs: PROBE_MS });
    const settings: unknown =
      typeof props === 'object' && props !== null ? Reflect.get(props, 'default_generation_settings') : undefined;
    const length: unknown =
      typeof settings === 'object' && settings !== null ? Reflect.get(settings, 'n_ctx') : undefined;
    return typeof length === 'number' && length > 0 ? length : undefined;
  } catch (thrown) {
    if (thrown instanceof RemoteFailure && !thrown.canRetry) return undefined;
    throw thrown;
  }
}

/** Whether the route exists; failures of another kind are thrown. */
async function answers(http: RemoteHttp, route: RemoteRoute, body: unknown, signal: AbortSignal): Promise<boolean> {
  try {
    await http.json(route, body, { signal, timeoutMs: PROBE_MS });
    return true;
  } catch (thrown) {
    if (thrown instanceof RemoteFailure && !thrown.canRetry && thrown.kind !== 'silent') return false;
    throw thrown;
  }
}
