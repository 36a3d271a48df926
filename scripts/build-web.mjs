// Builds the page into dist/page: its modules and those of the client that it imports, beside the files that are served as
// they are. No bundler: browsers load modules.
import { execFileSync } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const out = path.join(root, 'dist/page');

rmSync(out, { recursive: true, force: true });
execFileSync(process.execPath, [path.join(root, 'node_modules/typescript/bin/tsc'), '-p', path.join(root, 'web')], {
  stdio: 'inherit',
});
cpSync(path.join(root, 'web/public'), out, { recursive: true });
