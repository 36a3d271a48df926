/** The command line of `stv`: every command with its flags. Each loads what it needs when it runs. */
import { Command } from 'commander';
import { describeConfig } from '../config.ts';
import { version } from '../version.ts';
import { addConfigFlags, configOf, warnOfUnknownVariables } from './config-flags.ts';
import { addSolve } from './solve.ts';
import { addToolCommands } from './tool-commands.ts';
import { addVerify } from './verify.ts';

export interface ProgramHooks {
  /** Gets what a command ends with. */
  readonly setExitCode: (code: number) => void;
  /** Called when the command turns out to be the server. */
  readonly onServe: () => void;
}

/** Throws CommanderError for what is wrong with a command line, and after help and version. */
export function createProgram({ setExitCode, onServe }: ProgramHooks): Command {
  const program = new Command('stv')
    .description('Server for verification, refinement and the verification-refinement loop')
    .version(version)
    .exitOverride();

  addConfigFlags(program.command('serve', { isDefault: true }))
    .description('Serve a pack over HTTP (the default)')
    .action(async (options: Record<string, unknown>) => {
      onServe();
      warnOfUnknownVariables();
      const { serve } = await import('./serve.ts');
      setExitCode(await serve(configOf(options, { listens: true })));
    });

  addConfigFlags(program.command('pull'))
    .description('Fetch and convert the weights of a pack, a checkpoint or a source, so that serving needs no network')
    .argument('[pack]', 'what `--pack` takes')
    .option('--json', 'print the models as JSON')
    .action(async (pack: string | undefined, options: Record<string, unknown>) => {
      const { pullPack } = await import('./pull.ts');
      await pullPack(configOf(pack === undefined ? options : { ...options, pack }), options['json'] === true);
    });

  addConfigFlags(program.command('config'))
    .description('Print the configuration that holds as JSON, with secrets hidden')
    .option('--json', 'print JSON; it always does')
    .action((options: Record<string, unknown>) => {
      warnOfUnknownVariables();
      process.stdout.write(`${JSON.stringify(describeConfig(configOf(options)), null, 2)}\n`);
    });

  addKey(program);
  addVerify(program, setExitCode);
  addSolve(program, setExitCode);
  addToolCommands(program, setExitCode);
  return program;
}

interface KeyFlags {
  readonly scopes: string;
  readonly limits?: string;
  readonly json?: boolean;
}

function addKey(program: Command): void {
  program
    .command('key')
    .description('Make an API key: the key itself on stderr, its line for the keys file on stdout')
    .argument('[name]', 'a name for logs and ownership', 'default')
    .option('--scopes <list>', 'what it may do: infer, traces, metrics, admin', 'infer')
    .option('--limits <list>', 'what it may use, for instance requests_per_minute=60,tokens_per_day=100000')
    .option('--json', 'print both as JSON on stdout')
    .action(async (name: string, options: KeyFlags) => {
      const { makeKeyLine } = await import('../api-keys.ts');
      const { key, line } = makeKeyLine(name, options.scopes.split(','), options.limits?.split(','));
      if (options.json === true) {
        process.stdout.write(`${JSON.stringify({ object: 'api_key', name, key, line }, null, 2)}\n`);
        return;
      }
      process.stderr.write(`The key (it is not stored anywhere): ${key}\n`);
      process.stdout.write(`${line}\n`);
    });
}

/**
 * Parses and runs. A first word that is no command would be read as an argument of the default one, whose complaint is about
 * something that nobody typed.
 */
export async function runProgram(program: Command, args: readonly string[]): Promise<void> {
  const [first] = args;
  const names = program.commands.map((command) => command.name());
  if (first !== undefined && !first.startsWith('-') && first !== 'help' && !names.includes(first)) {
    program.error(`error: There is no command '${first}'; there are ${names.join(', ')}.`);
  }
  await program.parseAsync([...args], { from: 'user' });
}
