/** The short form of the campaigns that matter most, for every change; `npm run chaos` runs all of them in full. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const script = fileURLToPath(new URL('run.mjs', import.meta.url));

describe('chaos, short', () => {
  it.each(['drain', 'hang', 'kill-server'])('%s', async (campaign) => {
    const child = spawn(process.execPath, [script, campaign, '--short'], { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.on('data', (bytes) => {
      output += bytes;
    });
    const [code] = await once(child, 'close');
    expect(output).toMatch(/\b0 failed$/m);
    expect(code, output).toBe(0);
  });
});
