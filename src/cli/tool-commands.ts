/** The commands that look at a server or a machine from outside: eval, traces, doctor. Flags only; the work is elsewhere. */
import { Argument, type Command, Option } from 'commander';
import { addConfigFlags, configOf } from './config-flags.ts';
import { acceptRule, integer, number } from './flag-values.ts';
import { urlOption } from './remote-call.ts';

interface ServerFlags {
  readonly url: string;
}

function addServerFlags(command: Command): Command {
  return command.addOption(urlOption()).addHelpText('after', '\nThe API key comes from the environment: STV_API_KEY.');
}

/** `setExitCode` gets what the command ends with. */
export function addToolCommands(program: Command, setExitCode: (code: number) => void): void {
  addEval(program, setExitCode);
  addTraces(program, setExitCode);
  addModels(program, setExitCode);
  addDoctor(program, setExitCode);
  addDevice(program);
}

function addDevice(program: Command): void {
  const device = program.command('device').description('Where models can run on this machine');
  addConfigFlags(device.command('list'))
    .description('Try each device with the smallest of models')
    .option('--json', 'print the findings as JSON')
    .action(async (flags: Readonly<Record<string, unknown>>) => {
      const { listDevices } = await import('./device.ts');
      await listDevices(configOf(flags), flags['json'] === true);
    });
  addConfigFlags(device.command('install'))
    .description("Fetch a device's libraries into the data folder (CUDA: about 770 MB)")
    .addArgument(new Argument('<device>', 'what to install').choices(['cuda']))
    .option('--json', 'print where they are and what they offer as JSON')
    .action(async (_device: string, flags: Readonly<Record<string, unknown>>) => {
      const { installCuda } = await import('./device.ts');
      await installCuda(configOf(flags), flags['json'] === true);
    });
}

interface ModelsFlags extends ServerFlags {
  readonly json?: boolean;
}

interface EvalFlags extends ServerFlags {
  readonly chains: number;
  readonly maxRounds: number;
  readonly accept: Readonly<Record<string, unknown>>;
  readonly seed: number;
  readonly concurrency: number;
  readonly temperature?: number;
  readonly verifierTemperature?: number;
  readonly generator?: string;
  readonly verifier?: string;
  readonly maxTokens?: number;
  readonly verifierMaxTokens?: number;
  readonly resamples: number;
  readonly store?: boolean;
  readonly out?: string;
  readonly report?: string;
  readonly plot?: string;
  readonly json?: boolean;
}

function addEval(program: Command, setExitCode: (code: number) => void): void {
  addServerFlags(program.command('eval'))
    .description('Evaluate the loop of a running server on problems with answers; goes on where it was broken off')
    .argument('<file>', 'JSON Lines: problem, answer, and optionally id, reference, group, bin, attempt, first_error')
    .option('--chains <n>', 'independent chains of each problem', integer(1, 1024), 8)
    .option('--max-rounds <n>', 'refinements after the first attempt', integer(0, 100), 8)
    .addOption(
      new Option('--accept <rule>', 'single, consecutive:K, votes:K/N or score:THRESHOLD')
        .argParser(acceptRule)
        .default({ rule: 'single' }, 'single'),
    )
    .option('--seed <n>', 'seed of runs and intervals', integer(0, 4_294_967_295), 0)
    .option('--concurrency <n>', 'requests under way at the same time', integer(1, 256), 4)
    .option('--generator <model>', "another model than the server's generator")
    .option('--verifier <model>', "another model than the server's verifier")
    .option('--temperature <t>', "of the generator; the pack's where absent", number(0, 2))
    .option('--verifier-temperature <t>', "of the verifier; the pack's where absent", number(0, 2))
    .option('--max-tokens <n>', 'of one attempt', integer(1, 1_000_000))
    .option('--verifier-max-tokens <n>', 'of one feedback', integer(1, 1_000_000))
    .option('--resamples <n>', 'draws of the bootstrap', integer(0, 100_000), 1000)
    .option('--store', 'keep the runs and their labels at the server, as traces for training')
    .option('--out <file>', 'results, one line a problem (default FILE.results.jsonl)')
    .option('--report <file>', 'the report as JSON')
    .option('--plot <file>', 'the plot as SVG')
    .option('--json', 'print the report as JSON')
    .action(async (file: string, flags: EvalFlags) => {
      const [{ evaluate }, { withServer }] = await Promise.all([import('./eval.ts'), import('./remote-call.ts')]);
      const options = {
        chains: flags.chains,
        maxRounds: flags.maxRounds,
        accept: flags.accept,
        seed: flags.seed,
        concurrency: flags.concurrency,
        generator: defined({ model: flags.generator, temperature: flags.temperature, max_tokens: flags.maxTokens }),
        verifier: defined({
          model: flags.verifier,
          temperature: flags.verifierTemperature,
          max_tokens: flags.verifierMaxTokens,
        }),
        resamples: flags.resamples,
        isStored: flags.store === true,
        out: flags.out ?? `${file.replace(/\.jsonl$/, '')}.results.jsonl`,
        report: flags.report,
        plot: flags.plot,
        isJson: flags.json === true,
      };
      setExitCode(await withServer(flags, (client, signal) => evaluate(file, client, { ...options, signal })));
    });
}

