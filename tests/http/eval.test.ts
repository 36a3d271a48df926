import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { type EvalOptions, evaluate } from '../../src/cli/eval.ts';
import { exitCodes, withServer } from '../../src/cli/remote-call.ts';
import { createClient, StvConnectionError } from '../../src/client/client.ts';
import { StvError } from '../../src/errors.ts';
import { parseProblems } from '../../src/eval/problems.ts';
import type { EvalSettings } from '../../src/eval/record-types.ts';
import type { EvalReport } from '../../src/eval/report.ts';
import { digestProblems, runEval } from '../../src/eval/run-eval.ts';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { buildApp, closeApp, listen } from './build-app.ts';
import { promptText, type TestEngineOptions } from './test-engine.ts';

/** Knows every sum but those of `hard` on the first try, and says so truly. */
const engine: TestEngineOptions = {
  reply: ({ model, prompt }) => {
    const text = promptText(prompt);
    if (model.includes('verifier')) return text.includes('\\boxed{0}') ? 'Step 1 is wrong.' : 'All steps hold.';
    const [, a, b] = /(\d+) plus (\d+)/.exec(text) ?? [];
    const isFirst = text.includes('Solve:');
    return `So it is \\boxed{${text.includes('hard') && isFirst ? 0 : Number(a) + Number(b)}}`;
  },
  accept: ({ prompt }) => (promptText(prompt).includes('\\boxed{0}') ? 0.1 : 0.8),
};

const lines = [
  { id: 'one', problem: 'easy 1 plus 2', answer: '3', group: 'g' },
  { id: 'two', problem: 'hard 3 plus 4', answer: '7', reference: 'PRIVATE', group: 'g' },
  { id: 'three', problem: 'hard 5 plus 6', answer: '12', group: 'h' },
];

function setUp(url: string, rows: readonly object[] = lines) {
  const folder = temporaryFolder({ 'problems.jsonl': rows.map((row) => JSON.stringify(row)).join('\n') });
  const at = (name: string): string => path.join(folder, name);
  const options: EvalOptions = {
    chains: 18,
    maxRounds: 2,
    accept: { rule: 'single' },
    seed: 5,
    concurrency: 2,
    generator: {},
    verifier: {},
    resamples: 50,
    isStored: false,
    out: at('results.jsonl'),
    report: at('report.json'),
    plot: at('plot.svg'),
    isJson: true,
  };
  const printed = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  const warned = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  onTestFinished(() => {
    printed.mockRestore();
    warned.mockRestore();
  });
  return {
    options,
    at,
    report: () => JSON.parse(readFileSync(at('report.json'), 'utf8')) as EvalReport,
    run: (extra: Partial<EvalOptions> = {}) =>
      evaluate(at('problems.jsonl'), createClient({ baseUrl: url }), { ...options, ...extra }),
    printed: () => printed.mock.calls.map(([text]) => String(text)).join(''),
    warned: () => warned.mock.calls.map(([text]) => String(text)).join(''),
  };
}

