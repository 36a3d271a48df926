import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { addConfigFlags, configOf } from '../../src/cli/config-flags.ts';
import {
  type ConfigSources,
  configNames,
  configOptions,
  describeConfig,
  envName,
  flagName,
  isLoopback,
  loadConfig,
} from '../../src/config.ts';
import { StvError } from '../../src/errors.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const nowhere = { env: {}, cwd: '/nonexistent' };

function problemsOf(sources: ConfigSources): string[] {
  try {
    loadConfig(sources);
  } catch (error) {
    expect(error).toBeInstanceOf(StvError);
    expect((error as StvError).code).toBe('config_invalid');
    return (error as StvError).message.split('\n- ').slice(1);
  }
  throw new Error('The configuration was accepted.');
}

describe('loadConfig', () => {
  it('has the defaults that users rely on', () => {
    const config = loadConfig(nowhere);
    expect(config).toMatchObject({
      host: '127.0.0.1',
      port: 8000,
      device: 'auto',
      offline: false,
      logLevel: 'info',
      maxTextLength: 65_536,
      maxOutputTokens: 8192,
      maxBodyBytes: 1_048_576,
      maxSequences: 256,
      heartbeatMs: 15_000,
    });
    expect(Object.isFrozen(config)).toBe(true);
    expect(path.isAbsolute(config.dataDir)).toBe(true);
  });

  it('takes flags before the environment before the file', () => {
    const cwd = temporaryFolder({ 'stv.config.json': JSON.stringify({ port: 1, host: '127.0.0.2', offline: true }) });
    const env = { STV_PORT: '2', STV_HOST: '127.0.0.3' };
    expect(loadConfig({ cwd, env, flags: { port: '3' } })).toMatchObject({ port: 3, host: '127.0.0.3', offline: true });
  });

  it('names every mistake at once, with where it comes from', () => {
    const cwd = temporaryFolder({ 'stv.config.json': JSON.stringify({ prot: 1, numSlots: 'many' }) });
    const problems = problemsOf({ cwd, env: { STV_DEVICE: 'tpu' }, flags: { port: '99999', host: '0.0.0.0' } });
    expect(problems).toHaveLength(5);
    expect(problems).toEqual(
      expect.arrayContaining([
        'The configuration file names an unknown option, prot.',
        '--port must be an integer from 0 to 65535, got "99999".',
        'STV_DEVICE must be one of auto, cpu, cuda, webgpu, got "tpu".',
        'numSlots (configuration file) must be an integer from 1 to 1024, got "many".',
      ]),
    );
  });

  it.each([
    ['[1]', 'one JSON object'],
    ['{"port": ', 'not valid JSON'],
  ])('refuses the file %s', (content, words) => {
    expect(problemsOf({ env: {}, cwd: temporaryFolder({ 'stv.config.json': content }) })[0]).toContain(words);
  });

  it('refuses a named file that is not there, but not the default one', () => {
    expect(problemsOf({ ...nowhere, file: 'missing.json' })[0]).toContain('missing.json');
    expect(() => loadConfig(nowhere)).not.toThrow();
  });

  it.each(['0.0.0.0', '::', '192.168.1.5', 'example.org'])('refuses to listen on %s without keys', (host) => {
    expect(problemsOf({ ...nowhere, flags: { host } })[0]).toContain('--api-keys-file');
    expect(loadConfig({ ...nowhere, flags: { host, apiKeysFile: 'keys' } }).host).toBe(host);
  });

  it('hides secrets in what it prints and in what it refuses', () => {
    const config = loadConfig({ ...nowhere, env: { HF_TOKEN: 'hf_secret', STV_DATABASE: 'postgres://u:secret@h/d' } });
    expect(config.hfToken).toBe('hf_secret');
    expect(JSON.stringify(describeConfig(config))).not.toContain('secret');
    expect(problemsOf({ ...nowhere, flags: { hfToken: ['secret'] } })[0]).not.toContain('secret');
  });
});

describe('isLoopback', () => {
  it.each(['127.0.0.1', '127.8.8.8', 'localhost', 'LOCALHOST', '::1', '[::1]', '::ffff:127.0.0.1', 'a.localhost'])(
    '%s is',
    (host) => expect(isLoopback(host)).toBe(true),
  );
  it.each(['0.0.0.0', '::', '128.0.0.1', '127.0.0.1.example.org', 'localhost.example.org', ''])('%s is not', (host) =>
    expect(isLoopback(host)).toBe(false),
  );
});

describe('names', () => {
  it('follow from the option', () => {
    expect([flagName('apiKeysFile'), envName('apiKeysFile')]).toEqual(['--api-keys-file', 'STV_API_KEYS_FILE']);
    expect([flagName('generatorDevice'), envName('dataDir')]).toEqual(['--generator-device', 'STV_DATA_DIR']);
  });

  it('are flags of the command line, raw until they are checked together', () => {
    const folder = temporaryFolder();
    const file = path.join(folder, 'other.json');
    writeFileSync(file, '{"numSlots": 3}');
    const command = addConfigFlags(new Command());
    command.parse(['--port', '9', '--offline', '--config', file], { from: 'user' });
    expect(configOf(command.opts())).toMatchObject({ port: 9, offline: true, numSlots: 3 });
    const help = command.helpInformation();
    for (const name of configNames) {
      expect(help).toContain(flagName(name));
      expect(help).toContain(envName(name));
      expect(configOptions[name].meaning).toMatch(/^[A-Z].*[^.]$/);
    }
  });
});
