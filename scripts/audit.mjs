// Known holes in what is shipped, by `npm audit`. Fails for high and critical ones. A registry without that service is said and
// is no failure: the lockfile with its hashes, and the list of parts (`npm run sbom`), are there for other scanners.
import { spawnSync } from 'node:child_process';

const done = spawnSync('npm', ['audit', '--omit=dev', '--json'], { encoding: 'utf8' });
let report;
try {
  report = JSON.parse(done.stdout);
} catch {
  report = {};
}
const counts = report.metadata?.vulnerabilities;
if (counts === undefined) {
  console.log(
    `This registry offers no audit (${report.message ?? done.stderr.trim().split('\n').at(-1)}): nothing was checked.`,
  );
} else {
  console.log(
    Object.entries(counts)
      .map(([level, count]) => `${level} ${count}`)
      .join(', '),
  );
  for (const [name, { severity, range }] of Object.entries(report.vulnerabilities))
    console.log(`${severity}: ${name} ${range}`);
  process.exitCode = counts.high + counts.critical > 0 ? 1 : 0;
}
