import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { chooseDevices } from '../../../src/cli/choose-devices.ts';
import { compareVersions } from '../../../src/cli/doctor.ts';
import { checkDevice } from '../../../src/cli/doctor-devices.ts';
import { checkPip } from '../../../src/cli/doctor-weights.ts';
import { acceptRule } from '../../../src/cli/flag-values.ts';
import { firstCall } from '../../../src/cli/serve.ts';
import { type Config, loadConfig } from '../../../src/config.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

describe('acceptRule', () => {
  it.each([
    ['single', { rule: 'single' }],
    ['consecutive:3', { rule: 'consecutive', k: 3 }],
    ['votes:3/5', { rule: 'votes', k: 3, n: 5 }],
    ['score:0.9', { rule: 'score', threshold: 0.9 }],
  ])('%s', (text, rule) => {
    expect(acceptRule(text)).toEqual(rule);
  });

  it.each([
    '',
    'single:1',
    'votes:3',
    'votes:6/5',
    'consecutive',
    'consecutive:0',
    'consecutive:2/3',
    'score:2',
    'often',
  ])('refuses %s', (text) => {
    expect(() => acceptRule(text)).toThrow(/It must be/);
  });
});

describe('the parts of doctor', () => {
  it('compares versions by number', () => {
    expect(compareVersions('20.9.0', '20.20')).toBeLessThan(0);
    expect(compareVersions('20.20.0', '20.20')).toBe(0);
    expect(compareVersions('24.0.0', '20.20')).toBeGreaterThan(0);
  });

  it('says that there is no Python', () => {
    expect(checkPip('no-such-python')).toMatchObject({ status: 'fail', message: expect.stringContaining('install') });
  });
});

describe('what doctor says of devices', () => {
  const name = process.platform === 'win32' ? 'onnxruntime_providers_cuda.dll' : 'libonnxruntime_providers_cuda.so';
  const found = (flags: Partial<Config>, { hasSet = false, hasNvidia = false, providers = [''] } = {}): string => {
    const dataDir = temporaryFolder();
    if (hasSet) {
      mkdirSync(path.join(dataDir, 'devices', 'cuda'), { recursive: true });
      writeFileSync(path.join(dataDir, 'devices', 'cuda', name), '');
    }
    const config = loadConfig({ env: {}, cwd: '/nonexistent', flags: { ...flags, dataDir } });
    const { status, message } = checkDevice(chooseDevices(config, hasNvidia), providers, hasNvidia);
    return `${status}: ${message}`;
  };
  const gpu = { hasSet: true, hasNvidia: true };

  it.each<[what: string, flags: Partial<Config>, machine: Parameters<typeof found>[1], words: RegExp]>([
    ['a GPU that is taken', {}, gpu, /^ok: .*cuda where its driver works/],
    ['a GPU that is not', {}, { hasNvidia: true }, /^warn: .*stv device install cuda/],
    ['no GPU', {}, { hasSet: true }, /^ok: .*CPU/],
    ['a GPU that nothing asks for', { device: 'cpu' }, gpu, /^ok: .*CPU/],
    [
      'a device that each role sets aside',
      { device: 'cuda', generatorDevice: 'cpu', verifierDevice: 'cpu' },
      {},
      /^ok/,
    ],
    ['one role on cuda', { device: 'cpu', verifierDevice: 'cuda' }, gpu, /^warn: .*cuda; whether/],
    ['cuda without a GPU', { device: 'cuda' }, { hasSet: true }, /^fail: No NVIDIA/],
    ['webgpu', { device: 'webgpu' }, { providers: ['WebGpuExecutionProvider'] }, /^warn: .*webgpu/],
    ['webgpu that the library lacks', { device: 'webgpu' }, {}, /^fail: .*--library-path/],
  ])('%s', (_, flags, machine, words) => expect(found(flags, machine)).toMatch(words));
});

describe('the call that a server prints when it begins', () => {
  it.each([
    [true, /\/verify -H 'authorization: Bearer KEY' -H 'content-type/],
    [false, /\/verify -H 'content-type/],
  ])('with keys required: %s', (isKeyRequired, words) =>
    expect(firstCall({ url: 'http://127.0.0.1:8000', isKeyRequired })).toMatch(words),
  );
});
