/**
 * Runs a TypeScript file in a Node process of its own: where a test has to see that nothing crashes, or needs flags or an
 * environment that its own process does not have. The file is compiled first, because the oldest Node we support reads no TypeScript.
 */

import { spawn, spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Compiles a file of the repository and what it imports; returns the path of the JavaScript. */
export function compileChild(file: string): string {
  const tsc = path.join(path.dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin/tsc');
  // inside node_modules, so that the packages are found from there
  const outDir = path.join(root, 'node_modules/.cache/test-children', path.basename(file, '.ts'));
  const flags = ['--target', 'es2023', '--module', 'nodenext', '--types', 'node', '--strict', '--skipLibCheck'];
  const done = spawnSync(
    process.execPath,
    [tsc, '--ignoreConfig', ...flags, '--rewriteRelativeImportExtensions', '--rootDir', '.', '--outDir', outDir, file],
    { cwd: root, encoding: 'utf8' },
  );
  if (done.status !== 0) throw new Error(`${file} does not compile: ${done.stdout}${done.stderr}`);
  return path.join(outDir, file.replace(/\.ts$/u, '.js'));
}

export interface ChildResult {
  /** Null when a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ChildOptions {
  readonly nodeFlags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs compiled JavaScript to its end. */
export function runChild(
  script: string,
  parameters: readonly string[],
  options: ChildOptions = {},
): Promise<ChildResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...(options.nodeFlags ?? []), script, ...parameters], {
      cwd: root,
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}
