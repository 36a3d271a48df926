// node bench/sampler.mjs MODEL_DIR [--steps 100] [--threads N] : what a step of 8 sequences costs outside ONNX Runtime (scheduling,
// sampling, updating), by kind of sampling, on the weights of MODEL_DIR, and microseconds for each row of logits. Prompts are prose: after
// random tokens the model expects everything, and rows are flatter than they ever are at work.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { root } from './servers.mjs';

const { values, positionals } = parseArgs({
  options: { steps: { type: 'string', default: '100' }, threads: { type: 'string', default: '0' } },
  allowPositionals: true,
});
const dist = (file) => import(pathToFileURL(path.join(root, 'dist', file)).href);
const [{ EngineCore }, { loadCausalLM }, { loadTextModel }, { DEFAULT_SAMPLING }] = await Promise.all([
  dist('engine/core.js'),
  dist('models/load-causal-lm.js'),
  dist('engine/text-service.js'),
  dist('engine/sampling-params.js'),
]);
const LANES = 8;
const limits = { numSlots: LANES, maxLength: 1024, maxLanes: LANES, maxBatchedTokens: 512 };
const model = loadCausalLM({ dir: positionals[0], ...limits, threads: Number(values.threads) });
while (model.warmUp?.());
const text = await loadTextModel({ dir: positionals[0] });
const prose = text.encodeText(readFileSync(path.join(root, 'scripts/truth-text.txt'), 'utf8'));

const kinds = {
  greedy: { temperature: 0 },
  'temperature 0.7': { temperature: 0.7 },
  'temperature 0.7, top_p 0.95': { temperature: 0.7, topP: 0.95 },
  'temperature 0.7, top_k 40': { temperature: 0.7, topK: 40 },
  'temperature 0.7, top_k 40, top_p 0.95, min_p 0.05': { temperature: 0.7, topK: 40, topP: 0.95, minP: 0.05 },
  'temperature 0.7, top_p 0.95, penalties': {
    temperature: 0.7,
    topP: 0.95,
    presencePenalty: 0.5,
    repetitionPenalty: 1.1,
  },
};
for (const [name, changes] of Object.entries(kinds)) {
  const core = new EngineCore(model, { chunkTokens: 512, reusePrefixes: false, isDrafting: false });
  for (let id = 0; id < LANES; id++) {
    core.add({
      id,
      prompt: Int32Array.from(prose.slice(id * 100, id * 100 + 60)),
      maxTokens: Number(values.steps) + 20,
      stopTokens: [],
      sampling: { ...DEFAULT_SAMPLING, ...changes, seed: id },
      priority: 'interactive',
      logprobs: undefined,
      promptRows: [],
    });
  }
  let outside = 0;
  let forward = 0;
  let rows = 0;
  for (let step = 0; core.hasWork; step++) {
    const { stats } = core.step();
    if (step < 20) continue; // compiling
    outside += stats.outsideMs;
    forward += stats.forwardMs;
    rows += stats.numOutputTokens;
  }
  console.log(
    `${name}: ${((100 * outside) / (outside + forward)).toFixed(1)} % of the step, ${((1000 * outside) / rows).toFixed(0)} us for each row`,
  );
}
model.dispose();
