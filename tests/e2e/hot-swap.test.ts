/** Exchange of models under load: no failed request, each answer from one model, the old process gone; and all the ways it is refused. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { postJson } from '../support/json-request.ts';
import { freshFolder, type RunningServer, repository, startServer } from '../support/start-server.ts';

interface Loaded {
  readonly models: readonly { readonly name: string; readonly aliases: readonly string[]; readonly digest: string }[];
  readonly memory_bytes: number;
  readonly draining: readonly { readonly users: number }[];
  readonly load: { readonly status: string; readonly error: { readonly code: string } | null } | null;
  readonly available: readonly { readonly name: string; readonly kind: string }[];
}

const goldens = path.join(repository, 'tests/goldens');
const folder = freshFolder();
let server: RunningServer;

/** A pack with prompts short enough for the tiny models' contexts. */
function writePack(folder: string, name: string, checkpoint: string): string {
  const pack = path.join(folder, name);
  cpSync(path.join(goldens, checkpoint), path.join(pack, 'weights'), { recursive: true });
  writeFileSync(path.join(pack, 'prompt.jinja'), '{{ problem }}');
  const role = { source: './weights', weights: 'fp32' };
  const prompt = { messages: [{ role: 'user', template: 'prompt.jinja' }] };
  const sampling = { temperature: 0, max_tokens: 16 };
  writeFileSync(
    path.join(pack, 'pack.json'),
    JSON.stringify({
      format: 1,
      name,
      version: '1.0.0',
      license: 'Apache-2.0',
      roles: { generator: role, verifier: role },
      prompts: { generate: prompt, refine: prompt, verify: prompt },
      feedback: { open: '<', close: '>', stop: ['>'] },
      verdict: { open: '[', close: ']', words: { accept: 'y', reject: 'n' }, min_mass: 0 },
      answer: 'last_line',
      sampling: { generator: sampling, verifier: sampling },
      calibration: null,
    }),
  );
  return pack;
}

beforeAll(async () => {
  const models = path.join(folder, 'models');
  mkdirSync(models);
  const first = writePack(models, 'llama', 'tiny-llama');
  writePack(models, 'qwen', 'tiny-qwen3');
  cpSync(path.join(goldens, 'tiny-qwen3'), path.join(models, 'bare'), { recursive: true });
  cpSync(path.join(goldens, 'tiny-qwen3'), path.join(folder, 'outside'), { recursive: true });
  cpSync(path.join(goldens, 'tiny-qwen2'), path.join(models, 'killed'), { recursive: true });
  symlinkSync(path.join(folder, 'outside'), path.join(models, 'link'));
  mkdirSync(path.join(models, 'broken'));
  writeFileSync(path.join(models, 'broken/pack.json'), '{}');
  cpSync(path.join(goldens, 'tiny-qwen3'), path.join(models, 'damaged'), { recursive: true });
  const weights = path.join(models, 'damaged', 'model.safetensors');
  writeFileSync(weights, readFileSync(weights).subarray(0, 5000));
  server = await startServer({
    args: ['--pack', first, '--threads', '1', '--weights', 'fp32', '--model-folders', models],
    dataDir: path.join(folder, 'data'),
  });
});
afterAll(() => server?.stop());

const post = (route: string, body: unknown): Promise<Response> => postJson(`${server.url}${route}`, body);

async function loaded(): Promise<Loaded> {
  return (await fetch(`${server.url}/admin/models`)).json() as Promise<Loaded>;
}

async function digestOf(role: string): Promise<string | undefined> {
  return (await loaded()).models.find(({ aliases }) => aliases.includes(role))?.digest;
}

function hosts(): readonly number[] {
  return readFileSync(`/proc/${server.pid}/task/${server.pid}/children`, 'utf8').trim().split(' ').map(Number);
}

async function until(holds: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await holds())) await sleep(20);
}

