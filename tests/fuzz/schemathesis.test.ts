/**
 * schemathesis reads the contract, makes requests from it and checks every answer against it: all checks, stateful links.
 * Needs its program in `STV_SCHEMATHESIS` (`npm run fuzz:api` installs and names it); `STV_FUZZ_EXAMPLES` for each operation.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { loadApiKeys } from '../../src/api-keys.ts';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import { buildApp, listen } from '../http/build-app.ts';

const program = process.env['STV_SCHEMATHESIS'];
const examples = process.env['STV_FUZZ_EXAMPLES'] ?? '100';
const seed = process.env['STV_FUZZ_SEED'] ?? '20260105';

it.runIf(program !== undefined)('finds nothing against the contract', { timeout: 3_600_000 }, async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'stv-fuzz-'));
  try {
    const key = 'fuzz-key';
    writeFileSync(path.join(folder, 'keys'), `${key} infer,traces,metrics,admin fuzz`);
    const database = await openDatabase(path.join(folder, 'runs.db'));
    const { app, runs, engine } = await buildApp({
      keys: loadApiKeys(path.join(folder, 'keys')),
      config: { addressRequestsPerMinute: 0 },
      store: new SqlRunStore(database),
      engine: { reply: () => 'one two \\boxed{3}', accept: () => 0.4 },
    });
    const url = await listen(app);
    const settings = fileURLToPath(new URL('schemathesis.toml', import.meta.url));
    const args = [
      '--config-file',
      settings,
      'run',
      `${url}/openapi.json`,
      '--checks',
      'all',
      '--phases',
      'examples,coverage,fuzzing,stateful',
    ];
    args.push('--header', `Authorization: Bearer ${key}`);
    // this server has no models to exchange: these routes answer 503 only
    args.push('--exclude-path-regex', '^/admin');
    args.push('--max-examples', examples, '--seed', seed, '--generation-deterministic', '--request-timeout', '30');
    args.push(...(process.env['STV_FUZZ_ARGS'] ?? '').split(' ').filter((word) => word !== ''));
    const child = spawn(program as string, args, { cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] });
    const [code] = await once(child, 'close');
    expect(code, 'see its report above').toBe(0);
    expect((await app.inject('/health/ready')).statusCode).toBe(200);
    await runs.close(new Error('end') as never);
    await expect.poll(() => engine.numOpen).toBe(0);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
