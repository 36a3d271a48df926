// Our own client, `stv-server/client`, in whatever runtime starts this: an answer, a stream, a cancelled stream, a stored run
// whose stream is left and taken up again.
import { createClient, StvApiError } from '../../../dist/client/client.js';

const client = createClient({ baseUrl: process.env.STV_URL });
const problem = 'What is 12 + 30 * 2?';
const sampling = { max_tokens: 12 };
const request = { problem, max_rounds: 1, generator: sampling, verifier: sampling, seed: 3 };

const verification = await client.verify({ problem, solution: '30 * 2 = 60\n12 + 60 = 72', max_tokens: 12 });

const events = [];
for await (const event of client.solveStream(request)) events.push(event);

const cancel = new AbortController();
let cancelled;
try {
  for await (const { event } of client.solveStream(request, { signal: cancel.signal })) {
    if (event === 'attempt-delta') cancel.abort(new Error('enough'));
  }
} catch (error) {
  cancelled = error.message;
}

const { id } = await client.solveInBackground(request);
const stored = [];
for await (const { id: number } of client.solveEvents(id)) {
  stored.push(number);
  if (stored.length === 3) break;
}
for await (const { id: number } of client.solveEvents(id, { after: stored.at(-1) })) stored.push(number);
const state = await client.getSolve(id);
const erased = await client.deleteSolve(id);

const refused = await client.verify({ problem, solution: '' }).catch((error) => error);
const error = refused instanceof StvApiError && { status: refused.status, param: refused.param };

const runtime = globalThis.Deno ? 'deno' : globalThis.Bun ? 'bun' : 'node';
console.log(JSON.stringify({ runtime, verification, events, cancelled, stored, status: state.status, erased, error }));
