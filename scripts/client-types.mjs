// Writes src/client/api.ts, the types of the typed client, from openapi/openapi.json; with --check it only compares (exit 1
// on a difference). The generator works on the syntax tree of TypeScript 5, so it is run apart from the compiler of this
// project.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const file = path.join(root, 'src/client/api.ts');
const generator = ['-p', 'openapi-typescript@7.13.0', '-p', 'typescript@5.9.3'];

const folder = mkdtempSync(path.join(tmpdir(), 'client-types-'));
try {
  const made = path.join(folder, 'api.ts');
  const contract = path.join(root, 'openapi/openapi.json');
  // outside the project, where npx would take the compiler of the project for its own
  execFileSync('npx', ['--yes', ...generator, 'openapi-typescript', contract, '-o', made, '--immutable'], {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const biome = path.join(root, 'node_modules/.bin/biome');
  const text = execFileSync(biome, ['format', '--stdin-file-path=src/client/api.ts'], {
    cwd: root,
    input: readFileSync(made),
    encoding: 'utf8',
  });
  if (!process.argv.includes('--check')) {
    writeFileSync(file, text);
  } else if (readFileSync(file, 'utf8') !== text) {
    console.error('src/client/api.ts is not what openapi/openapi.json gives: run `node scripts/client-types.mjs`.');
    process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
