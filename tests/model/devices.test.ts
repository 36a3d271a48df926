/** What a machine without a GPU can show of devices: choices, errors, the loss of a device, the library set, attention in float16. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, vi } from 'vitest';
import { chooseDevices } from '../../src/cli/choose-devices.ts';
import { installCuda } from '../../src/cli/device.ts';
import type { Config } from '../../src/config.ts';
import { HostLoop } from '../../src/engine/host-loop.ts';
import type { FromHost } from '../../src/engine/messages.ts';
import { StvError } from '../../src/errors.ts';
import { installLibraries } from '../../src/models/device-install.ts';
import { loadCausalLM } from '../../src/models/load-causal-lm.ts';
import { openOnDevice } from '../../src/models/open-on-device.ts';
import { prepareModel } from '../../src/models/prepare-model.ts';
import { cudaSetFolder } from '../../src/runtime/cuda-set.ts';
import { runFailure } from '../../src/runtime/session.ts';
import { deviceUnavailable } from '../../src/runtime/session-options.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const config = { device: 'auto', generatorDevice: 'same', verifierDevice: 'same', libraryPath: undefined } as const;
const failed = (message: string) => new StvError('runtime_failed', `ONNX Runtime: ${message}`);

function folderWithSet(): string {
  const dataDir = temporaryFolder();
  mkdirSync(cudaSetFolder(dataDir), { recursive: true });
  writeFileSync(path.join(cudaSetFolder(dataDir), 'libonnxruntime_providers_cuda.so'), '');
  return dataDir;
}

describe('devices', () => {
  it('are chosen for each role, with the library that has them', () => {
    const dataDir = temporaryFolder();
    expect(chooseDevices({ ...config, dataDir }, false)).toEqual({
      of: { generator: 'auto', verifier: 'auto' },
      libraryPath: undefined,
    });
    expect(chooseDevices({ ...config, dataDir }, true).hint).toContain('stv device install cuda');
    const withSet = folderWithSet();
    const chosen = chooseDevices({ ...config, device: 'cpu', verifierDevice: 'cuda', dataDir: withSet }, false);
    expect(chosen).toEqual({ of: { generator: 'cpu', verifier: 'cuda' }, libraryPath: cudaSetFolder(withSet) });
    // without a GPU the set does not replace the library that serves the CPU
    expect(chooseDevices({ ...config, dataDir: withSet }, false).libraryPath).toBeUndefined();
    const refusal = (changes: object) => () => chooseDevices({ ...config, dataDir, ...changes }, true);
    expect(refusal({ device: 'cuda' })).toThrow(/its libraries are not installed. Run `stv device install cuda`/);
    expect(refusal({ device: 'cuda', libraryPath: '/lib/x.so' })).toThrow(/does not lie beside \/lib\/x.so/);
    expect(refusal({ device: 'cuda', verifierDevice: 'webgpu' })).toThrow(/cannot use cuda and webgpu/);
  });

  it.each([
    ['libcuda.so.1: cannot open shared object file', 'this machine has no NVIDIA driver'],
    ['libcublasLt.so.13: cannot open shared object file', 'CUDA libraries are missing; `stv device install cuda`'],
    ['CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version', 'driver is too old'],
    ['CUDA failure 100: no CUDA-capable device is detected', 'no NVIDIA GPU is visible'],
    ['CUDA failure 101: invalid device ordinal', 'there is no GPU of this number'],
    ['libonnxruntime_providers_cuda.so with error: undefined symbol: x', 'of another version'],
  ])('say why CUDA cannot be had: %s', (reason, why) => {
    const error = deviceUnavailable({ type: 'cuda' }, failed(reason));
    expect(error).toMatchObject({ code: 'device_unavailable', message: expect.stringContaining(why) });
    expect(error.message).toContain(reason);
  });

  it('that are full or lost are told from a step that failed', () => {
    const full = runFailure(failed('RunWithBinding: fail: CUDA failure 2: out of memory'), 'cuda');
    expect(full).toMatchObject({
      code: 'device_unavailable',
      message: expect.stringMatching(/out of memory.*fewer slots/s),
    });
    for (const message of ['CUDA failure 700: an illegal memory access', 'VK_ERROR_DEVICE_LOST', 'Device was lost.']) {
      expect(runFailure(failed(message), 'webgpu')).toMatchObject({ code: 'device_lost' });
    }
    const other = failed('RunWithBinding: invalid argument: shape');
    expect(runFailure(other, 'cuda')).toBe(other);
  });

  it('`auto` goes on with the CPU when CUDA cannot be had, and with nothing else', () => {
    const libraryPath = cudaSetFolder(folderWithSet());
    const options = { dir: '', libraryPath, numSlots: 1, maxLength: 1, maxLanes: 1, maxBatchedTokens: 1 };
    const onCpu = {} as ReturnType<typeof loadCausalLM>;
    const loading = (code: 'device_unavailable' | 'pack_invalid') => (given: { readonly device?: unknown }) => {
      if (given.device !== undefined) throw new StvError(code, 'Why.');
      return onCpu;
    };
    const opened = openOnDevice({ ...options, device: 'auto' }, loading('device_unavailable'));
    expect(opened).toEqual({ model: onCpu, device: 'cpu', warning: 'The models run on the CPU. Why.' });
    expect(() => openOnDevice({ ...options, device: 'cuda' }, loading('device_unavailable'))).toThrow('Why.');
    expect(() => openOnDevice({ ...options, device: 'auto' }, loading('pack_invalid'))).toThrow('Why.');
  });

  it('that are lost in the middle of a run end the host, so that a fresh one begins', async () => {
    const messages: FromHost[] = [];
    const codes: number[] = [];
    let isDisposed = false;
    const limits = { vocabSize: 9, numSlots: 1, maxLength: 9, maxLanes: 1, maxBatchedTokens: 9 };
    const forward = (): never => {
      throw new StvError('device_lost', 'The device cuda was lost.');
    };
    const dispose = (): void => {
      isDisposed = true;
    };
    const loop = new HostLoop({
      openModel: () => ({ model: { limits, forward, copyPrefix: () => {}, dispose }, device: 'cuda' }),
      post: (message) => messages.push(message),
      exit: (code) => codes.push(code),
    });
    const model = { ...limits, dir: '', chunkTokens: 9, threads: 1, libraryPath: undefined };
    const flags = { reusePrefixes: true, drafting: false, device: 'cuda', kv: 'auto' } as const;
    await loop.handle({ type: 'load', models: [{ ...model, ...flags }] });
    expect(messages.at(-1)).toMatchObject({ type: 'ready', models: [{ device: 'cuda' }] });
    const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, presencePenalty: 0, frequencyPenalty: 0 };
    const sequence = {
      id: 1,
      prompt: Int32Array.of(1),
      maxTokens: 2,
      stopTokens: [],
      sampling: { ...sampling, repetitionPenalty: 1 },
      priority: 'interactive',
      logprobs: undefined,
      promptRows: [],
    } as const;
    await loop.handle({ type: 'add', model: 0, sequence }).catch((thrown: unknown) => loop.crash(thrown));
    expect(messages.at(-1)).toMatchObject({ type: 'fatal', code: 'device_lost' });
    expect(codes).toEqual([1]);
    // releasing what a lost device held may never come back
    expect(isDisposed).toBe(false);
  });

  it.each(['tiny-llama', 'tiny-qwen3'])('attention in float16 stays close to float32: %s', async (name) => {
    const checkpoint = fileURLToPath(new URL(`../goldens/${name}`, import.meta.url));
    const { dir } = await prepareModel({ checkpoint, cacheDir: temporaryFolder(), weights: 'fp32' });
    const options = { dir, numSlots: 3, maxLength: 64, maxLanes: 2, maxBatchedTokens: 32, threads: 1 };
    const [exact, half] = [loadCausalLM(options), loadCausalLM({ ...options, attention: 'float16' })];
    const steps = [
      [{ slot: 0, past: 0, tokens: [5, 6, 7, 8, 9], logitRows: [4] }],
      [
        { slot: 0, past: 5, tokens: [10], logitRows: [0] },
        { slot: 1, past: 0, tokens: [3, 4, 5], logitRows: [0, 2] },
      ],
    ];
    const differences = (lanes: (typeof steps)[number]): number[] => {
      const [a, b] = [exact.forward(lanes), half.forward(lanes)];
      return Array.from({ length: a.numRows }, (_, row) =>
        a.row(row).reduce((most, value, i) => Math.max(most, Math.abs(value - (b.row(row)[i] as number))), 0),
      );
    };
    for (const lanes of steps) for (const each of differences(lanes)) expect(each).toBeLessThan(0.02);
    for (const model of [exact, half]) model.copyPrefix(0, 2, 4);
    expect(differences([{ slot: 2, past: 4, tokens: [1], logitRows: [0] }])[0]).toBeLessThan(0.02);
    expect(Math.max(...steps.flatMap(differences))).toBeGreaterThan(0); // it is another graph
    for (const model of [exact, half]) model.dispose();
  });
});

const hasPip = spawnSync('python3', ['-m', 'pip', '--version']).status === 0;

describe.runIf(hasPip)('the library set', () => {
  /** A folder with the wheel `tiny` 1.0, which pip takes packages from in place of an index. */
  function wheelFolder(): { readonly env: Record<string, string | undefined>; readonly sha256: string } {
    const links = temporaryFolder();
    const wheel = path.join(links, 'tiny-1.0-py3-none-any.whl');
    const files = {
      'nvidia/lib/libtiny.so.1': 'library',
      '../libescape.so': 'x',
      'tiny-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n',
      'tiny-1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
      'tiny-1.0.dist-info/RECORD': '',
    };
    const script =
      'import json, sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], "w") as z:\n  for n, c in json.load(sys.stdin).items(): z.writestr(n, c)';
    expect(spawnSync('python3', ['-c', script, wheel], { input: JSON.stringify(files) }).status).toBe(0);
    const sha256 = createHash('sha256').update(readFileSync(wheel)).digest('hex');
    return { env: { ...process.env, PIP_NO_INDEX: '1', PIP_FIND_LINKS: links }, sha256 };
  }

  it('is put in place whole, or not at all', async () => {
    const { env, sha256 } = wheelFolder();
    const parent = temporaryFolder();
    const folder = path.join(parent, 'cuda');
    const tiny = { package: 'tiny', version: '1.0', sha256, libraries: ['libtiny.so.1'] };
    const install = (wanted: typeof tiny) => installLibraries({ folder, packages: [wanted], env });
    await expect(install({ ...tiny, sha256: '0' })).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining(`has the hash ${sha256}`),
    });
    await expect(install({ ...tiny, libraries: ['libother.so'] })).rejects.toThrow(/it holds no libother.so/);
    await expect(install({ ...tiny, package: 'absent' })).rejects.toMatchObject({ code: 'download_failed' });
    expect(existsSync(folder)).toBe(false);
    // of installations that were killed
    for (const left of ['.partial/tiny', '.partial-1/libraries']) mkdirSync(folder + left, { recursive: true });
    await install(tiny);
    expect(readdirSync(folder).sort()).toEqual(['libtiny.so.1', 'packages.json']);
    expect(readdirSync(parent)).toEqual(['cuda']);
  }, 60_000);
});

it.runIf(process.platform === 'linux' && process.arch === 'x64')(
  'an installation that is told to end leaves nothing behind',
  async () => {
    const dataDir = temporaryFolder();
    const bin = temporaryFolder();
    writeFileSync(path.join(bin, 'python3'), '#!/bin/sh\nexec /bin/sleep 60\n', { mode: 0o755 });
    vi.stubEnv('PATH', bin);
    const before = process.listeners('SIGTERM');
    try {
      const installing = installCuda({ dataDir } as Config, true);
      await vi.waitFor(() => expect(existsSync(`${cudaSetFolder(dataDir)}.partial/onnxruntime-gpu`)).toBe(true));
      // as the signal does, but without the listeners of whoever runs this test
      for (const listener of process.listeners('SIGTERM')) if (!before.includes(listener)) listener('SIGTERM');
      await expect(installing).rejects.toMatchObject({ code: 'cancelled' });
    } finally {
      vi.unstubAllEnvs();
    }
    expect(readdirSync(path.dirname(cudaSetFolder(dataDir)))).toEqual([]);
  },
);