interface TracesFlags extends ServerFlags {
  readonly after?: string;
  readonly labels?: boolean;
  readonly out?: string;
}

function addTraces(program: Command, setExitCode: (code: number) => void): void {
  const traces = program.command('traces').description("A server's stored rounds, for training");
  addServerFlags(traces.command('export'))
    .description('Write finished rounds as JSON Lines, oldest first; a file is gone on with after its last line')
    .option('--after <trace_id>', 'leave out everything up to this trace')
    .option('--labels', 'add the references and answers that callers gave')
    .option('--out <file>', 'append to a file in place of stdout')
    .option('--json', 'what it does anyway: one JSON object a line')
    .action(async (flags: TracesFlags) => {
      const [{ exportTraces }, { withServer }] = await Promise.all([import('./traces.ts'), import('./remote-call.ts')]);
      const { url, after, labels, out } = flags;
      const code = await withServer(flags, async (_client, signal) => {
        const count = await exportTraces({ url, after, withLabels: labels === true, out, signal });
        process.stderr.write(`${count} traces\n`);
        return 0;
      });
      setExitCode(code);
    });
}

function addModels(program: Command, setExitCode: (code: number) => void): void {
  const models = program.command('models').description('What a running server has loaded, and its exchange');
  addServerFlags(models.command('list'))
    .description('Show what is loaded, what drains and what could be loaded (needs a key with the scope admin)')
    .option('--json', 'print the JSON answer')
    .action(async (flags: ModelsFlags) => {
      const [{ listModels }, { withServer }] = await Promise.all([import('./models.ts'), import('./remote-call.ts')]);
      const code = await withServer(flags, async (_client, signal) => {
        await listModels(flags, signal);
        return 0;
      });
      setExitCode(code);
    });
  addServerFlags(models.command('load'))
    .description(
      'Load a pack or checkpoint below the model folders into a role, beside what serves, and put it in service',
    )
    .addArgument(new Argument('<role>', 'which model to exchange').choices(['generator', 'verifier', 'both']))
    .argument('<name>', 'as `stv models list` shows it')
    .option('--json', 'print the JSON answer')
    .action(async (role: string, name: string, flags: ModelsFlags) => {
      const [{ loadModel }, { withServer }] = await Promise.all([import('./models.ts'), import('./remote-call.ts')]);
      const code = await withServer(flags, async (_client, signal) =>
        (await loadModel(role, name, flags, signal)) ? 0 : 3,
      );
      setExitCode(code);
    });
}

function addDoctor(program: Command, setExitCode: (code: number) => void): void {
  addConfigFlags(program.command('doctor'))
    .description('Check whether this machine can serve, and say what to do where it cannot')
    .option('--json', 'print the findings as JSON')
    .action(async (flags: Readonly<Record<string, unknown>>) => {
      const { doctor } = await import('./doctor.ts');
      setExitCode(await doctor(configOf(flags), flags['json'] === true));
    });
}

function defined(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
