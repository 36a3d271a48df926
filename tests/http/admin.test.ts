import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadApiKeys, makeKeyLine } from '../../src/api-keys.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { buildApp } from './build-app.ts';
import { call } from './contract.ts';

describe('admin', () => {
  it('is for keys with the scope admin alone', async () => {
    const file = path.join(temporaryFolder(), 'keys');
    const [user, admin] = [makeKeyLine('user', ['infer', 'traces', 'metrics']), makeKeyLine('admin', ['admin'])];
    writeFileSync(file, `${user.line}\n${admin.line}\n`);
    const { app } = await buildApp({ keys: loadApiKeys(file) });
    const load = { method: 'POST', url: '/admin/models/verifier/load', payload: { name: 'x' } } as const;
    for (const request of [{ url: '/admin/models' }, load]) {
      const bearer = (key: string) => ({ ...request, headers: { authorization: `Bearer ${key}` } });
      expect((await call(app, request)).statusCode).toBe(401);
      expect((await call(app, bearer(user.key))).statusCode).toBe(403);
      // this server was built around an engine that cannot be exchanged
      expect((await call(app, bearer(admin.key))).json().error.code).toBe('not_ready');
    }
  });
});