describe('stv eval', () => {
  it('drives a server and gives the figures that its answers have', { timeout: 30_000 }, async () => {
    const test = await buildApp({ engine });
    const { run, report, printed, at } = setUp(await listen(test.app));
    expect(await run()).toBe(0);
    const { overall, groups, bins, missing } = report();
    expect(JSON.parse(printed())).toEqual(report());
    expect(missing).toBe(0);
    expect(overall).toMatchObject({ problems: 3, chains: 54 });
    expect(overall.rounds.map((round) => round.pass_at_1.value)).toEqual([1 / 3, 2 / 3, 2 / 3]);
    expect(overall.rounds.map((round) => round.accept_rate.value)).toEqual([1 / 3, 1, 1]);
    expect(overall.rounds[2]?.precision.value).toBeCloseTo(2 / 3);
    // right ones are all accepted; of four wrong attempts a chain the last two are accepted as well
    expect(overall.verdicts.accept_when_right.value).toBe(1);
    expect(overall.verdicts.reject_when_wrong.value).toBeCloseTo(2 / 3);
    expect(Object.keys(groups)).toEqual(['g', 'h']);
    expect(groups['g']?.rounds[2]?.pass_at_1.value).toBe(1);
    expect(Object.fromEntries(Object.entries(bins).map(([name, one]) => [name, one.problems]))).toEqual({
      easy: 1,
      hardest: 2,
    });
    // what the server counted is what the report adds up
    const { generator, verifier } = overall.tokens;
    const metrics = await test.metrics.expose();
    for (const [role, total] of [
      ['generator', generator],
      ['verifier', verifier],
    ] as const) {
      const counted = [
        ...metrics.text.matchAll(
          new RegExp(`stv_tokens_total\\{role="${role}",kind="(?:prompt|completion)"\\} (\\d+)`, 'g'),
        ),
      ];
      expect(counted.reduce((sum, [, tokens]) => sum + Number(tokens), 0)).toBe(total);
    }
    expect(readFileSync(at('plot.svg'), 'utf8')).toContain('<polyline');
    expect(readFileSync(at('results.jsonl'), 'utf8')).not.toContain('PRIVATE');
  });

  it('prints a table for people', async () => {
    const { run, printed } = setUp(await listen((await buildApp({ engine })).app));
    await run({ isJson: false });
    expect(printed()).toMatch(/^2 +66\.7 % \[.*\] +100\.0 %/m);
    expect(printed()).toContain('bin hardest');
  });

  it('does what is missing after a break, and nothing twice', async () => {
    const test = await buildApp({ engine });
    const { run, report, at } = setUp(await listen(test.app));
    await run();
    const whole = report();
    const text = readFileSync(at('results.jsonl'), 'utf8');
    const numRequests = test.engine.requests.length;
    await run();
    expect(test.engine.requests).toHaveLength(numRequests);
    // the process died while it wrote its last line
    writeFileSync(at('results.jsonl'), text.slice(0, -40));
    await run();
    expect(test.engine.requests.length).toBeGreaterThan(numRequests);
    expect(test.engine.requests.length).toBeLessThan(numRequests * 2);
    expect(report()).toEqual(whole);
  });

  it('refuses to go on with the results of other settings', async () => {
    const { run } = setUp(await listen((await buildApp({ engine })).app));
    await run();
    await expect(run({ seed: 6 })).rejects.toMatchObject({ code: 'config_invalid' });
  });

  it('refuses to go on with the results of another pack, be they complete', async () => {
    const { run, at } = setUp(await listen((await buildApp({ engine })).app));
    await run({ chains: 1 });
    const text = readFileSync(at('results.jsonl'), 'utf8');
    expect(text).toMatch(/"pack":"sha256:[0-9a-f]{64}"/);
    writeFileSync(at('results.jsonl'), text.replace(/"pack":"sha256:/, '"pack":"sha256:0'));
    await expect(run({ chains: 1 })).rejects.toThrow(/the pack that is served/);
  });

  it('leaves out what fails, says so, and does it at the next run', async () => {
    let isBroken = true;
    const failing: TestEngineOptions = {
      ...engine,
      reply: (request) => {
        if (isBroken && promptText(request.prompt).includes('5 plus 6')) throw new Error('broken');
        return engine.reply?.(request) ?? '';
      },
    };
    const { run, report, warned } = setUp(await listen((await buildApp({ engine: failing })).app));
    expect(await run({ chains: 1 })).toBe(1);
    expect(report()).toMatchObject({ missing: 1, overall: { problems: 2 } });
    expect(warned()).toContain('Problem three failed');
    isBroken = false;
    expect(await run({ chains: 1 })).toBe(0);
    expect(report()).toMatchObject({ missing: 0, overall: { problems: 3 } });
  });

  it('leaves out a problem of which a chain failed, and does it at the next run', async () => {
    let isBroken = true;
    const failing: TestEngineOptions = {
      ...engine,
      reply: (request) => {
        if (isBroken && request.id.includes('-c3-') && promptText(request.prompt).includes('5 plus 6'))
          throw new StvError('engine_crashed', 'The engine process ended.');
        return engine.reply?.(request) ?? '';
      },
    };
    const { run, report, warned } = setUp(await listen((await buildApp({ engine: failing })).app));
    expect(await run({ chains: 5 })).toBe(1);
    expect(report()).toMatchObject({ missing: 1, overall: { problems: 2, chains: 10 } });
    expect(warned()).toContain('Problem three failed: The engine process ended.');
    isBroken = false;
    expect(await run({ chains: 5 })).toBe(0);
    expect(report()).toMatchObject({ missing: 0, overall: { problems: 3, chains: 15 } });
  });

  it('counts an attempt that outgrew the context as what it is, and goes on', async () => {
    const rambling: TestEngineOptions = {
      ...engine,
      reply: (request) => {
        if (request.model.includes('verifier') && promptText(request.prompt).includes('hard'))
          throw new StvError('context_length_exceeded', 'The texts are too long.');
        return engine.reply?.(request) ?? '';
      },
    };
    const { run, report } = setUp(await listen((await buildApp({ engine: rambling })).app));
    expect(await run({ chains: 1 })).toBe(0);
    const { missing, overall, groups } = report();
    expect(missing).toBe(0);
    expect(overall).toMatchObject({ problems: 3, chains: 3 });
    const rounds = groups['g']?.rounds ?? [];
    expect(rounds.map((round) => round.pass_at_1.value)).toEqual([0.5, 0.5, 0.5]);
    expect(rounds.map((round) => round.accept_rate.value)).toEqual([0.5, 0.5, 0.5]);
  });

  it('verifies given attempts, and finds their first error', async () => {
    const rows = [
      { id: 'w', problem: 'easy 1 plus 2', answer: '3', attempt: '1 + 2 = 0\n\\boxed{0}', first_error: 1 },
      { id: 'r', problem: 'easy 1 plus 2', answer: '3', attempt: '\\boxed{3}', first_error: null },
    ];
    const { run, report } = setUp(await listen((await buildApp({ engine })).app), rows);
    await run({ chains: 1, maxRounds: 0 });
    expect(report().overall.first_error).toMatchObject({
      located_when_wrong: { value: 1 },
      accepted_when_right: { value: 1 },
      f1: 1,
    });
    expect(report().overall.equal_tokens).toBeNull();
  });

  it('keeps runs with their labels at the server when asked to', async () => {
    const store = new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db')));
    onTestFinished(() => store.close());
    const { run } = setUp(await listen((await buildApp({ engine, store })).app));
    await run({ chains: 1, isStored: true });
    const traces = await store.traces({ limit: 10, withLabels: true });
    expect(traces).toHaveLength(5);
    expect(traces.find(({ problem }) => problem.includes('3 plus 4'))?.label).toEqual({
      answer: '7',
      reference: 'PRIVATE',
    });
  });

  it('gets past any number of problems that fail by themselves', async () => {
    const rows = Array.from({ length: 12 }, (_, index) => ({
      problem: `easy ${index} plus 1`,
      answer: `${index + 1}`,
    }));
    const picky: TestEngineOptions = {
      ...engine,
      reply: (request) => {
        const [, a] = /(\d+) plus/.exec(promptText(request.prompt)) ?? [];
        if (Number(a) < 7) throw new StvError('context_length_exceeded', 'The problem is too long.');
        return engine.reply?.(request) ?? '';
      },
    };
    const { run, report } = setUp(await listen((await buildApp({ engine: picky })).app), rows);
    expect(await run({ chains: 1, concurrency: 1 })).toBe(1);
    expect(report()).toMatchObject({ missing: 7, overall: { problems: 5 } });
  });

  it('asks for nothing more once it has given up', async () => {
    let isGone = true;
    let numAsked = 0;
    const failing: TestEngineOptions = {
      ...engine,
      reply: (request) => {
        numAsked += 1;
        if (isGone) throw new StvError('deadline_exceeded', 'The engine is away.');
        return engine.reply?.(request) ?? '';
      },
    };
    const rows = Array.from({ length: 40 }, (_, index) => ({
      problem: `easy ${index} plus 1`,
      answer: `${index + 1}`,
    }));
    const { run } = setUp(await listen((await buildApp({ engine: failing })).app), rows);
    await expect(run({ chains: 1, concurrency: 4 })).rejects.toThrow('away');
    isGone = false;
    const before = numAsked;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(numAsked - before).toBeLessThanOrEqual(4);
    expect(numAsked).toBeLessThan(20);
  });

  it('stops asking once a result cannot be kept', async () => {
    const test = await buildApp({ engine });
    const client = createClient({ baseUrl: await listen(test.app) });
    const rows = Array.from({ length: 8 }, (_, index) => ({ problem: `easy ${index} plus 1`, answer: `${index + 1}` }));
    const problems = parseProblems(rows.map((row) => JSON.stringify(row)).join('\n'), 'problems.jsonl');
    const full = new StvError('config_invalid', 'results.jsonl cannot be written.');
    const append = (): never => {
      throw full;
    };
    const settings: EvalSettings = {
      chains: 1,
      max_rounds: 0,
      accept: { rule: 'single' },
      seed: 1,
      generator: {},
      verifier: {},
      problems: digestProblems(problems),
      pack: null,
    };
    const run = runEval(problems, client, { done: [], append }, { settings, concurrency: 1, isStored: false });
    await expect(run).rejects.toBe(full);
    expect(test.engine.requests.filter(({ model }) => model === 'generator')).toHaveLength(1);
  });

  it('gives up when the server is gone', async () => {
    const rows = Array.from({ length: 20 }, (_, index) => ({ problem: `${index}`, answer: '1' }));
    await expect(setUp('http://127.0.0.1:9', rows).run()).rejects.toThrow('cannot be reached');
  });

  it('ends as every command that reaches no server, be it with a single problem', async () => {
    const url = 'http://127.0.0.1:9';
    const { at, options, printed, warned } = setUp(url, [{ problem: '1', answer: '1' }]);
    const code = await withServer({ url }, (client) =>
      evaluate(at('problems.jsonl'), client, { ...options, chains: 1 }),
    );
    expect(code).toBe(exitCodes.server);
    expect(warned()).toContain('cannot be reached');
    expect(printed()).toBe('');
  });

  it('that has results keeps them, though the server is gone by now', async () => {
    const test = await buildApp({ engine });
    const url = await listen(test.app);
    const [first = {}, ...rest] = lines;
    const { run, at, report } = setUp(url, [first]);
    expect(await run({ chains: 1 })).toBe(0);
    const records = readFileSync(at('results.jsonl'), 'utf8').split('\n');
    await closeApp(test);
    const again = setUp(url, [first, ...rest]);
    // the settings hold a digest of the problems
    expect(await again.run({ chains: 1 }).catch((thrown: unknown) => thrown)).toBeInstanceOf(StvConnectionError);
    const [settings = ''] = readFileSync(again.at('results.jsonl'), 'utf8').split('\n');
    writeFileSync(again.at('results.jsonl'), `${[settings, records[1]].join('\n')}\n`);
    expect(await again.run({ chains: 1 })).toBe(1);
    expect(again.report()).toMatchObject({ missing: 2, overall: { problems: 1 } });
    expect(report()).toMatchObject({ missing: 0 });
  });
});
