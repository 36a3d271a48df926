import { describe, expect, it } from 'vitest';
import { compareVersions } from '../../../src/cli/doctor.ts';
import { checkPip } from '../../../src/cli/doctor-weights.ts';
import { acceptRule } from '../../../src/cli/flag-values.ts';

describe('acceptRule', () => {
  it.each([
    ['single', { rule: 'single' }],
    ['consecutive:3', { rule: 'consecutive', k: 3 }],
    ['votes:3/5', { rule: 'votes', k: 3, n: 5 }],
    ['score:0.9', { rule: 'score', threshold: 0.9 }],
  ])('%s', (text, rule) => {
    expect(acceptRule(text)).toEqual(rule);
  });

  it.each([
    '',
    'single:1',
    'votes:3',
    'votes:6/5',
    'consecutive',
    'consecutive:0',
    'consecutive:2/3',
    'score:2',
    'often',
  ])('refuses %s', (text) => {
    expect(() => acceptRule(text)).toThrow(/It must be/);
  });
});

describe('the parts of doctor', () => {
  it('compares versions by number', () => {
    expect(compareVersions('20.9.0', '20.20')).toBeLessThan(0);
    expect(compareVersions('20.20.0', '20.20')).toBe(0);
    expect(compareVersions('24.0.0', '20.20')).toBeGreaterThan(0);
  });

  it('says that there is no Python', () => {
    expect(checkPip('no-such-python')).toMatchObject({ status: 'fail', message: expect.stringContaining('install') });
  });
});
