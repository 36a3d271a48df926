import { describe, expect, it } from 'vitest';
import { BoundedTemplate, type RenderOptions, type TemplateResult } from '../../src/template.ts';
import { expectStvError } from '../support/stv-error.ts';

function render(source: string, variables: Record<string, unknown> = {}, options: RenderOptions = {}): TemplateResult {
  return new BoundedTemplate(source, 'test.jinja', options).render(variables);
}

describe('BoundedTemplate', () => {
  it.each<[string, string, Record<string, unknown>, string]>([
    ['a value', 'a{{ x }}b', { x: '{{ y }}' }, 'a{{ y }}b'],
    [
      'loops',
      '{% for m in ms %}{{ loop.index }}{{ m.a }}{% if not loop.last %},{% endif %}{% endfor %}',
      { ms: [{ a: 'x' }, { a: 'y' }] },
      '1x,2y',
    ],
    [
      'ranges',
      '{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 1, -2) %}{{ i }}{% endfor %}',
      {},
      '01253',
    ],
    ['no trailing newline of the file', 'a\n', {}, 'a'],
    [
      'macros and namespaces',
      '{% set n = namespace(v=1) %}{% macro f(a) %}[{{ a }}]{% endmacro %}{% set n.v = 2 %}{{ f(n.v) }}',
      {},
      '[2]',
    ],
    ['constants', '{{ none is none and true and not false and None is none and True and not False }}', {}, 'true'],
  ])('renders %s', (_, source, variables, text) => {
    expect(render(source, variables)).toEqual({ ok: true, text });
  });

  const bombs: readonly [string, string][] = [
    ['a huge range', '{% for i in range(1000000000) %}{% endfor %}'],
    ['an endless range', '{% for i in range(0, 1, 0.000000000001) %}{% endfor %}'],
    ['nested loops', '{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}'],
    [
      'a doubling string',
      '{% set n = namespace(s="aaaaaaaa") %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}',
    ],
    ['a doubling list', '{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}'],
    [
      'a list in itself, twice over',
      '{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}',
    ],
    ['a map in itself', '{% set n = namespace() %}{% set n.a = n %}{{ n }}'],
    ['endless recursion', '{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}'],
    ['wide indentation', '{{ {"a": 1} | tojson(indent=100000000) }}'],
    ['much output', '{% for i in range(9000) %}{{ "0123456789" ~ big }}{% endfor %}'],
  ];

  it.each(bombs)('stops at %s', (_, source) => {
    const start = performance.now();
    const result = render(source, { big: 'x'.repeat(1_000) });
    expect(result).toMatchObject({ ok: false, failure: { kind: 'limit' } });
    // far below the limit of time: they end for another reason
    expect(performance.now() - start).toBeLessThan(4_000);
  });

  it('stops when the time is over', () => {
    const source = '{% for i in range(10000) %}{{ text | upper | lower | length }}{% endfor %}';
    const result = render(source, { text: 'x'.repeat(100_000) }, { limits: { maxMs: 20 } });
    expect(result).toEqual({ ok: false, failure: { kind: 'limit', reason: 'it needs more than 20 ms' } });
  });

  it('passes on what a template refuses with, but never what it was given', () => {
    const quote = render("{{ raise_exception('roles must alternate') }}");
    expect(quote).toEqual({ ok: false, failure: { kind: 'refused', reason: 'roles must alternate' } });
    const leak = render("{{ raise_exception('bad: ' ~ x) }}", { x: 'secret' });
    expect(leak).toEqual({ ok: false, failure: { kind: 'refused', reason: 'it refuses these messages' } });
    const wrong = render('{{ x + none }}', { x: 'secret' });
    expect(wrong).toMatchObject({ ok: false, failure: { kind: 'evaluation' } });
    expect(JSON.stringify(wrong)).not.toContain('secret');
  });

  it('keeps renderings apart', () => {
    const template = new BoundedTemplate('{% set y = x %}{{ y }}{{ z }}', 'test.jinja');
    expect(template.render({ x: 1, z: 2 })).toEqual({ ok: true, text: '12' });
    expect(template.render({ x: 3 })).toEqual({ ok: true, text: '3' });
  });

  it('gives the date only to a template that cannot do without', () => {
    const now = (): Date => new Date('2026-03-07T23:30:05Z');
    expect(render("{{ strftime_now('%A %d %B %b %Y %H:%M:%S %%') }}", {}, { now })).toEqual({
      ok: true,
      text: 'Saturday 07 March Mar 2026 23:30:05 %',
    });
    const optional = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}no date{% endif %}";
    expect(render(optional, {}, { now })).toEqual({ ok: true, text: 'no date' });
  });

  it('refuses what is not a template, and says where', () => {
    expectStvError(() => new BoundedTemplate('{% if %}', 'a.jinja'), 'pack_invalid', 'a.jinja', 'not valid Jinja');
    const deep = `{{ ${'('.repeat(20_000)}1${')'.repeat(20_000)} }}`;
    expectStvError(() => new BoundedTemplate(deep, 'b.jinja'), 'pack_invalid', 'b.jinja', 'deep');
    expectStvError(() => new BoundedTemplate('x'.repeat(300_000), 'c.jinja'), 'pack_invalid', '300000', '262144');
  });
});
