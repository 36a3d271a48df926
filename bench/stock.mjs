// Decode steps of the same lane graph, same weights, same cache length, two ways: our runtime (cache bound in place) and a
// plain `session.run()` loop of onnxruntime-node, which copies every output, the cache included, on each run.
// Each measurement is a process of its own: node bench/stock.mjs SIDE MODEL_DIR LANES STEPS CACHE_LENGTH PROMPT -> one JSON line
import { spawnSync } from 'node:child_process';
import { linkSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { root } from './servers.mjs';

const dist = (file) => import(pathToFileURL(path.join(root, 'dist', file)).href);

/** @returns tokens per second of `lanes` sequences decoded together */
export function measureDecode(side, { modelDir, lanes, steps, cacheLength, prompt }) {
  const args = [fileURLToPath(import.meta.url), side, modelDir, lanes, steps, cacheLength, prompt].map(String);
  const done = spawnSync(process.execPath, args, { encoding: 'utf8', maxBuffer: 1 << 26 });
  if (done.status !== 0) throw new Error(`${side} with ${lanes} lanes ended with ${done.status}:\n${done.stderr}`);
  return JSON.parse(done.stdout.trim().split('\n').at(-1)).tokensPerSecond;
}

async function ours({ modelDir, lanes, steps, cacheLength, prompt }) {
  const { loadCausalLM } = await dist('models/load-causal-lm.js');
  const model = loadCausalLM({
    dir: modelDir,
    numSlots: lanes,
    maxLength: cacheLength,
    maxLanes: lanes,
    maxBatchedTokens: Math.max(prompt, lanes),
    threads: availableParallelism(),
    device: 'cpu',
  });
  const tokens = Array.from({ length: prompt }, (_, index) => 100 + index);
  for (let slot = 0; slot < lanes; slot++) model.forward([{ slot, past: 0, tokens, logitRows: [prompt - 1] }]);
  const step = (past) =>
    model.forward(Array.from({ length: lanes }, (_, slot) => ({ slot, past, tokens: [100 + slot], logitRows: [0] })));
  for (let index = 0; index < 3; index++) step(prompt + index);
  const started = performance.now();
  for (let index = 0; index < steps; index++) step(prompt + 3 + index);
  const elapsed = performance.now() - started;
  model.dispose();
  return elapsed;
}

async function stock({ modelDir, lanes, steps, cacheLength, prompt }) {
  const { InferenceSession, Tensor } = await import('onnxruntime-node');
  const [{ buildLaneGraph }, { readManifest, WEIGHTS_FILE }, { laneNames, qkvWidth }, { ropeTables }] =
    await Promise.all([
      dist('models/build-lane-graph.js'),
      dist('models/prepared-model.js'),
      dist('models/lane-graph.js'),
      dist('models/rope.js'),
    ]);
  const manifest = readManifest(modelDir);
  const { config } = manifest;
  const folder = mkdtempSync(path.join(path.dirname(path.resolve(modelDir)), 'stock-'));
  try {
    const stored = new Map(manifest.tensors.map((tensor) => [tensor.name, tensor]));
    const graph = buildLaneGraph({ config, numLanes: lanes, format: manifest.weights });
    const locate = (name) => ({
      file: WEIGHTS_FILE,
      offset: stored.get(name).offset,
      byteLength: stored.get(name).byteLength,
    });
    writeFileSync(path.join(folder, 'graph.onnx'), graph.finish(locate));
    // a hard link: ONNX Runtime refuses external data that a symbolic link leads out of the graph's folder
    linkSync(path.join(modelDir, WEIGHTS_FILE), path.join(folder, WEIGHTS_FILE));
    const session = await InferenceSession.create(path.join(folder, 'graph.onnx'), {
      intraOpNumThreads: availableParallelism(),
      graphOptimizationLevel: 'all',
    });
    const rope = ropeTables(config, cacheLength);
    const rotary = [cacheLength, config.headDim / 2];
    const feeds = {
      [laneNames.cosCache]: new Tensor('float32', rope.cos, rotary),
      [laneNames.sinCache]: new Tensor('float32', rope.sin, rotary),
      [laneNames.inputIds]: new Tensor(
        'int32',
        Int32Array.from({ length: lanes }, (_, lane) => 100 + lane),
        [1, lanes],
      ),
      [laneNames.logitRows]: new Tensor(
        'int64',
        BigInt64Array.from({ length: lanes }, (_, lane) => BigInt(lane)),
        [lanes],
      ),
    };
    if (lanes > 1) {
      feeds[laneNames.laneLengths] = new Tensor('int64', new BigInt64Array(lanes).fill(1n), [lanes]);
      feeds[laneNames.packedLengths] = new Tensor('int64', BigInt64Array.of(BigInt(lanes), 0n), [2]); // no spare lane
      feeds[laneNames.spareRows] = new Tensor('float32', new Float32Array(0), [1, 0, qkvWidth(config)]);
    }
    const shape = [1, config.numKeyValueHeads, cacheLength, config.headDim];
    const size = shape.reduce((a, b) => a * b);
    const caches = [];
    for (let lane = 0; lane < lanes; lane++) {
      for (let layer = 0; layer < config.numHiddenLayers; layer++) {
        for (const part of ['key', 'value']) {
          caches.push([laneNames.past(lane, layer, part), laneNames.present(lane, layer, part)]);
          feeds[laneNames.past(lane, layer, part)] = new Tensor('float32', new Float32Array(size), shape);
        }
      }
    }
    const step = async (past) => {
      for (let lane = 0; lane < lanes; lane++) {
        feeds[laneNames.seqlens(lane)] = new Tensor('int32', Int32Array.of(past), [1]);
        feeds[laneNames.totalLength(lane)] = new Tensor('int32', Int32Array.of(past + 1), [1]);
      }
      const results = await session.run(feeds);
      for (const [input, output] of caches) feeds[input] = results[output];
    };
    for (let index = 0; index < 2; index++) await step(prompt + index);
    const started = performance.now();
    for (let index = 0; index < steps; index++) await step(prompt + 2 + index);
    return performance.now() - started;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [side, modelDir, ...numbers] = process.argv.slice(2);
  const [lanes, steps, cacheLength, prompt] = numbers.map(Number);
  const elapsed = await (side === 'ours' ? ours : stock)({ modelDir, lanes, steps, cacheLength, prompt });
  console.log(JSON.stringify({ tokensPerSecond: (lanes * steps * 1000) / elapsed }));
}
