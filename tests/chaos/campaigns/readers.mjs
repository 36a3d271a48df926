// Clients that hang up, clients that stop reading, and many clients that only wait.
import { spawn } from 'node:child_process';
import { once, setMaxListeners } from 'node:events';
import path from 'node:path';
import { post, words } from '../support/client.mjs';
import { mebibytes, sleep, until } from '../support/report.mjs';
import { processFacts, scratchFolder, startServer } from '../support/server.mjs';

export const summary = 'clients that hang up, that stop reading, that only wait';
export const defaults = { times: 500 };
export const short = { times: 200 };

const lesson = 'A pen costs 3 euros and a book costs 5 euros. How much do two pens and one book cost together?';
const long = { max_tokens: 1200, ignore_eos: true, model: 'generator' };
const loop = {
  problem: lesson,
  max_rounds: 20,
  accept: { rule: 'consecutive', k: 20 },
  generator: { max_tokens: 24 },
  verifier: { max_tokens: 400 },
};

/** When each client hangs up: at once, or at an event of its stream. */
const phases = [
  { name: 'prefill', route: '/v1/completions', kind: 'openai', body: { ...long, prompt: words(1, 700) }, afterMs: 60 },
  { name: 'decode', route: '/v1/completions', kind: 'openai', body: { ...long, prompt: words(2, 12) }, at: () => true },
  {
    name: 'attempt of a loop',
    route: '/solve',
    kind: 'named',
    body: { ...loop, generator: { max_tokens: 400 } },
    at: ({ event }) => event === 'attempt-delta',
  },
  {
    name: 'voting',
    route: '/verify',
    kind: 'named',
    body: { problem: lesson, solution: '2 * 3 + 5 = 11', votes: 5, max_tokens: 400, early_stop: false },
    at: ({ event }) => event.endsWith('-delta'),
  },
  {
    name: 'verification of a loop',
    route: '/solve',
    kind: 'named',
    body: loop,
    at: ({ event }) => event === 'verification-delta',
  },
  {
    name: 'between rounds',
    route: '/solve',
    kind: 'named',
    body: { ...loop, verifier: { max_tokens: 8 } },
    at: ({ event }) => event === 'round-end',
  },
];

export async function run(report, { times }) {
  const database = ['--database', path.join(scratchFolder(), 'runs.db')];
  await hangUps(report, database);
  await stoppedReader(report, database);
  await idleStreams(report, database, times);
}

async function hangUps(report, args) {
  report.section('Clients that hang up');
  const server = await startServer({ args });
  try {
    for (const { name, route, kind, body, at, afterMs } of phases) {
      await server.idle();
      const controller = new AbortController();
      let stepsBefore;
      const hangUp = async () => {
        if (stepsBefore !== undefined) return;
        stepsBefore = 0;
        stepsBefore = numSteps(await server.metrics());
        controller.abort();
      };
      const ended = post(server.url, route, body, {
        kind,
        signal: controller.signal,
        onEvent: (item) => at?.(item) && hangUp(),
      });
      if (afterMs !== undefined) setTimeout(hangUp, afterMs);
      await ended;
      const isFree = await server.idle(20_000);
      const steps = numSteps(await server.metrics()) - stepsBefore;
      report.check(
        `hanging up in ${name} frees everything (${steps} more steps, those of the scrape before it among them)`,
        isFree && steps <= 12,
        `${isFree ? 'free' : 'not free'} after ${steps} steps`,
      );
    }
    await waitingOnes(report, server);
    await slotsFree(report, server);
  } finally {
    await server.stop();
  }
}

/** More than fit into the slots: those that wait leave the queue. */
async function waitingOnes(report, server) {
  const controller = manyReaders();
  const all = Array.from({ length: 40 }, (_, n) =>
    post(server.url, '/v1/completions', { ...long, prompt: words(n + 10, 12) }, { signal: controller.signal }),
  );
  const waited = await until(20_000, async () => (await server.metrics()).sum('stv_sequences_waiting') > 0);
  controller.abort();
  await Promise.all(all);
  report.check('sequences waited', waited === true);
  report.check('hanging up in the queue frees everything', await server.idle(20_000));
}

