import { defineConfig } from 'vitest/config';

/** CI counts what ran: each run of vitest leaves a report of its own in this folder. */
const reports = process.env['STV_TEST_REPORTS'];

export default defineConfig({
  test: {
    reporters:
      reports === undefined ? ['default'] : ['default', ['json', { outputFile: `${reports}/${process.pid}.json` }]],
    coverage: { provider: 'v8', include: ['src/**'], reporter: ['text-summary', 'json-summary'] },
    projects: [
      // the limit only ends what hangs: machines that test are often busy
      { test: { name: 'unit', include: ['tests/unit/**/*.test.ts'], testTimeout: 60_000 } },
      { test: { name: 'http', include: ['tests/{http,security,fuzz}/**/*.test.ts'], testTimeout: 60_000 } },
      // native code: one process at a time, so that a crash is one file's and memory is not shared
      {
        test: {
          name: 'model',
          include: ['tests/model/**/*.test.ts'],
          pool: 'forks',
          maxWorkers: 1,
          testTimeout: 120_000,
          hookTimeout: 300_000,
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['tests/e2e/**/*.test.ts'],
          pool: 'forks',
          maxWorkers: 1,
          testTimeout: 180_000,
          hookTimeout: 300_000,
        },
      },
      // whole servers that are killed, stopped and drained
      {
        test: {
          name: 'chaos',
          include: ['tests/chaos/**/*.test.ts'],
          pool: 'forks',
          maxWorkers: 1,
          testTimeout: 300_000,
        },
      },
      // needs scripts/install-clients.sh; Python clients are slow to start
      {
        test: {
          name: 'clients',
          include: ['tests/clients/*.test.ts'],
          pool: 'forks',
          maxWorkers: 1,
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
