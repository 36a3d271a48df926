/** `stv models`: what a running server has loaded, and the exchange of a role's model. */
import type { operations } from '../client/api.ts';
import { createTransport, type Send } from '../client/transport.ts';

type AdminModels = operations['adminModels']['responses'][200]['content']['application/json'];

export interface ModelsFlags {
  readonly url: string;
  readonly json?: boolean;
}

const pollMs = 500;

/** Prints what is loaded, what drains and what could be loaded. Throws StvApiError or StvConnectionError. */
export async function listModels({ url, json }: ModelsFlags, signal: AbortSignal): Promise<void> {
  const models = await readModels(connect(url), signal);
  process.stdout.write(json === true ? `${JSON.stringify(models, null, 2)}\n` : describe(models));
}

/** Begins a load, shows how it goes on, and resolves with whether the new model serves. Throws as `listModels`. */
export async function loadModel(role: string, name: string, flags: ModelsFlags, signal: AbortSignal): Promise<boolean> {
  const send = connect(flags.url);
  await send({
    method: 'POST',
    path: `/admin/models/${role}/load`,
    body: { name, wait: false },
    isRepeatable: false,
    signal,
  });
  let shown = '';
  for (;;) {
    const models = await readModels(send, signal);
    const { load } = models;
    if (load?.status === 'loading') {
      const { what, done, total } = load.progress;
      const share = done === null || !total ? '' : ` ${Math.floor((100 * done) / total)} %`;
      if (shown !== what + share) process.stderr.write(`${what}${share}\n`);
      shown = what + share;
      await new Promise((resolve) => setTimeout(resolve, pollMs));
      continue;
    }
    if (load?.error) process.stderr.write(`${load.error.message}\n`);
    if (load?.status === 'ready')
      process.stdout.write(flags.json ? `${JSON.stringify(models, null, 2)}\n` : describe(models));
    return load?.status === 'ready';
  }
}

function connect(url: string): Send {
  return createTransport({ baseUrl: url, apiKey: process.env['STV_API_KEY'] });
}

async function readModels(send: Send, signal: AbortSignal): Promise<AdminModels> {
  const answer = await send({ method: 'GET', path: '/admin/models', isRepeatable: true, signal });
  return (await answer.json()) as AdminModels;
}

function describe({ models, memory_bytes, draining, available }: AdminModels): string {
  const lines = models.flatMap(({ name, aliases, context_length }) => [
    `${aliases.filter((alias) => !alias.includes('/')).join(' and ')}: ${name}, context ${context_length}`,
  ]);
  if (memory_bytes !== null) lines.push(`memory: ${megabytes(memory_bytes)}`);
  for (const old of draining) {
    const names = old.models.map(({ name }) => name).join(' and ');
    const memory = old.memory_bytes === null ? '' : `, ${megabytes(old.memory_bytes)}`;
    lines.push(`draining: ${names}, used by ${old.users}${memory}`);
  }
  lines.push(`available: ${available.map(({ name }) => name).join(', ') || 'nothing'}`);
  return `${lines.join('\n')}\n`;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}
