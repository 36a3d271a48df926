/** The options table as command-line flags; values stay raw, so that `loadConfig` finds all mistakes at once. */
import { type Command, Option } from 'commander';
import { type Config, type ConfigName, configNames, configOptions, envName, flagName, loadConfig } from '../config.ts';
import { unknownVariables } from '../unknown-variables.ts';

export function addConfigFlags(command: Command): Command {
  command.option('--config <file>', 'Configuration file (JSON; default stv.config.json, where there is one)');
  for (const name of configNames) {
    const { kind, default: fallback, meaning } = configOptions[name];
    const isSwitch = !('placeholder' in kind) || kind.placeholder === undefined;
    const flag = isSwitch ? `${flagName(name)} [on]` : `${flagName(name)} <${kind.placeholder}>`;
    const value: unknown = typeof fallback === 'function' ? fallback() : fallback;
    const shown = value === undefined ? '' : ` (default ${String(value)})`;
    command.addOption(new Option(flag, `${meaning}; ${envName(name)}${shown}`));
  }
  return command;
}

/** Reads flags, environment and file. Throws `config_invalid` with every mistake, for one that `listens` missing keys too. */
export function configOf(options: Readonly<Record<string, unknown>>, { listens = false } = {}): Config {
  const flags: Partial<Record<ConfigName, unknown>> = {};
  for (const name of configNames) if (options[name] !== undefined) flags[name] = options[name];
  const file = options['config'];
  return loadConfig({ flags, listens, ...(typeof file === 'string' ? { file } : {}) });
}

/** Says on stderr which variables of the environment look like settings and are none. */
export function warnOfUnknownVariables(env: NodeJS.ProcessEnv = process.env): void {
  for (const { name, nearest } of unknownVariables(env)) {
    const guess = nearest === undefined ? '' : `; is ${nearest} meant?`;
    process.stderr.write(`The environment variable ${name} is not known and is ignored${guess || '.'}\n`);
  }
}