describe('hot swap', () => {
  it('refuses names that lead out of the folders, and everything it cannot load, and serves on', async () => {
    const before = await loaded();
    expect(before.models).toHaveLength(1); // both roles name the same checkpoint
    expect(before.available.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['bare', 'broken', 'damaged', 'llama', 'qwen', 'smollm2']),
    );
    expect(before.available.map(({ name }) => name)).not.toContain('link');
    const refusals: readonly (readonly [string, number, string])[] = [
      ['../outside', 400, 'invalid_value'],
      ['llama/../../outside', 400, 'invalid_value'],
      ['/etc/passwd', 400, 'invalid_value'],
      ['.', 400, 'invalid_value'],
      ['link', 404, 'model_not_found'],
      ['nothing', 404, 'model_not_found'],
      ['llama/pack.json', 404, 'model_not_found'],
      ['broken', 422, 'model_load_failed'],
      ['damaged', 422, 'model_load_failed'],
    ];
    for (const [name, status, code] of refusals) {
      const answer = await post('/admin/models/verifier/load', { name });
      expect([name, answer.status, ((await answer.json()) as { error: { code: string } }).error.code]).toEqual([
        name,
        status,
        code,
      ]);
    }
    expect((await post('/admin/models/judge/load', { name: 'llama' })).status).toBe(400);
    const after = await loaded();
    expect(after.models).toEqual(before.models);
    expect(after.load).toMatchObject({ name: 'damaged', status: 'failed', error: { code: 'model_load_failed' } });
    expect((await post('/verify', { problem: 'p', solution: 's', max_tokens: 4 })).status).toBe(200);
  });

  it('exchanges models under load: every answer is whole and names one model, and the old process ends', async () => {
    const first = await digestOf('generator');
    const seen = new Set<string>();
    const failures: string[] = [];
    let numAnswers = 0;
    let isOver = false;
    const chat = async (): Promise<void> => {
      const body = {
        model: 'generator',
        stream: true,
        max_tokens: 40,
        messages: [{ role: 'user', content: 'A step' }],
      };
      const answer = await post('/v1/chat/completions', body);
      const text = await answer.text();
      const chunks = [...text.matchAll(/^data: (\{.*\})$/gm)].map(
        ([, json = '']) => JSON.parse(json) as { system_fingerprint: string },
      );
      const names = new Set(chunks.map(({ system_fingerprint }) => system_fingerprint));
      if (answer.status !== 200 || names.size !== 1 || !text.includes('[DONE]'))
        failures.push(`${answer.status} ${text}`);
      for (const name of names) seen.add(name);
      numAnswers++;
    };
    const verify = async (): Promise<void> => {
      const answer = await post('/verify', {
        problem: 'p',
        solution: 's',
        votes: 2,
        early_stop: false,
        max_tokens: 24,
      });
      const text = await answer.text();
      if (answer.status !== 200) failures.push(text);
      else seen.add((JSON.parse(text) as { model: string }).model);
      numAnswers++;
    };
    const work = [chat, chat, chat, verify, verify].map(async (call) => {
      while (!isOver) await call();
    });
    await until(() => numAnswers > 10);
    const run = post('/solve', {
      problem: 'p',
      max_rounds: 12,
      generator: { max_tokens: 200 },
      verifier: { max_tokens: 60 },
    });

    const swap = post('/admin/models/verifier/load', { name: 'qwen' });
    await until(async () => (await loaded()).load?.status === 'loading');
    const second = await post('/admin/models/generator/load', { name: 'qwen' });
    expect(second.status).toBe(409);
    expect((await swap).status).toBe(200);
    expect(await digestOf('generator')).toBe(first);
    const verifier = await digestOf('verifier');
    expect(verifier).not.toBe(first);
    // a run keeps what it began with
    const solved = (await (await run).json()) as { status: string; models: { generator: string; verifier: string } };
    expect(solved).toMatchObject({ error: null });
    expect([solved.models.generator, solved.models.verifier].map((name) => name.split('@')[1])).toEqual([first, first]);

    // a copy of the verifier's file: both roles share one model again
    expect((await post('/admin/models/generator/load', { name: 'bare' })).status).toBe(200);
    expect((await loaded()).models).toHaveLength(1);
    const count = numAnswers;
    await until(() => numAnswers > count + 10);
    isOver = true;
    await Promise.all(work);
    expect(failures).toEqual([]);
    const digests = new Set([...seen].map((name) => name.replace(/^.*(?:sha256:|fp_)/, '').slice(0, 12)));
    expect(digests).toEqual(new Set([first, verifier].map((digest) => digest?.slice('sha256:'.length).slice(0, 12))));

    await until(async () => (await loaded()).draining.length === 0);
    expect(hosts()).toHaveLength(1);
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toMatch(/stv_model_swaps_total\{outcome="ready"\} 2/);
    expect(metrics).not.toMatch(/stv_model_info\{.*state="draining"/);
    expect(metrics).toContain(`model="bare@${verifier}",state="serving"`);
  });

  it('converts in a process of its own: its death fails the load, with the reason, and nothing else', async () => {
    const before = (await loaded()).models;
    const isConversion = (pid: number): boolean => {
      const commandLine = `/proc/${pid}/cmdline`;
      return existsSync(commandLine) && readFileSync(commandLine, 'utf8').includes('prepare-child');
    };
    const load = post('/admin/models/verifier/load', { name: 'killed' });
    let conversion: number | undefined;
    await until(() => {
      conversion = hosts().find(isConversion);
      return conversion !== undefined;
    });
    process.kill(conversion ?? 0, 'SIGKILL');
    const refused = await load;
    expect(refused.status).toBe(422);
    expect(await refused.text()).toContain('signal SIGKILL');
    expect((await loaded()).models).toEqual(before);
    expect((await post('/verify', { problem: 'p', solution: 's', max_tokens: 4 })).status).toBe(200);
    expect((await post('/admin/models/verifier/load', { name: 'killed' })).status).toBe(200);
    expect((await post('/admin/models/verifier/load', { name: 'bare' })).status).toBe(200);
    await until(async () => (await loaded()).draining.length === 0);
  });

  it('starts again after a crash with what was swapped in, and its memory is that of one host', async () => {
    const before = await digestOf('generator');
    const [host = 0] = hosts();
    process.kill(host, 'SIGKILL');
    await until(async () => {
      const [now] = hosts();
      return now !== host && (await fetch(`${server.url}/health/ready`)).ok;
    });
    const answer = await post('/v1/completions', { model: 'generator', prompt: 'A', max_tokens: 2 });
    const { system_fingerprint: print } = (await answer.json()) as { system_fingerprint: string };
    expect(before).toContain(print.slice('fp_'.length));
    const { memory_bytes: bytes } = await loaded();
    const [, resident] = /^VmRSS:\s*(\d+)/m.exec(readFileSync(`/proc/${hosts()[0]}/status`, 'utf8')) ?? [];
    expect(Math.abs(bytes - Number(resident) * 1024)).toBeLessThan(0.3 * bytes);
    expect(readdirSync(path.join(folder, 'data/models')).filter((name) => name.includes('.partial'))).toEqual([]);
  });
});
