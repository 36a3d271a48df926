#!/usr/bin/env node
/** The `stv` command: reads the command line, hands over, and turns failures into a message and an exit code. */
import { Command, CommanderError } from 'commander';
import { describeConfig } from '../config.ts';
import { toStvError } from '../errors.ts';
import { version } from '../version.ts';
import { addConfigFlags, configOf, warnOfUnknownVariables } from './config-flags.ts';
import { handleOutputErrors } from './output-errors.ts';
import { addSolve } from './solve.ts';
import { addToolCommands } from './tool-commands.ts';
import { addVerify } from './verify.ts';

/** Exit codes: 0 done, 1 failed, 2 the command line or configuration is wrong. */
async function main(argv: readonly string[]): Promise<number> {
  let exitCode = 0;
  const program = new Command('stv')
    .description('Server for verification, refinement and the verification-refinement loop')
    .version(version)
    .exitOverride();

  addConfigFlags(program.command('serve', { isDefault: true }))
    .description('Serve a pack over HTTP (the default)')
    .action(async (options: Record<string, unknown>) => {
      isServer = true;
      warnOfUnknownVariables();
      const { serve } = await import('./serve.ts');
      exitCode = await serve(configOf(options));
    });

  addConfigFlags(program.command('pull'))
    .description('Fetch and convert the weights of a pack, a checkpoint or a source, so that serving needs no network')
    .argument('[pack]', 'what `--pack` takes')
    .action(async (pack: string | undefined, options: Record<string, unknown>) => {
      const { pullPack } = await import('./pull.ts');
      await pullPack(configOf(pack === undefined ? options : { ...options, pack }));
    });

  addConfigFlags(program.command('config'))
    .description('Print the configuration that holds as JSON, with secrets hidden')
    .option('--json', 'print JSON; it always does')
    .action((options: Record<string, unknown>) => {
      warnOfUnknownVariables();
      process.stdout.write(`${JSON.stringify(describeConfig(configOf(options)), null, 2)}\n`);
    });

  program
    .command('key')
    .description('Make an API key: the key itself on stderr, its line for the keys file on stdout')
    .argument('[name]', 'a name for logs and ownership', 'default')
    .option('--scopes <list>', 'what it may do: infer, traces, metrics, admin', 'infer')
    .option('--limits <list>', 'what it may use, for instance requests_per_minute=60,tokens_per_day=100000')
    .action(async (name: string, options: { readonly scopes: string; readonly limits?: string }) => {
      const { makeKeyLine } = await import('../api-keys.ts');
      const { key, line } = makeKeyLine(name, options.scopes.split(','), options.limits?.split(','));
      process.stderr.write(`The key (it is not stored anywhere): ${key}\n`);
      process.stdout.write(`${line}\n`);
    });

  const done = (code: number): void => {
    exitCode = code;
  };
  addVerify(program, done);
  addSolve(program, done);
  addToolCommands(program, done);

  await program.parseAsync([...argv]);
  return exitCode;
}

let isServer = false;
handleOutputErrors({ servesOn: () => isServer });

try {
  process.exitCode = await main(process.argv);
} catch (thrown) {
  if (thrown instanceof CommanderError) {
    // help and version arrive here too, with 0
    process.exitCode = thrown.exitCode === 0 ? 0 : 2;
  } else {
    const error = toStvError(thrown);
    process.stderr.write(`${error.message}\n`);
    if (error.code === 'internal' && error.cause instanceof Error) process.stderr.write(`${error.cause.stack}\n`);
    process.exitCode = error.code === 'config_invalid' ? 2 : 1;
  }
}
