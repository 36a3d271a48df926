// npm run chaos [-- CAMPAIGN... [--short] [--times N] [--seconds N] [--seed N]]: what the server does when things go wrong.
// Without a name every campaign runs. The last line counts what held and what did not; the exit code is 1 if anything did not.
import { readdirSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { Report } from './support/report.mjs';

const names = readdirSync(new URL('./campaigns', import.meta.url))
  .map((file) => file.replace(/\.mjs$/, ''))
  .sort();
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    short: { type: 'boolean', default: false },
    times: { type: 'string' },
    seconds: { type: 'string' },
    seed: { type: 'string', default: '1' },
  },
});
const unknown = positionals.filter((name) => !names.includes(name));
if (unknown.length > 0) {
  console.error(`There is no campaign ${unknown.join(', ')}. There are: ${names.join(', ')}.`);
  process.exit(2);
}

console.log(
  `${new Date().toISOString().slice(0, 10)}, ${cpus()[0]?.model}, ${availableParallelism()} cores, Node ${process.version}, load ${loadavg()[0].toFixed(2)}`,
);
const report = new Report();
for (const name of positionals.length > 0 ? positionals : names) {
  const campaign = await import(`./campaigns/${name}.mjs`);
  const options = { seed: Number(values.seed), ...campaign.defaults, ...(values.short ? campaign.short : {}) };
  for (const option of ['times', 'seconds']) if (values[option] !== undefined) options[option] = Number(values[option]);
  const begun = performance.now();
  const cpu = process.cpuUsage();
  try {
    await campaign.run(report, options);
  } catch (thrown) {
    report.check(`the campaign ${name} came to its end`, false, thrown.stack);
  }
  const elapsed = performance.now() - begun;
  const { user, system } = process.cpuUsage(cpu);
  report.figure(
    'it took',
    `${(elapsed / 1000).toFixed(0)} s; these clients themselves ${((user + system) / elapsed / 10).toFixed(0)} % of a core`,
  );
}
console.log(`\n${report.passed} passed, ${report.failed} failed`);
process.exit(report.failed === 0 ? 0 : 1);
