/** `stv verify` and `stv solve` as users start them, against a scripted server. Needs `npm run build`. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { loadApiKeys } from '../../src/api-keys.ts';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import { buildApp, listen, type TestApp, type TestAppOptions } from '../http/build-app.ts';
import { lessonAttempts, lessonEngine, lessonProblem } from '../support/lesson.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const [wrong, better, right] = lessonAttempts.map((attempt) => attempt.text) as [string, string, string];

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface StvOptions {
  readonly stdin?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Sent once stderr holds this text. */
  readonly interruptAt?: string;
}

async function stv(args: readonly string[], options: StvOptions = {}): Promise<Outcome> {
  const child = spawn(process.execPath, [main, ...args], {
    env: { PATH: process.env['PATH'], ...options.env },
    stdio: [options.stdin === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  });
  if (options.stdin !== undefined) child.stdin?.end(options.stdin);
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (piece: string) => {
    const hadIt = options.interruptAt !== undefined && stderr.includes(options.interruptAt);
    stderr += piece;
    if (!hadIt && options.interruptAt !== undefined && stderr.includes(options.interruptAt)) child.kill('SIGINT');
  });
  const [stdout, [code]] = await Promise.all([text(child.stdout as NodeJS.ReadableStream), once(child, 'close')]);
  return { code: code as number | null, stdout, stderr };
}

async function serve(
  options: TestAppOptions = {},
): Promise<TestApp & { readonly flags: readonly string[]; readonly pace: { delayMs: number } }> {
  const pace = { delayMs: 0 };
  const app = await buildApp({ engine: lessonEngine(pace), ...options });
  return { ...app, flags: ['--url', await listen(app.app)], pace };
}

async function openStore(): Promise<SqlRunStore> {
  const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
  onTestFinished(() => store.close());
  return store;
}

describe('stv verify', () => {
  it('says reject, where, and why; the result alone on stdout', async () => {
    const { flags } = await serve();
    const { code, stdout, stderr } = await stv(['verify', lessonProblem, '--solution', wrong, ...flags]);
    expect(stdout).toBe('reject 0.070\nstep 1: 4x - 3 + 5 = 2x + 9\n');
    expect(stderr).toContain(lessonAttempts[0]?.feedback);
    expect(stderr).toContain('reject  █░░░░░░░░░░░░░░░░░░░ 7.0 %');
    expect(code).toBe(1);
  });

  it('takes texts from files and pipes and exits 0 for accept', async () => {
    const { flags } = await serve();
    const folder = temporaryFolder({ problem: `${lessonProblem}\n`, right, wrong });
    const [problem, solution] = [path.join(folder, 'problem'), path.join(folder, 'right')];
    expect((await stv(['verify', '-f', problem, '--solution-file', solution, ...flags])).code).toBe(0);
    expect((await stv(['verify', lessonProblem, ...flags], { stdin: `${right}\n` })).code).toBe(0);
    expect((await stv(['verify', lessonProblem, '--score-only', ...flags], { stdin: wrong })).stdout).toBe(
      'reject 0.070\n',
    );
  });

  it('--json prints the answer of the server, votes and all', async () => {
    const { flags } = await serve();
    const given = ['verify', lessonProblem, '-s', right, '--votes', '3', '--json', '--seed', '5', ...flags];
    const { code, stdout, stderr } = await stv(given);
    const answer = JSON.parse(stdout) as Record<string, unknown>;
    expect(answer).toMatchObject({ object: 'verification', verdict: 'accept', agreement: 1 });
    expect(stderr).toContain('Vote 2: Every step holds.');
    expect(code).toBe(0);
  });
});

