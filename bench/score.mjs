// node bench/score.mjs MODEL_DIR [--requests 32] [--tokens 400] [--rounds 3] [--threads N] : tokens per second that a batch of score
// requests reads, through the engine as the routes use it (tokenizer, admission, engine host), against the model reading as many
// tokens in full steps with nothing around it. Both in turns; no prompt shares a beginning with another.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { root } from './servers.mjs';

const { values, positionals } = parseArgs({
  options: {
    requests: { type: 'string', default: '32' },
    tokens: { type: 'string', default: '400' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string', default: '0' },
  },
  allowPositionals: true,
});
const [numRequests, numTokens, rounds, threads] = ['requests', 'tokens', 'rounds', 'threads'].map((name) =>
  Number(values[name]),
);
const dir = positionals[0];
const dist = (file) => import(pathToFileURL(path.join(root, 'dist', file)).href);
const [{ startLocalEngine }, { loadCausalLM }] = await Promise.all([
  dist('engine/local-engine.js'),
  dist('models/load-causal-lm.js'),
]);

const STEP = 512;
const model = loadCausalLM({ dir, numSlots: 1, maxLength: 2048, maxLanes: 1, maxBatchedTokens: STEP, threads });
const engine = await startLocalEngine({
  models: [{ name: 'm', aliases: [], digest: '', dir, maxBatchedTokens: STEP, ...(threads > 0 ? { threads } : {}) }],
});
const steps = [];
engine.onStats((stats) => {
  if (stats.type === 'step') steps.push(stats);
});

const prose = await engine.tokenize('m', readFileSync(path.join(root, 'scripts/truth-text.txt'), 'utf8'));
/** The first token tells the prompts apart, so that no cache helps. */
const promptOf = (seed) => [
  1000 + seed,
  ...Array.from({ length: numTokens - 1 }, (_, i) => prose[(seed * 37 + i) % prose.length]),
];

let seed = 0;
async function score() {
  const prompts = Array.from({ length: numRequests }, () => promptOf(seed++));
  const begun = performance.now();
  const results = await Promise.all(
    prompts.map((tokens) =>
      engine.score({
        id: 'bench',
        model: 'm',
        prompt: { kind: 'tokens', tokens },
        candidates: [' correct', ' wrong', ' unknown'],
        priority: 'interactive',
      }),
    ),
  );
  const ms = performance.now() - begun;
  const tokens = results.reduce((sum, { usage }) => sum + usage.promptTokens - usage.cachedTokens, 0);
  return { ms, tokens };
}

function raw() {
  const total = numRequests * numTokens;
  const begun = performance.now();
  for (let done = 0; done < total; done += STEP) {
    const length = Math.min(STEP, total - done);
    // one prompt after the other, as long as those of the requests
    const tokens = Array.from({ length }, (_, i) => prose[(done + i) % prose.length]);
    model.forward([{ slot: 0, past: done % numTokens < STEP / 2 ? 0 : 128, tokens, logitRows: [length - 1] }]);
  }
  return { ms: performance.now() - begun, tokens: total };
}

raw();
await score();
const sums = { raw: { ms: 0, tokens: 0 }, score: { ms: 0, tokens: 0 } };
steps.length = 0;
for (let round = 0; round < rounds; round++) {
  for (const side of round % 2 === 0 ? ['raw', 'score'] : ['score', 'raw']) {
    const { ms, tokens } = side === 'raw' ? raw() : await score();
    sums[side].ms += ms;
    sums[side].tokens += tokens;
  }
}
const speed = ({ ms, tokens }) => (tokens * 1000) / ms;
console.log(
  `${numRequests} score requests of ${numTokens} tokens: ${speed(sums.score).toFixed(0)} tokens per second, raw prefill ${speed(sums.raw).toFixed(0)}: ${(speed(sums.score) / speed(sums.raw)).toFixed(2)} (goal 0.8)`,
);
const forward = steps.reduce((sum, { forwardMs }) => sum + forwardMs, 0);
const outside = steps.reduce((sum, { outsideMs }) => sum + outsideMs, 0);
const computed = steps.reduce((sum, { numTokens: count }) => sum + count, 0);
console.log(
  `${steps.length} steps, ${computed} tokens computed for ${sums.score.tokens} asked; of ${sums.score.ms.toFixed(0)} ms: ${forward.toFixed(0)} in the model, ${outside.toFixed(0)} in the step around it, ${(sums.score.ms - forward - outside).toFixed(0)} elsewhere`,
);
await engine.close();
model.dispose();
