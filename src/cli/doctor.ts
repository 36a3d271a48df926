/** `stv doctor`: looks at what serving needs on this machine, changes nothing, and says what to do about each lack. */
import { accessSync, constants, existsSync, readFileSync, statfsSync } from 'node:fs';
import { createServer } from 'node:net';
import { availableParallelism, freemem, totalmem } from 'node:os';
import path from 'node:path';
import { loadApiKeys } from '../api-keys.ts';
import { type Config, flagName, missingKeys } from '../config.ts';
import { toStvError } from '../errors.ts';
import { version } from '../version.ts';
import { checkDevices } from './doctor-devices.ts';
import { checkWeights } from './doctor-weights.ts';
import { type Finding, fail, ok, warn } from './finding.ts';

/** Exit code 0: nothing stands in the way; 1: something does. */
export async function doctor(config: Config, isJson: boolean): Promise<number> {
  const findings = await examine(config);
  const isHealthy = findings.every(({ status }) => status !== 'fail');
  if (isJson) {
    process.stdout.write(`${JSON.stringify({ object: 'doctor', version, healthy: isHealthy, findings }, null, 2)}\n`);
  } else {
    const width = Math.max(...findings.map(({ check }) => check.length));
    for (const { check, status, message } of findings) {
      process.stdout.write(`${status.padEnd(5)} ${check.padEnd(width)}  ${message}\n`);
    }
  }
  return isHealthy ? 0 : 1;
}

export async function examine(config: Config): Promise<Finding[]> {
  return [
    checkNode(),
    ...(await checkDevices(config)),
    checkProcessor(),
    checkDataDir(config),
    ...(await checkWeights(config)),
    await checkPort(config),
    checkKeys(config),
  ];
}

function checkNode(): Finding {
  // beside `src` and `dist` alike
  const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    readonly engines: { readonly node: string };
  };
  const least = manifest.engines.node.replace(/^>=/, '');
  const found = process.versions.node;
  return compareVersions(found, least) >= 0
    ? ok('node', `Node.js ${found}.`)
    : fail('node', `Node.js ${found} is too old; install ${least} or newer.`);
}

export function compareVersions(one: string, other: string): number {
  const [a, b] = [one, other].map((text) => text.split('.').map((part) => Number.parseInt(part, 10) || 0));
  for (let index = 0; index < 3; index++) {
    const difference = (a?.[index] ?? 0) - (b?.[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** The instructions that int8 matrix products are fast with; known on Linux only. */
function checkProcessor(): Finding {
  const size = `${availableParallelism()} threads, ${gigabytes(freemem())} of ${gigabytes(totalmem())} memory free`;
  let flags: ReadonlySet<string>;
  try {
    const text = readFileSync('/proc/cpuinfo', 'utf8');
    flags = new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(text)?.[1]?.trim().split(/\s+/));
  } catch {
    return ok('processor', `${size}.`);
  }
  const fast = ['avx512_vnni', 'avx_vnni', 'asimddp', 'i8mm'].filter((flag) => flags.has(flag));
  if (fast.length > 0) return ok('processor', `${size}; int8 instructions ${fast.join(', ')}.`);
  return flags.has('avx2') || flags.has('asimd')
    ? ok('processor', `${size}; no int8 dot products, so int8 weights are slower than they could be.`)
    : warn('processor', `${size}; neither AVX2 nor NEON: expect it to be slow.`);
}

/** Below this even the bundled pack may not fit. */
const leastFreeBytes = 2e9;

function checkDataDir({ dataDir }: Config): Finding {
  let existing = dataDir;
  while (!existsSync(existing) && path.dirname(existing) !== existing) existing = path.dirname(existing);
  try {
    accessSync(existing, constants.W_OK);
  } catch {
    return fail(
      'data folder',
      `${existing} cannot be written to; change its owner or name another with ${flagName('dataDir')}.`,
    );
  }
  const { bavail, bsize } = statfsSync(existing);
  const free = bavail * bsize;
  return free < leastFreeBytes
    ? warn('data folder', `${dataDir} has ${gigabytes(free)} left; weights and runs may not fit.`)
    : ok('data folder', `${dataDir}, ${gigabytes(free)} free.`);
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

function checkPort({ host, port }: Config): Promise<Finding> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', ({ code, message }: NodeJS.ErrnoException) => {
      resolve(
        code === 'EADDRINUSE'
          ? fail(
              'port',
              `Another program listens on ${host} port ${port}; stop it or choose another with ${flagName('port')}.`,
            )
          : fail('port', `${host} port ${port} cannot be listened on: ${message}.`),
      );
    });
    server.listen({ host, port }, () => {
      server.close(() => resolve(ok('port', port === 0 ? 'Any free one.' : `${host} port ${port} is free.`)));
    });
  });
}

function checkKeys(config: Config): Finding {
  const { apiKeysFile } = config;
  if (apiKeysFile === undefined) {
    const missing = missingKeys(config);
    return missing === undefined ? ok('keys', 'No API keys: only this machine is served.') : fail('keys', missing);
  }
  try {
    const { plain } = loadApiKeys(apiKeysFile);
    if (plain.length > 0) {
      const names = plain.join(', ');
      return warn('keys', `${apiKeysFile} holds ${names} in plain text; \`stv key\` makes lines with digests only.`);
    }
    return ok('keys', `${apiKeysFile} can be read.`);
  } catch (thrown) {
    return fail('keys', `${toStvError(thrown).message} \`stv key\` makes a line for it.`);
  }
}
