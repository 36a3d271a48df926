#!/usr/bin/env node
/**
 * The `stv` command: hands the command line over, and turns failures into a message and an exit code: 0 done, 1 failed, 2 the
 * command line or configuration is wrong. Commands that ask a server have codes of their own beside these.
 */
import { CommanderError } from 'commander';
import { toStvError } from '../errors.ts';
import { handleOutputErrors } from './output-errors.ts';
import { createProgram, runProgram } from './program.ts';

let isServer = false;
handleOutputErrors({ servesOn: () => isServer });

const program = createProgram({
  setExitCode: (code) => {
    process.exitCode = code;
  },
  onServe: () => {
    isServer = true;
  },
});

try {
  await runProgram(program, process.argv.slice(2));
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
