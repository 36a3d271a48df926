// node bench/drafting.mjs MODEL_DIR [--rounds N] [--only refinements,prose,bare,own] [--widths 1,8] [--threads N] : tokens per second with and without drafts, in turns in one process, on the weights
// of MODEL_DIR. Texts are replayed: every step is computed in full, and then the recorded token is made the best of each row, so both
// sides write the same text however the weights would have gone on. Three sets: recorded refinements (bench/refinements.json) with the
// earlier attempt as the prediction, prose with other prose as its prediction, and prose without one. Last, not replayed: what
// the model itself writes greedily for the refinements, and whether drafts changed it.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { Template } from '@huggingface/jinja';
import { repeatedShare } from './repeated-share.mjs';
import { root } from './servers.mjs';

const { values, positionals } = parseArgs({
  options: {
    rounds: { type: 'string', default: '1' },
    only: { type: 'string', default: 'refinements,prose,bare,own' },
    widths: { type: 'string', default: '1,8' },
    threads: { type: 'string', default: '0' },
  },
  allowPositionals: true,
});
const dir = positionals[0];
const rounds = Number(values.rounds);
const dist = (file) => import(pathToFileURL(path.join(root, 'dist', file)).href);
const [{ EngineCore }, { loadCausalLM }, { loadTextModel }, { encodePrompt }, { DEFAULT_SAMPLING }] = await Promise.all(
  [
    dist('engine/core.js'),
    dist('models/load-causal-lm.js'),
    dist('engine/text-service.js'),
    dist('engine/text-encoding.js'),
    dist('engine/sampling-params.js'),
  ],
);

const model = loadCausalLM({
  dir,
  numSlots: 8,
  maxLength: 2048,
  maxLanes: 8,
  maxBatchedTokens: 2048,
  threads: Number(values.threads),
});
while (model.warmUp?.());
const text = await loadTextModel({ dir });

/** One core for each side, kept, so that it knows what a step costs; the model behind it changes from set to set. */
const cores = new Map(
  [true, false].map((isDrafting) => {
    const behind = {
      limits: model.limits,
      forward: (lanes) => core.model.forward(lanes),
      copyPrefix: () => {
        throw new Error('Prefixes are not reused here.');
      },
    };
    const core = new EngineCore(behind, { chunkTokens: 2048, reusePrefixes: false, isDrafting });
    return [isDrafting, core];
  }),
);

/** A model that says what was recorded: `texts` are prompt and continuation, matched by the prompt that a slot was given. */
class Replay {
  #bySlot = new Map();
  #waiting;
  constructor(cases) {
    this.#waiting = [...cases];
  }
  forward(lanes) {
    const logits = model.forward(lanes);
    let row = 0;
    for (const { slot, past, tokens, logitRows } of lanes) {
      if (past === 0) {
        const index = this.#waiting.findIndex(({ prompt }) => `${prompt}` === `${[...tokens]}`);
        this.#bySlot.set(slot, this.#waiting.splice(index, 1)[0]);
      }
      const { prompt, continuation } = this.#bySlot.get(slot);
      for (const at of logitRows) {
        const token = continuation[past + at + 1 - prompt.length];
        if (token !== undefined) logits.row(row)[token] = 1000;
        row++;
      }
    }
    return logits;
  }
}

/** Runs the cases side by side. Times are of decoding steps only. */
function run(cases, { isDrafting, isReplayed }) {
  const result = { tokens: 0, ms: 0, cpu: 0, drafted: 0, accepted: 0, outputs: cases.map(() => []) };
  const core = cores.get(isDrafting);
  core.model = isReplayed ? new Replay(cases) : model;
  for (const [id, { prompt, continuation, prediction }] of cases.entries()) {
    core.add({
      id,
      prompt: Int32Array.from(prompt),
      maxTokens: continuation.length,
      stopTokens: [],
      sampling: { ...DEFAULT_SAMPLING, temperature: 0 },
      priority: 'interactive',
      logprobs: undefined,
      promptRows: [],
      prediction: Int32Array.from(prediction),
    });
  }
  while (core.hasWork) {
    const begun = performance.now();
    const busy = process.cpuUsage();
    const { outputs, stats } = core.step();
    for (const { id, tokens } of outputs) result.outputs[id].push(...tokens);
    if (stats.numPromptTokens > 0) continue;
    const { user, system } = process.cpuUsage(busy);
    result.ms += performance.now() - begun;
    result.cpu += (user + system) / 1000;
    result.tokens += stats.numOutputTokens;
    result.drafted += stats.numDraftTokens;
    result.accepted += stats.numAcceptedTokens;
  }
  return result;
}

