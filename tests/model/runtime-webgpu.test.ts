import { existsSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { compileChild, runChild } from '../support/run-child.ts';

// SwiftShader, a Vulkan driver that needs no GPU, as Debian's chromium package brings it
const driver = process.env['VK_ICD_FILENAMES'] ?? '/usr/lib/chromium/vk_swiftshader_icd.json';

describe('WebGPU', () => {
  let script = '';
  beforeAll(() => {
    script = compileChild('tests/model/children/runtime-webgpu.ts');
  });

  it.runIf(process.platform === 'linux')('is refused as unavailable where no driver is found', async () => {
    const child = await runChild(script, [], {
      nodeFlags: ['--expose-gc'],
      env: { VK_ICD_FILENAMES: '/nowhere.json', VK_DRIVER_FILES: '/nowhere.json' },
    });
    expect(child.code).toBe(1);
    expect(child.stderr).toContain('The device webgpu is not available: it needs a graphics driver');
    expect(child.stderr).toContain("code: 'device_unavailable'");
  });

  it('computes what the CPU computes, with the cache on the device, one run at a time', async (test) => {
    if (process.platform !== 'linux' || !existsSync(driver)) {
      test.skip(
        `No Vulkan driver at ${driver}: install Debian's chromium package, or name a driver in VK_ICD_FILENAMES.`,
      );
    }
    const folders = [path.dirname(driver), process.env['LD_LIBRARY_PATH']].filter((folder) => folder !== undefined);
    const child = await runChild(script, [], {
      nodeFlags: ['--expose-gc'],
      // the loader libvulkan.so.1 lies beside the driver unless the system has one
      env: { VK_ICD_FILENAMES: driver, LD_LIBRARY_PATH: folders.join(':') },
    });
    expect(child).toMatchObject({ code: 0, signal: null });
    const close = { isClose: true, isSomething: true };
    const busy = 'runtime_failed: Another WebGPU run of this process has not ended.';
    expect(
      child.stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line)),
    ).toEqual([
      ['location', 'webgpu'],
      ['device to device', [22, 28]],
      ['host to host', [1, 2]],
      ['data of a device tensor', expect.stringContaining('runtime_failed: The data of a tensor on the device webgpu')],
      ...['float32', 'float16', 'int8', 'uint8', 'int32', 'int64'].map((type) => [`copies of ${type}`, true]),
      ['attention after 0 and 4', close],
      ['attention after 4 and 1', close],
      ['attention after 5 and 3', close],
      ['attention after 8 and 1', close],
      ['cached keys', close],
      ['cached values', close],
      ['second run', busy],
      ['second async run', busy],
      ['bind during a run', busy],
      ['allocate during a run', busy],
      ['copy during a run', busy],
      ['create during a run', busy],
      ['after it', [5, 6]],
      ['bad model', expect.stringMatching(/^runtime_failed: ONNX Runtime: .*NoSuchOperator/su)],
      ['end', {}],
    ]);
  });
});
