// npm run bench [-- --rounds N] [-- --only stock,llama,service,reuse,drafts,score,sampler,loop] : every figure of the engine that the documentation quotes, in one run.
// Needs a quiet machine. llama.cpp joins when its build folder is named: STV_LLAMA_DIR (scripts/build-llama-server.sh).
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { availableParallelism, cpus, homedir, loadavg } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { benchLlama } from './llama.mjs';
import { benchReuse } from './reuse.mjs';
import { root } from './servers.mjs';
import { benchService } from './service.mjs';
import { measureDecode } from './stock.mjs';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: 'stock,llama,service,reuse,drafts,score,sampler,loop' },
  },
});
const sections = new Set(values.only.split(','));
const dataDir = process.env.STV_DATA_DIR ?? path.join(homedir(), '.cache/stv-ci/data');
process.env.STV_DATA_DIR = dataDir;
const log = (line) => console.log(line);

/** Folder of the prepared weights of SmolLM2-135M, fetched and converted where it is not there yet. */
function preparedModel() {
  const main = path.join(root, 'dist/cli/main.js');
  const done = spawnSync(process.execPath, [main, 'pull', 'smollm2', '--weights', 'int8'], { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`stv pull smollm2 ended with ${done.status}:\n${done.stderr}`);
  return done.stdout.trim().split('\n').at(-1).trim();
}

/** Every file below a folder whose name ends so. */
function filesBelow(folder, ending) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => path.join(entry.parentPath, entry.name));
}

/** llama.cpp's fast formats of the GGUF that the pack smollm2 was converted from, made once. */
function requantized(llamaDir) {
  const target = path.join(dataDir, 'bench');
  mkdirSync(target, { recursive: true });
  const [source] = filesBelow(path.join(dataDir, 'sources'), 'SmolLM2-135M-Instruct.Q4_1.gguf');
  for (const format of ['Q8_0', 'Q4_0']) {
    const file = path.join(target, `SmolLM2-135M-Instruct.${format}.gguf`);
    if (existsSync(file)) continue;
    const done = spawnSync(path.join(llamaDir, 'llama-quantize'), ['--allow-requantize', source, file, format]);
    if (done.status !== 0) throw new Error(`llama-quantize to ${format} ended with ${done.status}`);
  }
  return target;
}

log(
  `${new Date().toISOString().slice(0, 10)}, ${cpus()[0].model}, ${availableParallelism()} cores, Node ${process.version}, load before ${loadavg()[0].toFixed(2)}`,
);
const modelDir = preparedModel();

if (sections.has('stock')) {
  log('\nSame graph, same weights, cache of 1024 tokens: our runtime / session.run() of onnxruntime-node');
  for (const lanes of [1, 8, 16]) {
    const shape = { modelDir, lanes, cacheLength: 1024, prompt: 128 };
    const ours = measureDecode('ours', { ...shape, steps: 60 });
    const stock = measureDecode('stock', { ...shape, steps: 5 });
    log(
      `decode ${String(lanes).padStart(2)}: ${ours.toFixed(0)} / ${stock.toFixed(1)} tokens per second = ${(ours / stock).toFixed(1)}x`,
    );
  }
}

const llamaDir = process.env.STV_LLAMA_DIR;
const hasLlama = llamaDir !== undefined;
if (!hasLlama && (sections.has('llama') || sections.has('loop')))
  log('\nllama.cpp and the loop beside it left out: STV_LLAMA_DIR is not set.');

if (hasLlama && sections.has('llama')) {
  log('\nThrough HTTP on both sides, same weights, prompts of about 100 tokens (decode) and 900 (prefill)');
  await benchLlama({ llamaDir, ggufDir: requantized(llamaDir), rounds: Number(values.rounds), stvArgs: [], log });
}

if (sections.has('service')) {
  log('\nThe service');
  await benchService({ stvArgs: [], log });
}

if (sections.has('reuse')) {
  log('\nPrompts that were read before, and long ones');
  await benchReuse({ stvArgs: [], log });
}

/** One of the benchmarks that are programs of their own; what it prints goes where this one's does. */
function program(file, args, env = {}) {
  const done = spawnSync(process.execPath, [path.join(root, 'bench', file), ...args], {
    stdio: 'inherit',
    env: { ...process.env, ...env },
  });
  if (done.status !== 0) throw new Error(`${file} ended with ${done.status}`);
}

const ofModel = { drafts: 'drafting.mjs', score: 'score.mjs', sampler: 'sampler.mjs' };
for (const [section, file] of Object.entries(ofModel)) {
  if (!sections.has(section)) continue;
  log(`\n${file}`);
  program(file, [modelDir]);
}

if (hasLlama && sections.has('loop')) {
  log('\nThe loop, beside a client on llama-server');
  const gguf = path.join(requantized(llamaDir), 'SmolLM2-135M-Instruct.Q8_0.gguf');
  program('loop.mjs', ['--gguf', gguf], { STV_LLAMA_SERVER: path.join(llamaDir, 'llama-server') });
}
