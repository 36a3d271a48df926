// Runs the Dockerfile's steps without a container engine, in clean folders: COPY, RUN, ENV and WORKDIR of each stage as they
// stand, then ENTRYPOINT + CMD as an unprivileged user and HEALTHCHECK against it. What it cannot show: the base image and
// its packages (`apt-get` steps are passed over) and the isolation of a container.
// Usage: node scripts/dockerfile-steps.mjs [TARGET]   (needs root to change the user; without, runs as the caller)
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import getPort from 'get-port';

const repository = fileURLToPath(new URL('..', import.meta.url));
const target = process.argv[2] ?? 'cpu';
const unprivileged = process.getuid() === 0 ? 65534 : undefined;
const work = mkdtempSync(path.join(tmpdir(), 'stv-image-'));
chmodSync(work, 0o755);

/** Logical lines: comments dropped, continuations joined. */
const lines = readFileSync(path.join(repository, 'Dockerfile'), 'utf8')
  .replace(/^#.*\n/gm, '')
  .replace(/\\\n\s*/g, ' ')
  .split('\n')
  .filter((line) => line.trim() !== '');

const stages = new Map();
let stage;

/** A path of the image inside the stage's folder. */
const inside = (where, file) => path.join(where.folder, path.resolve(where.workdir, file));

const steps = {
  FROM(rest) {
    const [, base, name] = /^(\S+) AS (\S+)$/.exec(rest) ?? [];
    const parent = stages.get(base);
    stage = { workdir: '/', ...parent, name, folder: path.join(work, name), env: { ...parent?.env } };
    stages.set(name, stage);
    if (parent === undefined) mkdirSync(stage.folder, { mode: 0o755 });
    else cpSync(parent.folder, stage.folder, { recursive: true });
  },
  WORKDIR(rest) {
    stage.workdir = rest;
    mkdirSync(inside(stage, '.'), { recursive: true });
  },
  COPY(rest) {
    const words = rest.split(/\s+/);
    const from = words[0].startsWith('--from=') ? stages.get(words.shift().slice(7)) : undefined;
    const to = words.pop();
    for (const word of words) {
      const source = from === undefined ? path.join(repository, word) : inside(from, word);
      const intoFolder = to.endsWith('/') && statSync(source).isFile();
      cpSync(source, inside(stage, intoFolder ? path.join(to, path.basename(word)) : to), { recursive: true });
    }
  },
  RUN(rest) {
    const command = rest
      .split(' && ')
      .filter((part) => !/^(apt-get|rm -rf \/var\/lib\/apt) ?/.test(part.trim()))
      .join(' && ');
    if (command === '') return;
    // paths of the image that a step makes outside the work folder
    const local = command
      .replaceAll(/ (\/(?:data|opt)\b)/g, (_, folder) => ` ${path.join(stage.folder, folder)}`)
      .replace('chown node:node', 'ls -d');
    const done = spawnSync('sh', ['-euc', local], {
      cwd: inside(stage, '.'),
      stdio: 'inherit',
      env: { ...process.env, ...stage.env },
    });
    if (done.status !== 0) throw new Error(`RUN ${rest}\nended with ${done.status}`);
  },
  ENV(rest) {
    for (const [, name, value] of rest.matchAll(/(\w+)=(\S+)/g))
      stage.env[name] = value.startsWith('/opt/') ? path.join(stage.folder, value) : value;
  },
  HEALTHCHECK(rest) {
    stage.healthcheck = JSON.parse(/CMD (\[.*\])/.exec(rest)[1]);
  },
  ENTRYPOINT(rest) {
    stage.entrypoint = JSON.parse(rest);
  },
  CMD(rest) {
    stage.cmd = JSON.parse(rest);
  },
  USER(rest) {
    stage.user = rest;
  },
  VOLUME() {},
  EXPOSE() {},
};

try {
  for (const line of lines) {
    const [, instruction, rest] = /^(\w+)\s+(.*)$/.exec(line.trim());
    if (stage?.name === target && instruction === 'FROM') break;
    if (steps[instruction] === undefined)
      throw new Error(`The Dockerfile holds ${instruction}, which this script does not know.`);
    console.log(`[${stage?.name ?? ''}] ${line.trim().slice(0, 140)}`);
    steps[instruction](rest);
  }
  const image = stages.get(target);
  if (image?.user === undefined || image.user === 'root')
    throw new Error(`Stage ${target} must set a USER other than root.`);

  const port = `${await getPort({ host: '127.0.0.1' })}`;
  const data = path.join(image.folder, 'data');
  const key = randomBytes(24).toString('base64url');
  const keys = path.join(image.folder, 'keys.json');
  writeFileSync(keys, JSON.stringify({ keys: [{ name: 'check', key, scopes: ['infer', 'metrics'] }] }));
  if (unprivileged !== undefined) for (const file of [data, keys]) chownSync(file, unprivileged, unprivileged);
  // the image listens on all addresses; this check stays on loopback
  const env = {
    PATH: process.env.PATH,
    HOME: data,
    ...image.env,
    STV_HOST: '127.0.0.1',
    STV_PORT: port,
    STV_DATA_DIR: data,
  };
  const [command, ...args] = [...image.entrypoint, ...image.cmd];
  const child = spawn(command, [...args, '--api-keys-file', keys], {
    cwd: inside(image, '.'),
    env,
    stdio: 'inherit',
    ...(unprivileged === undefined ? {} : { uid: unprivileged, gid: unprivileged }),
  });
  try {
    const healthy = () => spawnSync(image.healthcheck[0], image.healthcheck.slice(1), { env }).status === 0;
    const end = Date.now() + 300_000;
    let ready = false;
    while (!ready && Date.now() < end && child.exitCode === null) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      ready =
        healthy() &&
        (await fetch(`http://127.0.0.1:${port}/health/ready`).then(
          (a) => a.ok,
          () => false,
        ));
    }
    if (!ready) throw new Error('The image did not become ready.');
    const owner =
      unprivileged === undefined
        ? 'the caller'
        : readFileSync(`/proc/${child.pid}/status`, 'utf8').match(/^Uid:\s+(\d+)/m)[1];
    console.log(`healthy and ready as user ${owner}`);
  } finally {
    child.kill('SIGTERM');
    if (child.exitCode === null) await new Promise((resolve) => child.once('exit', resolve));
    console.log(`stopped with exit code ${child.exitCode}`);
  }
  if (child.exitCode !== 0) throw new Error('SIGTERM did not lead to exit code 0.');
} finally {
  rmSync(work, { recursive: true, force: true });
}