describe('stv solve', () => {
  it('shows the rounds on stderr and prints the solution on stdout', async () => {
    const { flags } = await serve();
    const { code, stdout, stderr } = await stv(['solve', lessonProblem, ...flags]);
    expect(stdout).toBe(`${right}\n`);
    const places = [
      'Round 0: attempt',
      wrong,
      'Round 0: verification',
      'reject',
      'Round 1: attempt',
      better,
      'Round 2',
    ];
    let at = 0;
    for (const place of [...places, right, 'accept  ', 'accepted, P(accept) 0.940']) {
      expect(stderr.indexOf(place, at), place).toBeGreaterThanOrEqual(at);
      at = stderr.indexOf(place, at);
    }
    expect(code).toBe(0);
  });

  it('exits 1 when nothing was accepted, and begins with an attempt that is given', async () => {
    const { flags, engine } = await serve();
    const problem = path.join(temporaryFolder({ problem: lessonProblem }), 'problem');
    const { code, stdout, stderr } = await stv(
      ['solve', '--file', '-', '--attempt', wrong, '--max-rounds', '1', '--accept', 'score:0.9', '--json', ...flags],
      { stdin: lessonProblem },
    );
    expect(JSON.parse(stdout)).toMatchObject({ status: 'exhausted', stop_reason: 'max_rounds', solution: better });
    expect(stderr).toContain('exhausted (max_rounds), P(accept) 0.310');
    expect(engine.requests.filter(({ model }) => model === 'generator')).toHaveLength(1);
    expect(code).toBe(1);
    const abstained = ['solve', '-f', problem, '--max-rounds', '0', '--on-exhausted', 'abstain', ...flags];
    expect(await stv(abstained)).toMatchObject({ code: 1, stdout: '' });
  });

  it('shows several chains each by itself', async () => {
    const { flags } = await serve();
    const { code, stderr } = await stv(['solve', lessonProblem, '--chains', '2', '--accept', 'votes:2/3', ...flags]);
    expect(stderr).toContain('Chain 1, round 0: attempt');
    expect(stderr.split(`Chain 0, round 0: attempt\n${wrong}\n`)).toHaveLength(2);
    expect(code).toBe(0);
  });

  it('Ctrl-C cancels a run that is not stored and exits 130', async () => {
    const { flags, pace, runs } = await serve();
    pace.delayMs = 50;
    const { code } = await stv(['solve', lessonProblem, ...flags], { interruptAt: 'Round 0: attempt' });
    expect(code).toBe(130);
    await expect.poll(() => runs.numLive).toBe(0);
  });

  it('Ctrl-C leaves a stored run to the server, and --follow shows it from its beginning to its end', async () => {
    const { flags, pace, runs } = await serve({ store: await openStore() });
    pace.delayMs = 50;
    const left = await stv(['solve', lessonProblem, '--store', ...flags], { interruptAt: 'Round 0: attempt' });
    expect(left.code).toBe(130);
    expect(runs.numLive).toBe(1);
    const [, id = ''] = /stv solve --follow (slv_\w+)/.exec(left.stderr) ?? [];
    pace.delayMs = 0;
    const followed = await stv(['solve', '--follow', id, ...flags]);
    expect(followed).toMatchObject({ code: 0, stdout: `${right}\n` });
    expect(followed.stderr).toContain(wrong);
  });
});

describe('what goes wrong', () => {
  it('on the command line exits 2 and says what', async () => {
    const { flags } = await serve();
    const cases: readonly (readonly [readonly string[], string])[] = [
      [['solve'], 'A problem is needed'],
      [['solve', 'x', '--chains', '0'], 'whole number of at least 1'],
      [['solve', 'x', '--accept', 'votes:3'], 'votes:K/N'],
      [['solve', 'x', '--file', 'y'], 'not both'],
      [['solve', '--file', '/nonexistent/file'], 'cannot be read'],
      [['solve', 'x', '--accept', 'votes:3/2', ...flags], 'votes:K/N with K up to N'],
      [['verify', 'x'], 'A solution is needed'],
      [['verify', 'x', '-s', 'y', '--votes', '1000', ...flags], 'votes'],
      [['solve', 'x', '--nonsense'], '--nonsense'],
      [['solve', '--follow', 'slv_00', ...flags], 'There is no such run'],
      [['verify', 'x', '-s', 'y', '--url', 'nonsense'], 'begins with http:// or https://'],
      [['bogus'], "There is no command 'bogus'; there are serve, pull,"],
    ];
    for (const [args, message] of cases) {
      const { code, stdout, stderr } = await stv(args);
      expect([code, stdout], args.join(' ')).toEqual([2, '']);
      expect(stderr, args.join(' ')).toContain(message);
    }
  });

  it('at the server exits 3: unreachable, no key, failed', async () => {
    const nobody = await stv(['solve', 'x', '--url', 'http://127.0.0.1:1']);
    expect(nobody).toMatchObject({ code: 3, stdout: '' });
    expect(nobody.stderr).toContain('cannot be reached');

    const keys = path.join(temporaryFolder(), 'keys');
    writeFileSync(keys, 'secret infer a\n');
    const { flags } = await serve({ keys: loadApiKeys(keys) });
    const refused = await stv(['verify', 'x', '-s', 'y', ...flags]);
    expect(refused.code).toBe(3);
    expect(refused.stderr).toContain('STV_API_KEY');
    const allowed = await stv(['verify', lessonProblem, '-s', right, ...flags], { env: { STV_API_KEY: 'secret' } });
    expect(allowed.code).toBe(0);
  });

  it("a model's text cannot steer the terminal", async () => {
    const { flags } = await serve({ engine: { reply: () => 'a \u001b[2J\u001b]0;title\u0007 b', accept: () => 0.9 } });
    const { stderr } = await stv(['solve', 'x', ...flags]);
    expect(stderr).toContain('[2J');
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    expect(stderr).not.toMatch(/[\u001b\u0007]/);
  });
});
