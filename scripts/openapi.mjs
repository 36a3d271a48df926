// Writes openapi/openapi.json from the route schemas of the build; with --check it only compares (exit 1 on a difference).
import { readFileSync, writeFileSync } from 'node:fs';
import { loadConfig } from '../dist/config.js';
import { describeContract } from '../dist/server.js';

const file = new URL('../openapi/openapi.json', import.meta.url);
// limits are configuration: the committed contract shows the defaults, whatever this machine's environment says
const config = loadConfig({ env: { STV_DATA_DIR: '/' }, cwd: '/nonexistent' });
const text = `${JSON.stringify(await describeContract(config), null, 2)}\n`;

if (process.argv.includes('--check')) {
  let committed = '';
  try {
    committed = readFileSync(file, 'utf8');
  } catch {
    // counts as different
  }
  if (committed !== text) {
    console.error('openapi/openapi.json is not what the route schemas give: run `npm run openapi` and commit it.');
    process.exitCode = 1;
  }
} else {
  writeFileSync(file, text);
}
