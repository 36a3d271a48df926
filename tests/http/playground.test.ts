import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { noApiKeys } from '../../src/api-keys.ts';
import { buildApp } from './build-app.ts';
import { call } from './contract.ts';

const built = new URL('../../dist/page/index.html', import.meta.url);

beforeAll(() => {
  if (!existsSync(built)) execFileSync(process.execPath, ['scripts/build-web.mjs'], { stdio: 'inherit' });
}, 60_000);

describe('GET /', () => {
  it('is the page, under a policy that lets nothing in from elsewhere', async () => {
    const { app } = await buildApp();
    const answer = await app.inject({ url: '/' });
    expect(answer.statusCode).toBe(200);
    expect(answer.headers['content-type']).toBe('text/html; charset=utf-8');
    const policy = new Map(
      String(answer.headers['content-security-policy'])
        .split('; ')
        .map((directive) => [directive.split(' ')[0], directive.split(' ').slice(1).join(' ')]),
    );
    expect(policy.get('default-src')).toBe("'none'");
    for (const [name, value] of policy) {
      if (name?.endsWith('-src') && value !== "'none'") expect(value, name).toBe("'self'");
    }
    expect(policy.get('frame-ancestors')).toBe("'none'");
    expect(policy.get('base-uri')).toBe("'none'");
    expect(policy.get('require-trusted-types-for')).toBe("'script'");
    expect(answer.headers['x-content-type-options']).toBe('nosniff');
    expect(answer.headers['referrer-policy']).toBe('no-referrer');
    // what the policy would refuse anyway
    expect(answer.body).not.toMatch(/<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|https?:\/\//);
  });

  it('names files that are there, with their types and without needing a key', async () => {
    const { app } = await buildApp({ keys: { ...noApiKeys, isRequired: true } });
    const page = (await app.inject({ url: '/' })).body;
    const names = [...page.matchAll(/(?:href|src)="(assets\/[^"]+)"/g)].map(([, name]) => `/${name}`);
    const types: Record<string, string> = { css: 'text/css', js: 'application/javascript', svg: 'image/svg+xml' };
    expect(names.length).toBeGreaterThanOrEqual(3);
    const seen = new Set<string>();
    // modules name further modules
    for (const name of names) {
      if (seen.has(name)) continue;
      seen.add(name);
      const file = await app.inject({ url: name });
      expect(file.statusCode, name).toBe(200);
      expect(file.headers['content-type'], name).toContain(types[name.split('.').at(-1) ?? ''] ?? 'none');
      expect(file.headers['content-security-policy']).toContain("default-src 'none'");
      if (!name.endsWith('.js')) continue;
      for (const [, imported] of file.body.matchAll(/from '(\.[^']+)'/g)) {
        names.push(new URL(imported ?? '', `http://page${name}`).pathname);
      }
    }
    expect([...seen].filter((name) => name.endsWith('client.js'))).toHaveLength(1);
  });

  it('is not sent again while it is the same', async () => {
    const { app } = await buildApp();
    const first = await app.inject({ url: '/' });
    expect(first.headers['cache-control']).toBe('no-cache');
    const again = await app.inject({ url: '/', headers: { 'if-none-match': String(first.headers['etag']) } });
    expect(again.statusCode).toBe(304);
  });

  it('gives nothing but the page', async () => {
    const { app } = await buildApp();
    const paths = ['/assets/', '/assets/nothing.js', '/assets/..%2fpackage.json', '/assets/%2e%2e/%2e%2e/package.json'];
    for (const url of paths) {
      const answer = await call(app, { url });
      expect(answer.statusCode, url).toBe(404);
      expect(answer.json().error.code, url).toBe('not_found');
    }
    expect((await call(app, { method: 'POST', url: '/', payload: {} })).statusCode).toBe(405);
  });
});
