import { createHash } from 'node:crypto';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { type ApiKeys, loadApiKeys, makeKeyLine } from '../../src/api-keys.ts';
import { expectStvError } from '../support/stv-error.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

function load(content: string): ApiKeys {
  return loadApiKeys(path.join(temporaryFolder({ keys: content }), 'keys'));
}

const digest = (secret: string): string => createHash('sha256').update(secret).digest('hex');

describe('loadApiKeys', () => {
  it('reads lines: key, scopes, name', () => {
    const keys = load(`# comment\nplain\nkey-b infer,traces grader\r\nsha256:${digest('key-c')} admin ops\n\n`);
    expect(keys.isRequired).toBe(true);
    expect([...(keys.find('plain')?.scopes ?? [])]).toEqual(['infer']);
    expect(keys.find('key-b')).toMatchObject({ id: 'grader', scopes: new Set(['infer', 'traces']) });
    expect(keys.find('key-c')?.id).toBe('ops');
    expect(keys.find('wrong')).toBeUndefined();
    expect(keys.find('')).toBeUndefined();
    expect(keys.find(digest('key-c')), 'the digest is no key').toBeUndefined();
  });

  it('reads JSON', () => {
    const entry = { name: 'grader', sha256: digest('s'), scopes: ['infer', 'metrics'] };
    expect(load(JSON.stringify({ keys: [entry, { key: 'raw' }] })).find('s')).toMatchObject({ id: 'grader' });
  });

  it('gives unnamed keys an id that tells nothing of the secret', () => {
    expect(load('my-secret-key').find('my-secret-key')?.id).toMatch(/^key-[0-9a-f]{8}$/);
  });

  it.each([
    ['', 'holds no key'],
    ['# nothing', 'holds no key'],
    ['secret-key root', 'the scope root is unknown'],
    ['sha256:abc infer', '64 hexadecimal digits'],
    ['secret-key infer same\nother infer same', 'twice'],
    ['{"keys": 7}', 'no list'],
    ['{"keys": [{}]}', 'needs a text'],
    ['{"keys": [{"key": "secret-key", "scopes": "infer"}]}', 'must be a list'],
    ['{"keys": ', 'not valid JSON'],
  ])('refuses %j without showing a secret', (content, words) => {
    let message = '';
    try {
      load(content);
    } catch (error) {
      message = (error as Error).message;
      expect(error).toMatchObject({ code: 'config_invalid' });
    }
    expect(message).toContain(words);
    expect(message).not.toContain('secret-key');
  });

  it('names a file that cannot be read', () => {
    expectStvError(() => loadApiKeys('/nonexistent/keys'), 'config_invalid', '/nonexistent/keys');
  });
});

describe('makeKeyLine', () => {
  it('makes keys that the file format takes', () => {
    const { key, line } = makeKeyLine('grader', ['infer', 'metrics']);
    expect(line).not.toContain(key);
    expect(load(line).find(key)).toMatchObject({ id: 'grader', scopes: new Set(['infer', 'metrics']) });
    expect(makeKeyLine('grader', ['infer']).key).not.toBe(key);
    const limited = makeKeyLine('l', ['infer'], ['requests_per_minute=60', 'concurrent=0']);
    const keys = load(`${limited.line}\nplain-key infer p`);
    expect(keys.find(limited.key)?.limits).toEqual({ requests_per_minute: 60, concurrent: 0 });
    expect(keys.limitsOf('l')).toEqual({ requests_per_minute: 60, concurrent: 0 });
    expect(keys.plain).toEqual(['p']);
    for (const word of ['tokens=1', 'concurrent=-1', 'concurrent', 'concurrent=1e3']) {
      expectStvError(() => makeKeyLine('a', ['infer'], [word]), 'config_invalid');
    }
    expectStvError(() => makeKeyLine('a b', ['infer']), 'config_invalid');
    expectStvError(() => makeKeyLine('a', ['all']), 'config_invalid');
  });
});
