import { type Command, CommanderError } from 'commander';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { createProgram, runProgram } from '../../../src/cli/program.ts';

function setUp() {
  const spies = [process.stdout, process.stderr].map((stream) => vi.spyOn(stream, 'write').mockReturnValue(true));
  onTestFinished(() => {
    for (const spy of spies) spy.mockRestore();
  });
  const exitCodes: number[] = [];
  const program = createProgram({ setExitCode: (code) => exitCodes.push(code), onServe: () => {} });
  const [stdout, stderr] = spies.map((spy) => () => spy.mock.calls.map(([text]) => String(text)).join(''));
  return { program, exitCodes, stdout: stdout as () => string, stderr: stderr as () => string };
}

function leavesOf(command: Command): Command[] {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(leavesOf);
}

function nameOf(command: Command): string {
  const { parent } = command;
  return parent === null || parent.parent === null ? command.name() : `${nameOf(parent)} ${command.name()}`;
}

describe('--json', () => {
  /** It answers over HTTP. */
  const others = ['serve'];

  it('is taken by every command that prints something', () => {
    const leaves = leavesOf(setUp().program);
    const names = leaves.map(nameOf);
    expect(names).toEqual(
      expect.arrayContaining([...others, 'traces export', 'key', 'device install', 'pull', 'verify']),
    );
    const without = leaves.filter(({ options }) => !options.some(({ long }) => long === '--json')).map(nameOf);
    expect(without).toEqual(others);
  });

  it('of `stv key` is one object with what else stands on two streams', async () => {
    const { program, stdout, stderr } = setUp();
    await runProgram(program, ['key', 'alice', '--scopes', 'infer,traces', '--json']);
    const made = JSON.parse(stdout()) as Record<string, string>;
    expect(made).toEqual({ object: 'api_key', name: 'alice', key: made['key'], line: made['line'] });
    expect(made['key']).toMatch(/^\S{20,}$/);
    expect(made['line']).toContain('infer,traces alice');
    expect(stderr()).toBe('');
  });
});

describe('stv config', () => {
  it('prints JSON, with and without the flag, and names variables that are misspelled', async () => {
    vi.stubEnv('STV_NUMSLOTS', '3');
    onTestFinished(() => void vi.unstubAllEnvs());
    for (const args of [['config'], ['config', '--json']]) {
      const { program, stdout, stderr } = setUp();
      await runProgram(program, [...args, '--num-slots', '5']);
      expect(JSON.parse(stdout())).toMatchObject({ numSlots: 5 });
      expect(stderr()).toContain('STV_NUMSLOTS is not known and is ignored; is STV_NUM_SLOTS meant?');
      vi.restoreAllMocks();
    }
  });
});

describe('an address that other machines can reach', () => {
  it.each([
    [['config'], undefined],
    [['serve'], /--api-keys-file/],
  ])('of %j', async ([command = ''], refusal) => {
    vi.stubEnv('STV_HOST', '0.0.0.0');
    onTestFinished(() => void vi.unstubAllEnvs());
    const { program } = setUp();
    const ran = runProgram(program, [command]);
    if (refusal === undefined) await ran;
    else await expect(ran).rejects.toThrow(refusal);
  });
});

describe('a command line that is wrong', () => {
  it.each([
    [['bogus'], "There is no command 'bogus'; there are serve, pull, config, key, verify, solve, eval"],
    [['sovle', 'x', '--seed', '1'], "There is no command 'sovle'"],
    [['serve', 'extra'], "too many arguments for 'serve'"],
    [['verify', 'x', '--url', 'nonsense'], 'begins with http:// or https://'],
    [['eval', 'x', '--url', 'localhost:8000'], 'begins with http:// or https://'],
  ])('%j says what', async (args, message) => {
    const { program, stderr } = setUp();
    await expect(runProgram(program, args)).rejects.toThrow(CommanderError);
    expect(stderr()).toContain(message);
  });

  it('also where the address comes from the environment', async () => {
    vi.stubEnv('STV_URL', 'ftp://127.0.0.1');
    onTestFinished(() => void vi.unstubAllEnvs());
    const { program, stderr } = setUp();
    await expect(runProgram(program, ['solve', 'x'])).rejects.toThrow(CommanderError);
    expect(stderr()).toContain('STV_URL');
  });

  it.each(['http://user:SECRET@127.0.0.1:9', 'https://SECRET@127.0.0.1:9'])(
    'says where a key belongs, and shows none of the address %s',
    async (url) => {
      const { program, stderr } = setUp();
      const refused = runProgram(program, ['verify', 'x', '--url', url]);
      await expect(refused).rejects.toMatchObject({
        code: 'config_invalid',
        message: expect.stringMatching(/STV_API_KEY/),
      });
      await expect(refused).rejects.not.toThrow(/SECRET/);
      expect(stderr()).toBe('');
    },
  );

  it('is one with a key that cannot be sent, which is not shown', async () => {
    vi.stubEnv('STV_API_KEY', 'stv_\u200bSECRET');
    onTestFinished(() => void vi.unstubAllEnvs());
    const { program, exitCodes, stderr } = setUp();
    await runProgram(program, ['solve', 'x', '--url', 'http://127.0.0.1:9']);
    expect(exitCodes).toEqual([2]);
    expect(stderr()).toBe('STV_API_KEY holds a character that cannot be sent.\n');
  });
});
