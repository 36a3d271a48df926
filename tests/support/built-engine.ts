/** Builds the sources for tests that need real processes: neither a forked host nor a worker thread runs from TypeScript here. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Below node_modules, so that packages resolve and nothing is tracked. */
const outDir = join(root, 'node_modules', '.cache', 'stv-engine-tests');

/** Module that `importBuiltEngine` imports, once it has been built. */
export const builtEngineEntry = join(outDir, 'engine', 'local-engine.js');

/** @returns the built engine, loaded into this process; its hosts and workers are built files as well */
export async function importBuiltEngine(): Promise<typeof import('../../src/engine/local-engine.ts')> {
  await mkdir(outDir, { recursive: true });
  await writeFile(join(outDir, 'package.json'), '{ "type": "module" }\n');
  const output = await new Promise<string>((resolve) => {
    const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
    const project = ['-p', join(root, 'tsconfig.build.json')];
    const build = [compiler, ...project, '--outDir', outDir, '--tsBuildInfoFile', join(outDir, '.tsbuildinfo')];
    execFile(process.execPath, build, { cwd: root }, (_error, stdout) => resolve(stdout));
  });
  if (!existsSync(join(outDir, 'engine', 'host.js'))) throw new Error(`The build gave no engine host:\n${output}`);
  return import(pathToFileURL(builtEngineEntry).href);
}
