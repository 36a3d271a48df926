/** Writes a few lines, some time apart, and ends with 7 if it gets so far. */
import { handleOutputErrors } from '../../../../src/cli/output-errors.ts';

handleOutputErrors({ servesOn: () => process.argv[2] === 'server' });

for (let line = 0; line < 3; line += 1) {
  process.stdout.write(`answer ${line}\n`);
  process.stderr.write(`log ${line}\n`);
  await new Promise((resolve) => setTimeout(resolve, 10));
}
process.exitCode = 7;
