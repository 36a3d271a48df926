import { type StdioOptions, spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { compileChild } from '../../support/run-child.ts';

/** Every write to it finds the disk full. */
const fullDevice = '/dev/full';

describe.skipIf(!existsSync(fullDevice))('output that nobody takes', () => {
  let script: string;
  beforeAll(() => {
    script = compileChild('tests/unit/cli/children/full-output.ts');
  }, 120_000);

  function run(kind: 'server' | 'command', full: readonly ('stdout' | 'stderr')[]) {
    const device = openSync(fullDevice, 'w');
    const target = (name: 'stdout' | 'stderr') => (full.includes(name) ? device : 'pipe');
    const stdio: StdioOptions = ['ignore', target('stdout'), target('stderr')];
    const result = spawnSync(process.execPath, [script, kind], { stdio, encoding: 'utf8' });
    closeSync(device);
    return result;
  }

  it('does not end a server', () => {
    expect(run('server', ['stdout', 'stderr']).status).toBe(7);
    const { status, stdout } = run('server', ['stderr']);
    expect({ status, stdout }).toEqual({ status: 7, stdout: 'answer 0\nanswer 1\nanswer 2\n' });
  });

  it('ends a command where the answer is lost, not where the log is', () => {
    expect(run('command', ['stderr'])).toMatchObject({ status: 7, stdout: 'answer 0\nanswer 1\nanswer 2\n' });
    const { status, stderr } = run('command', ['stdout']);
    expect(status).toBe(1);
    expect(stderr).toContain('ENOSPC');
  });
});