/** One signal for all, without Node's warning of so many listeners. */
function manyReaders() {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}

async function slotsFree(report, server) {
  report.check('the metrics count steps', numSteps(await server.metrics()) > 0);
  // the host tells it once it has read the last hang-up, after the step that it was in; no request comes after it
  const isFree = await until(
    30_000,
    async () => (await server.metrics()).sum('stv_kv_cache_slots', { state: 'used' }) === 0,
  );
  report.check('no slot is held', isFree === true);
}

const numSteps = (metrics) => metrics.sum('stv_step_duration_seconds_count', { part: 'forward' });

/** A reader with a receive buffer of a few kilobytes that reads the head of the answer and then nothing more. */
const reader = `
import socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.connect(('127.0.0.1', int(sys.argv[1])))
body = sys.argv[2].encode()
s.sendall(b'POST /v1/chat/completions HTTP/1.1\\r\\nhost: localhost\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n' % len(body) + body)
s.recv(512)
print('reading', flush=True)
time.sleep(600)
`;

async function stoppedReader(report, args) {
  report.section('A client that stops reading');
  const server = await startServer({ args: [...args, '--slow-reader-ms', '1000'] });
  const body = {
    ...long,
    // one choice's 2 MB fit into the buffers of a loopback connection, and nobody would notice
    n: 8,
    stream: true,
    logprobs: true,
    top_logprobs: 20,
    messages: [{ role: 'user', content: 'Count.' }],
  };
  const child = spawn('python3', ['-c', reader, String(server.port), JSON.stringify(body)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    await once(child.stdout, 'data');
    const line = await until(120_000, () => server.stderr.split('\n').find((text) => text.includes('cut off')));
    const entry = line === undefined ? undefined : JSON.parse(line);
    report.check('it is cut off, with an error in the log', entry?.level === 50, line ?? 'no such line');
    report.figure('bytes that waited for it in the process', entry?.unreadBytes);
    report.check('less than 256 KiB waited for it', entry?.unreadBytes < 256 * 1024);
    report.check('its sequence is free', await server.idle(20_000));
  } finally {
    child.kill('SIGKILL');
    await server.stop();
  }
}

async function idleStreams(report, args, count) {
  report.section(`${count} streams that wait`);
  const server = await startServer({ args: [...args, '--stall-seconds', '600'] });
  const host = server.hostPid();
  try {
    // the code that serves them is compiled and its buffers are there
    await Promise.all(
      Array.from({ length: 32 }, (_, n) =>
        post(server.url, '/v1/completions', { ...long, prompt: words(n, 12), max_tokens: 2 }),
      ),
    );
    await server.idle();
    await sleep(1000);
    const before = processFacts(server.pid).residentBytes;
    process.kill(host, 'SIGSTOP');
    const controller = manyReaders();
    const all = Array.from({ length: count }, (_, n) =>
      post(server.url, '/v1/completions', { ...long, prompt: words(n + 100, 12) }, { signal: controller.signal }),
    );
    const isOpen = await until(60_000, async () => (await server.metrics()).sum('stv_open_streams') === count, 200);
    report.check(`${count} streams are open`, isOpen === true);
    await sleep(1000);
    const each = (processFacts(server.pid).residentBytes - before) / count;
    report.figure('resident memory of each', `${(each / 1024).toFixed(0)} KiB`);
    report.check('less than 200 KiB each', each < 200 * 1024);
    controller.abort();
    await Promise.all(all);
    process.kill(host, 'SIGCONT');
    report.check('all of it is free afterwards', await server.idle(30_000));
    await slotsFree(report, server);
    report.figure(
      'resident memory afterwards',
      `${mebibytes(processFacts(server.pid).residentBytes)}, before ${mebibytes(before)}`,
    );
  } finally {
    process.kill(host, 'SIGCONT');
    await server.stop();
  }
}
