/**
 * `stv serve`: listens while the models load, serves, and ends in good order. The first line on stdout names the address;
 * progress and logs go to stderr.
 */
import { loadApiKeys, noApiKeys } from '../api-keys.ts';
import type { Config } from '../config.ts';
import { StvError, toStvError } from '../errors.ts';
import { type LoadedModels, ModelSwap } from '../model-swap.ts';
import { Serving } from '../serving.ts';
import { version } from '../version.ts';
import { chooseDevices } from './choose-devices.ts';
import type { LoadedService } from './load-service.ts';
import type { Front } from './open-front.ts';
import { createProgressLine } from './progress.ts';
import { StoreGrace } from './store-grace.ts';

/** Resolves with the exit code once the server has ended. */
export async function serve(config: Config): Promise<number> {
  const keys = config.apiKeysFile === undefined ? noApiKeys : loadApiKeys(config.apiKeysFile);
  const serving = new Serving();
  let front: Front | undefined;
  const models = createModelSwap(config, serving, ({ engine }) => front?.attach(engine));
  const loading = new AbortController();
  const ending = firstSignal();
  const grace = new StoreGrace();
  // The engine starts in a process of its own, so it is begun before the rest of the program is even read.
  const load = loadWithProgress(config, serving, loading.signal);
  load.catch(() => {}); // awaited below, after the front
  let loaded: LoadedService | undefined;
  try {
    const { openFront } = await import('./open-front.ts');
    front = await openFront(config, { keys, serving, models });
    say(`STV server ${version} listens on ${front.url}`);
    if (!keys.isRequired) say('No API keys are configured: only this machine is served.');
    if (keys.plain.length > 0) {
      const names = keys.plain.join(', ');
      process.stderr.write(`The keys file holds ${names} in plain text; \`stv key\` makes lines with digests only.\n`);
    }
    loaded = await Promise.race([load, ending.then(() => undefined)]);
    if (loaded !== undefined) {
      models.start(loaded);
      front.runs.beginUpkeep();
      announce(loaded, config, { url: front.url, isKeyRequired: keys.isRequired });
      await ending;
    }
    await drain(config, serving, front, grace);
    return 0;
  } finally {
    loading.abort();
    const abandoned = loaded ?? (await load.catch(() => undefined));
    await models.close();
    await abandoned?.engine.close();
    // what still streams has just been told that the engine is gone
    await front?.traffic.idle(1000);
    if (front !== undefined) await grace.orGiveUp(front.close());
    // sockets to a database that does not answer would keep the process
    setTimeout(() => process.exit(), 2000).unref();
  }
}

function createModelSwap(config: Config, serving: Serving, onServing: (models: LoadedModels) => void): ModelSwap {
  return new ModelSwap({
    serving,
    onServing,
    find: async (name) => {
      const { findInFolders, modelFoldersOf } = await import('../models/model-folders.ts');
      return findInFolders(name, modelFoldersOf(config));
    },
    list: async () => {
      const { listFolders, modelFoldersOf } = await import('../models/model-folders.ts');
      return listFolders(modelFoldersOf(config));
    },
    load: async (pack, report, signal) => {
      const { startPack } = await import('./load-service.ts');
      return startPack(pack, { config, report, signal });
    },
  });
}

async function loadWithProgress(config: Config, serving: Serving, signal: AbortSignal): Promise<LoadedService> {
  const { loadService } = await import('./load-service.ts');
  const progress = createProgressLine();
  try {
    return await loadService({
      config,
      signal,
      report: ({ what, done, total, unit }) => {
        serving.loading(done === undefined ? what : `${what}.`);
        if (done !== undefined) progress.update(what, done, total, unit);
      },
    });
  } catch (thrown) {
    const error = toStvError(thrown);
    serving.failed(error.message);
    throw error;
  } finally {
    progress.finish();
  }
}

function announce({ pack, models, engine, hint }: LoadedService, config: Config, place: Place): void {
  const contexts = engine.models().map((model) => model.contextLength);
  say(`Serves the pack ${pack.name} ${pack.version} (context ${[...new Set(contexts)].join(' and ')}):`);
  for (const { name, aliases } of models) {
    say(`  ${aliases.filter((alias) => !alias.includes('/')).join(' and ')}: ${name}`);
  }
  const warnings = models.flatMap(({ warning }) => warning ?? []);
  const hints = [chooseDevices(config).hint, hint].flatMap((line) => line ?? []);
  for (const line of new Set([...warnings, ...hints])) process.stderr.write(`${line}\n`);
  say(`Try: ${firstCall(place)}`);
  say(`Every route: ${place.url}/docs`);
}

interface Place {
  readonly url: string;
  readonly isKeyRequired: boolean;
}

/** A command line that asks the server something. */
export function firstCall({ url, isKeyRequired }: Place): string {
  const key = isKeyRequired ? " -H 'authorization: Bearer KEY'" : '';
  const body = '{"problem": "What is 12 + 30 * 2?", "solution": "12 + 30 = 42\\n42 * 2 = 84"}';
  return `curl -s ${url}/verify${key} -H 'content-type: application/json' -d '${body}'`;
}

/** New requests get 503, running ones their time; stored runs go back to the database for the next server. */
async function drain(config: Config, serving: Serving, { runs, traffic }: Front, grace: StoreGrace): Promise<void> {
  serving.drain();
  const reason = new StvError('draining', 'The server shut down before this was finished.');
  await grace.orGiveUp(runs.park(reason));
  if (traffic.count > 0) {
    process.stderr.write(`Waiting up to ${config.drainSeconds} s for ${traffic.count} running requests.\n`);
  }
  await traffic.idle(config.drainSeconds * 1000);
  await grace.orGiveUp(runs.close(reason));
}

/** One Ctrl-C can arrive twice: from the terminal, and passed on by npm. */
const SAME_SIGNAL_MS = 500;

/** Resolves at the first SIGTERM or SIGINT; the second ends the process at once. */
function firstSignal(): Promise<void> {
  return new Promise((resolve) => {
    let firstAt: number | undefined;
    for (const [signal, number] of [
      ['SIGINT', 2],
      ['SIGTERM', 15],
    ] as const) {
      process.on(signal, () => {
        firstAt ??= performance.now();
        if (performance.now() - firstAt > SAME_SIGNAL_MS) process.exit(128 + number);
        resolve();
      });
    }
  });
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
