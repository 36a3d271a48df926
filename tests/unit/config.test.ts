import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { addConfigFlags, configOf } from '../../src/cli/config-flags.ts';
import {
  type ConfigSources,
  configNames,
  configOptions,
  defaultDataDir,
  describeConfig,
  envName,
  flagName,
  isLoopback,
  loadConfig,
} from '../../src/config.ts';
import { StvError } from '../../src/errors.ts';
import { unknownVariables } from '../../src/unknown-variables.ts';
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
    const apiKeysFile = path.join(temporaryFolder({ keys: '' }), 'keys');
    expect(loadConfig({ ...nowhere, flags: { host, apiKeysFile } }).host).toBe(host);
    const missing = problemsOf({ ...nowhere, flags: { host, apiKeysFile: '/nonexistent/keys' } });
    expect(missing, 'said once').toEqual(['--api-keys-file must be a file that exists, got "/nonexistent/keys".']);
  });

  it('asks for no keys where nobody is served', () => {
    expect(loadConfig({ ...nowhere, listens: false, flags: { host: '0.0.0.0' } }).host).toBe('0.0.0.0');
  });

  it.each(['OTEL_EXPORTER_OTLP_ENDPOINT', 'HF_TOKEN'])('takes an empty %s for none', (name) => {
    const config = loadConfig({ ...nowhere, env: { [name]: '' } });
    expect([config.otlpEndpoint, config.hfToken]).toEqual([undefined, undefined]);
  });

  it('refuses variables of its own that are empty', () => {
    expect(problemsOf({ ...nowhere, env: { STV_HF_TOKEN: '', STV_OTLP_ENDPOINT: '' } })).toHaveLength(2);
  });

  it.each([
    ['linux', 'XDG_DATA_HOME'],
    ['win32', 'LOCALAPPDATA'],
  ])('keeps its data in the home folder on %s where %s is empty', (platform, name) => {
    expect(defaultDataDir({ [name]: '' }, platform)).toBe(defaultDataDir({}, platform));
    expect(defaultDataDir({ [name]: '/data' }, platform)).toBe(path.join('/data', 'stv-server'));
  });

  it('hides secrets in what it prints and in what it refuses', () => {
    const config = loadConfig({ ...nowhere, env: { HF_TOKEN: 'hf_secret', STV_DATABASE: 'postgres://u:secret@h/d' } });
    expect(config.hfToken).toBe('hf_secret');
    expect(JSON.stringify(describeConfig(config))).not.toContain('secret');
    expect(problemsOf({ ...nowhere, flags: { hfToken: ['secret'] } })[0]).not.toContain('secret');
  });

  it.each([
    ['{"hfToken": hf_SECRET}', 'line 1, column 13'],
    ['{\n  "port": 1,\n  "hfToken": "hf_SECRET}', 'line 3, column 14'],
    ['{"a": "hf_SECRET" "b"}', 'line 1, column 19'],
    ['{"a": 01, "hf_SECRET": 1}', 'line 1, column 8'],
    ['{"a": [1, {"hf_SECRET": tru}]}', 'line 1, column 25'],
    ['{"hf_SECRET": 1,}', 'line 1, column 17'],
    ['{"port": 1}\nhf_SECRET', 'line 2, column 1'],
    ['\ufeff{"hfToken": "hf_SECRET"}', 'line 1, column 1'],
    ['{"hfToken": "hf_SECRET\t"}', 'line 1, column 13'],
    ['hf_SECRET', 'line 1, column 1'],
  ])('says where %j is no JSON and quotes none of it', (content, words) => {
    const [problem] = problemsOf({ env: {}, cwd: temporaryFolder({ 'stv.config.json': content }) });
    expect(problem).toContain(words);
    expect(problem).not.toMatch(/SECRET|hfToken/);
  });

  it('hides user, password and query of every address, what is beside them not', () => {
    const flags = {
      otlpEndpoint: 'https://u:p_SECRET@collector.example:4318/x?key=q_SECRET',
      database: 'postgres://u:p_SE/CR@ET_SECRET@db.example/runs?password=q_SECRET',
      generatorRemote: 'https://gpu.example/v1#model',
    };
    const shown = describeConfig(loadConfig({ ...nowhere, flags }));
    expect(JSON.stringify(shown)).not.toMatch(/SECRET|SE\/CR/);
    expect(shown).toMatchObject({
      otlpEndpoint: 'https://***@collector.example:4318/x?***',
      database: 'postgres://***@db.example/runs?***',
      generatorRemote: 'https://gpu.example/v1#model',
    });
    expect(describeConfig(loadConfig({ ...nowhere, flags: { database: '/data/@team/runs.db' } }))['database']).toBe(
      '/data/@team/runs.db',
    );
    const wrong = {
      otlpEndpoint: 'u:SECRET@collector?SECRET',
      database: 'mysql://u:SECRET@h',
      generatorRemote: 'https://u:SECRET@h/v1?SECRET#m',
      verifierRemote: ['https://u:SECRET@h'],
    };
    const problems = problemsOf({ ...nowhere, flags: wrong });
    expect(problems).toHaveLength(4);
    expect(problems.join()).not.toContain('SECRET');
    expect(problems.join()).toContain('***@h');
  });

  it('refuses every wrong address, network, origin and file, all at once', () => {
    const flags = {
      trustedProxies: 'not-an-ip',
      corsOrigins: 'garbage *',
      generatorRemote: 'ftp://x',
      verifierRemote: 'http://',
      otlpEndpoint: 'nonsense',
      apiKeysFile: '/nonexistent/keys',
    };
    const problems = problemsOf({ ...nowhere, flags });
    for (const name of Object.keys(flags)) {
      expect(problems.filter((text) => text.startsWith(flagName(name as keyof typeof flags)))).toHaveLength(1);
    }
    expect(problems).toHaveLength(6);
  });

  it.each([
    ['trustedProxies', '10.0.0.0/33'],
    ['trustedProxies', '10.0.0.0/255.0.255.0'],
    ['trustedProxies', '::1/129'],
    ['trustedProxies', '10.0.0.1,'],
    ['trustedProxies', '10.0.0.1 10.0.0.2'],
    ['corsOrigins', '*'],
    ['corsOrigins', 'https://a.example/'],
    ['corsOrigins', 'https://a.example, null'],
    ['corsOrigins', 'file:///x'],
    ['apiKeysFile', '/tmp'],
    ['otlpEndpoint', 'localhost:4318'],
  ])('refuses %s %s', (name, value) => {
    expect(problemsOf({ ...nowhere, flags: { [name]: value } })).toHaveLength(1);
  });

  it('takes what the HTTP framework takes for proxies and browsers send as origins', async () => {
    const trustedProxies =
      '10.0.0.1, 10.0.0.0/8,192.168.0.0/255.255.0.0, ::1, fd00::/8, loopback, uniquelocal, linklocal';
    const corsOrigins = 'https://a.example, http://localhost:3000,http://[::1]:8080';
    const generatorRemote = 'openai:http://127.0.0.1:8000/v1#org/name';
    const flags = { trustedProxies, corsOrigins, generatorRemote };
    const config = loadConfig({ ...nowhere, flags });
    expect(config).toMatchObject(flags);
    const { default: fastify } = await import('fastify');
    expect(() => fastify({ trustProxy: config.trustedProxies ?? false })).not.toThrow();
  });

  it('names the variable that holds a mistake, also where another tool gave it its name', () => {
    expect(problemsOf({ ...nowhere, env: { OTEL_EXPORTER_OTLP_ENDPOINT: 'nonsense' } })[0]).toMatch(
      /^OTEL_EXPORTER_OTLP_ENDPOINT must be/,
    );
  });
});

describe('unknownVariables', () => {
  it('are those that begin with STV_ and are no option, with the name that was probably meant', () => {
    const env = { STV_NUMSLOTS: '4', STV_NUM_SLOTS: '4', STV_PROT: '1', STV_XYZZY_OF_MINE: '1', PATH: '', STVX: '' };
    expect(unknownVariables(env)).toEqual([
      { name: 'STV_NUMSLOTS', nearest: 'STV_NUM_SLOTS' },
      { name: 'STV_PROT', nearest: 'STV_PORT' },
      { name: 'STV_XYZZY_OF_MINE', nearest: undefined },
    ]);
  });

  it('are none of those that something else reads or sets', () => {
    const names = [
      'STV_URL',
      'STV_API_KEY',
      'STV_VLLM',
      'STV_GENERATOR_API_KEY',
      'STV_GPU_API_KEY',
      'STV_TEST_DATA_DIR',
    ];
    const platform = ['STV_SERVER_PORT', 'STV_SERVER_SERVICE_HOST', 'STV_PORT_8000_TCP', 'STV_SERVICE_HOST'];
    const env = Object.fromEntries([...names, ...platform, ...configNames.map(envName)].map((name) => [name, '']));
    expect(unknownVariables(env)).toEqual([]);
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
