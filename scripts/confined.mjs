// Proves that the server runs as docs/deploy.md asks a container to run it: not root, the root file system read-only, no
// capabilities, no way to get any. Only its data folder can be written. Linux; needs root to take the rights away, and `npm run build`.
// Usage: node scripts/confined.mjs [PACK]   (default: the tiny checkpoint of the tests)
import { spawn } from 'node:child_process';
import { chownSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = fileURLToPath(new URL('..', import.meta.url));
const pack = process.argv[2] ?? path.join(repository, 'tests/goldens/tiny-llama');
const user = 65534;
if (process.platform !== 'linux' || process.getuid() !== 0) {
  throw new Error('Only root on Linux can make the confinement that this script proves.');
}

const data = mkdtempSync(path.join(tmpdir(), 'stv-confined-'));
chownSync(data, user, user);
const confine = [
  'mount --bind "$STV_DATA_DIR" "$STV_DATA_DIR"',
  'mount -o remount,bind,ro /',
  `exec setpriv --reuid ${user} --regid ${user} --clear-groups --bounding-set=-all --inh-caps=-all --ambient-caps=-all ` +
    '--no-new-privs "$@"',
].join('\n');
const command = [process.execPath, path.join(repository, 'dist/cli/main.js'), 'serve', '--port', '0', '--pack', pack];
const child = spawn('unshare', ['--mount', '--propagation', 'private', 'sh', '-euc', confine, 'sh', ...command], {
  cwd: repository,
  stdio: ['ignore', 'pipe', 'inherit'],
  env: { PATH: process.env.PATH, HOME: data, STV_DATA_DIR: data, STV_LOG_LEVEL: 'error', STV_THREADS: '1' },
});

function check(what, isRight) {
  console.log(`${isRight ? 'ok  ' : 'FAIL'} ${what}`);
  if (!isRight) process.exitCode = 1;
}

/** Processes of the server: itself and what it started. */
function family(pid) {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  return [pid, ...children.flatMap(family)];
}

try {
  const url = await new Promise((resolve, reject) => {
    let text = '';
    child.stdout.on('data', (chunk) => {
      text += chunk;
      const found = /listens on (http:\/\/\S+)/.exec(text);
      if (found !== null) resolve(found[1]);
    });
    child.once('exit', (code) => reject(new Error(`The server ended with exit code ${code}.`)));
  });
  const end = Date.now() + 300_000;
  while (!(await fetch(`${url}/health/ready`)).ok) {
    if (Date.now() > end) throw new Error('The server did not become ready.');
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  const answer = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'generator', prompt: 'x', max_tokens: 4 }),
  });
  check(`it serves (${answer.status})`, answer.status === 200);
  const processes = family(child.pid);
  check(`server and engine are ${processes.length} processes`, processes.length >= 2);
  for (const pid of processes) {
    const status = Object.fromEntries(
      readFileSync(`/proc/${pid}/status`, 'utf8')
        .split('\n')
        .map((line) => line.split(/:\s+/, 2)),
    );
    check(
      `process ${pid} has only user and group ${user}`,
      status.Uid === Array(4).fill(user).join('\t') && status.Gid === status.Uid,
    );
    const sets = ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'];
    check(
      `process ${pid} has no capabilities and can get none`,
      sets.every((set) => /^0+$/.test(status[set])) && status.NoNewPrivs === '1',
    );
  }
  // as root, in its view of the files: the mount itself refuses, not the permissions
  for (const place of ['/stv-probe', '/tmp/stv-probe', `${repository}stv-probe`]) {
    let refusal = 'nothing';
    try {
      writeFileSync(`/proc/${child.pid}/root${place}`, 'x');
      rmSync(`/proc/${child.pid}/root${place}`);
    } catch (error) {
      refusal = error.code;
    }
    check(`writing ${path.dirname(place)} is refused by ${refusal}`, refusal === 'EROFS');
  }
  check('its data folder is used', readdirSync(data).includes('runs.db'));
} finally {
  child.kill('SIGTERM');
  if (child.exitCode === null) await new Promise((resolve) => child.once('exit', resolve));
  check(`SIGTERM ends it with exit code ${child.exitCode}`, child.exitCode === 0);
  rmSync(data, { recursive: true, force: true });
}
