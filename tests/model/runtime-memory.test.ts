import { beforeAll, describe, expect, it } from 'vitest';
import { compileChild, runChild } from '../support/run-child.ts';

describe('sessions that share weights', () => {
  it('keep one packed copy of them, and compute the same', async () => {
    const script = compileChild('tests/model/children/runtime-shared-weights.ts');
    const [shared, separate] = await Promise.all(
      ['shared', 'separate'].map(async (mode) => {
        const child = await runChild(script, [mode]);
        expect(child).toMatchObject({ code: 0, signal: null });
        return JSON.parse(child.stdout) as { growthMiB: number; numSums: number; sum: number };
      }),
    );
    expect(shared?.numSums).toBe(1);
    expect(shared?.sum).toBeGreaterThan(1);
    expect(shared?.sum).toBe(separate?.sum);
    // six sessions over a 16 MiB weight: sharing saves five packed copies
    expect((separate?.growthMiB ?? 0) - (shared?.growthMiB ?? 0)).toBeGreaterThan(60);
  });
});

describe('under forced garbage collection', () => {
  let loop = '';
  let misuse = '';
  beforeAll(() => {
    loop = compileChild('tests/model/children/runtime-loop.ts');
    misuse = compileChild('tests/model/children/runtime-misuse.ts');
  });

  // 200 sessions with 1 MiB of weights each would show as 200 MiB
  it.each(['dispose', 'forget'])('memory stays bounded: %s', async (mode) => {
    const child = await runChild(loop, [mode], { nodeFlags: ['--expose-gc'] });
    expect(child).toMatchObject({ code: 0, signal: null });
    expect(JSON.parse(child.stdout)).toEqual({ growthMiB: expect.any(Number) });
    expect(JSON.parse(child.stdout).growthMiB).toBeLessThan(40);
  });

  it('misuse ends in an error or in the right result, never in a crash', async () => {
    const child = await runChild(misuse, [], { nodeFlags: ['--expose-gc'] });
    expect(child).toMatchObject({ code: 0, signal: null });
    const lines = child.stdout.trim().split('\n');
    const refused = (message: RegExp): object => ({
      code: 'runtime_failed',
      message: expect.stringMatching(message),
    });
    const value = (result: unknown): object => ({ value: result });
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      ['run after the session was disposed', refused(/session was disposed/u)],
      ['run after the binding was disposed', refused(/binding was disposed/u)],
      ['async run after the session was disposed', refused(/session was disposed/u)],
      ['run with a disposed tensor', refused(/input a was disposed/u)],
      ['bind a disposed tensor', refused(/tensor was disposed/u)],
      ['wrong shape in a run', refused(/ONNX Runtime: RunWithBinding.*\{1000,2\}/su)],
      ['output of too few rows', refused(/ONNX Runtime: RunWithBinding.*\{1,2\}/su)],
      ['end profiling that never began', refused(/profilePrefix/u)],
      ['dispose of everything twice, parents first', value('nothing happened')],
      ['keep only session and binding', value([22, 28])],
      ['keep only the binding', value([22, 28])],
      ['keep only a tensor of a forgotten runtime', value([76, 100])],
      ['forget everything during an async run', value([22, 28])],
      ['dispose of everything during an async run', value([22, 28])],
      ['async runs of many bindings at once', value(true)],
      ['forget shared weights and their container', value(0.64)],
      ['forget a shared initializer that is read in each run', value([2])],
      ['a disposed initializer', refused(/tensor was disposed/u)],
      ['a disposed container', refused(/container was disposed/u)],
      ['an initializer of the wrong shape', refused(/weights must be uint8 \[64, 2, 32\] .*, not uint8 \[1, 1, 32\]/u)],
      ['an initializer of the wrong type', refused(/weights must be uint8 .*, not float32/u)],
      ['an external initializer of the wrong shape', refused(/weights must be uint8 .*, not uint8 \[64\]/u)],
      ['initializers for what is no model', refused(/cannot be read as ONNX/u)],
      ['an initializer that the model does not have', refused(/no initializer named nothing/u)],
      ['a model cut short at every length', value(true)],
      ['shared threads after an environment without them', refused(/GlobalThreadPools/u)],
      ['a negative number of threads', refused(/sharedThreads must be .*, not -1/u)],
      ['end', {}],
    ]);
  });
});