/** Both sides of each group follow each other at once, so that a machine that slows down slows both. */
function compare(name, cases, { width, isReplayed = true }) {
  const sums = new Map([true, false].map((side) => [side, { tokens: 0, ms: 0, cpu: 0, drafted: 0, accepted: 0 }]));
  const written = new Map([true, false].map((side) => [side, []]));
  let order = [true, false];
  for (let round = 0; round < rounds; round++) {
    for (let first = 0; first < cases.length; first += width) {
      for (const isDrafting of order) {
        const done = run(cases.slice(first, first + width), { isDrafting, isReplayed });
        const sum = sums.get(isDrafting);
        for (const key of Object.keys(sum)) sum[key] += done[key];
        written.get(isDrafting).push(...done.outputs);
      }
      order = order.toReversed();
    }
  }
  const speed = ({ tokens, ms }) => (tokens * 1000) / ms;
  const [on, off] = [speed(sums.get(true)), speed(sums.get(false))];
  const { drafted, accepted, tokens } = sums.get(true);
  const work = ({ tokens: count, cpu }) => cpu / count;
  const lessWork = (work(sums.get(false)) / work(sums.get(true))).toFixed(2);
  console.log(
    `${name}, ${width} at a time: ${on.toFixed(1)} with drafts / ${off.toFixed(1)} without = ${(on / off).toFixed(2)}x (${lessWork}x by processor time); ` +
      `${((100 * accepted) / tokens).toFixed(0)} % of the tokens were guessed, ${((100 * accepted) / Math.max(1, drafted)).toFixed(0)} % of the guesses right`,
  );
  return [written.get(true), written.get(false)];
}

const records = JSON.parse(readFileSync(path.join(root, 'bench/refinements.json'), 'utf8'));
const prompts = ['generate', 'refine'].map(
  (name) => new Template(readFileSync(path.join(root, 'packs/smollm2/prompts', `${name}.jinja`), 'utf8')),
);
const refinements = records.map(({ problem, attempt, feedback, refinement }) => {
  const messages = [
    { role: 'user', content: prompts[0].render({ problem }) },
    { role: 'assistant', content: attempt },
    { role: 'user', content: prompts[1].render({ feedback, verdict: 'reject' }) },
  ];
  return {
    prompt: [...encodePrompt(text, { kind: 'chat', messages }, '')],
    continuation: [...text.encodeText(refinement)],
    prediction: [...text.encodeText(attempt)],
  };
});
const share =
  refinements.reduce((sum, { continuation, prediction }) => sum + repeatedShare(continuation, prediction), 0) /
  refinements.length;
const prose = [...text.encodeText(readFileSync(path.join(root, 'scripts/truth-text.txt'), 'utf8'))];
const piece = (index) => prose.slice(index * 100, (index + 1) * 100);
const unlike = Array.from({ length: 8 }, (_, i) => {
  return { prompt: piece(i), continuation: piece(i + 8), prediction: piece((i + 3) % 8) };
});

console.log(
  `${records.length} recorded refinements repeat ${(100 * share).toFixed(0)} % of their tokens; tokens per second`,
);
const bare = unlike.map((each) => ({ ...each, prediction: [] }));
const widths = values.widths.split(',').map(Number);
for (const part of values.only.split(',')) {
  if (part === 'refinements') for (const width of widths) compare('refinements', refinements, { width });
  if (part === 'prose') for (const width of widths) compare('prose, predicted by other prose', unlike, { width });
  if (part === 'bare') for (const width of widths) compare('prose, nothing predicted', bare, { width });
  if (part !== 'own') continue;
  const [drafted, plain] = compare("the model's own greedy refinements", refinements, { width: 1, isReplayed: false });
  const equal = drafted.filter((tokens, index) => `${tokens}` === `${plain[index]}`).length;
  console.log(`  ${equal} of ${drafted.length} texts are the same with and without drafts`);
}
model.dispose();
